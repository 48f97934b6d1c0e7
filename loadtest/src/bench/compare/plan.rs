//! What is compared with what. Pure.

use std::iter;

use crate::bench::baseline::BaselineStrategy;
use crate::bench::row::{Contender, Form};
use crate::strategy::Strategy;

/// The rows, in the order in which they are shown: by the number of buyers, the ceiling first, then form by form.
pub(crate) fn rows(sizes: &[u32], forms: &[Form], strategies: &[Strategy], competing: u32) -> Vec<Contender> {
    let all = forms.iter().flat_map(|form| strategies.iter().map(|strategy| (*form, *strategy)));
    let ways: Vec<(Form, Strategy)> =
        all.filter(|(form, strategy)| *form != Form::Http || BaselineStrategy::of(*strategy).is_some()).collect();
    let of_size = |&buyers: &u32| {
        let ways = ways.iter().map(move |(form, strategy)| Contender::new(buyers, *form, Some(*strategy), competing));
        iter::once(Contender::new(buyers, Form::Ceiling, None, competing)).chain(ways)
    };
    sizes.iter().flat_map(of_size).collect()
}
