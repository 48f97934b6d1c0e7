//! What is compared with what. Pure.

use crate::bench::baseline::BaselineStrategy;
use crate::bench::row::{Contender, Form};
use crate::strategy::Strategy;

/// The rows, in the order in which they are shown: by the number of buyers, the ceiling first, then form by form. What is
/// decided in batches comes in arrays of each of these sizes, too.
pub(crate) fn rows(
    sizes: &[u32],
    forms: &[Form],
    strategies: &[Strategy],
    arrays: &[u32],
    competing: u32,
) -> Vec<Contender> {
    let mut rows = Vec::new();
    for &buyers in sizes {
        rows.push(Contender::new(buyers, Form::Ceiling, None, competing));
        for &form in forms {
            let there = strategies.iter().filter(|strategy| match form {
                Form::Http => BaselineStrategy::of(**strategy).is_some(),
                // What is behind the queue, the door does not know.
                Form::Web => **strategy == Strategy::default(),
                Form::Ceiling | Form::Batched | Form::OneByOne | Form::Competing => true,
            });
            let alone = there.map(|strategy| Contender::new(buyers, form, Some(*strategy), competing));
            let alone: Vec<Contender> = alone.collect();
            let arrays = arrays.iter().filter(|requests| form == Form::Batched && **requests > 1);
            let arrays = arrays.flat_map(|requests| alone.iter().map(|way| way.in_arrays(*requests)));
            rows.extend(alone.iter().cloned().chain(arrays));
        }
    }
    rows
}
