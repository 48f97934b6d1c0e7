//! What is compared with what, and in which order it is run. Pure.
//!
//! Invariant: every row is run once in each round, so that whatever comes and goes on the machine, or grows, from round to
//! round touches all of them; and one round goes forward, the next one back, so that within a round nobody is always first.

use super::report::Form;
use crate::bench::baseline::BaselineStrategy;
use crate::strategy::Strategy;

/// A way to sell to so many buyers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contender {
    /// How many come.
    pub(crate) buyers: u32,
    /// How requests arrive and are decided.
    pub(crate) form: Form,
    /// How stock is kept; `None` for the ceiling.
    pub(crate) strategy: Option<Strategy>,
}

impl Contender {
    /// For people.
    pub(super) fn name(&self) -> String {
        match self.strategy {
            None => self.form.words().to_owned(),
            Some(strategy) => format!("{}, {}", strategy.as_str(), self.form.words()),
        }
    }

    /// Whether it promises that nobody is preferred to who came before. Who decides many requests at once, each by itself,
    /// gives that up, and so does who has many connections to answer.
    pub(super) fn keeps_order(&self) -> bool {
        match self.form {
            Form::Ceiling | Form::Batched | Form::OneByOne => true,
            Form::Competing | Form::Http => false,
        }
    }

    /// The batch limit that its workers are given; `None` leaves them their own.
    pub(super) fn batch_max(&self) -> Option<u32> {
        match self.form {
            Form::OneByOne => Some(1),
            Form::Ceiling | Form::Batched | Form::Competing | Form::Http => None,
        }
    }

    /// Requests that a worker decides at once, each by itself, where so many compete; `None` where batches are decided, or
    /// connections are what limits them.
    pub(super) fn in_flight(&self, competing: u32) -> Option<u32> {
        match self.form {
            Form::OneByOne => Some(1),
            Form::Competing => Some(competing),
            Form::Ceiling | Form::Batched | Form::Http => None,
        }
    }
}

/// The rows, in the order in which they are shown: by the number of buyers, the ceiling first, then form by form.
pub(crate) fn rows(sizes: &[u32], forms: &[Form], strategies: &[Strategy]) -> Vec<Contender> {
    let of_size = |buyers: u32| {
        let ceiling = Contender { buyers, form: Form::Ceiling, strategy: None };
        let with = move |form: Form| {
            let strategies = strategies.iter().filter(move |strategy| form != Form::Http || door(**strategy).is_some());
            strategies.map(move |strategy| Contender { buyers, form, strategy: Some(*strategy) })
        };
        std::iter::once(ceiling).chain(forms.iter().copied().flat_map(with))
    };
    sizes.iter().copied().flat_map(of_size).collect()
}

/// The HTTP server with this strategy, where there is one.
pub(super) fn door(strategy: Strategy) -> Option<BaselineStrategy> {
    match strategy {
        Strategy::Optimistic => Some(BaselineStrategy::Optimistic),
        Strategy::Pessimistic => Some(BaselineStrategy::Pessimistic),
        Strategy::Atomic => Some(BaselineStrategy::Atomic),
        Strategy::Redis => None,
    }
}

/// In which order so many rows are run: (repetition, from 1 on; index of the row).
pub(super) fn turns(rows: usize, repetitions: u32) -> Vec<(u32, usize)> {
    let round = |repetition: u32| {
        let forward = repetition % 2 == 1;
        (0..rows).map(move |place| (repetition, if forward { place } else { rows - 1 - place }))
    };
    (1..=repetitions).flat_map(round).collect()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn of_each_number_of_buyers_the_ceiling_comes_first_and_then_each_form_with_each_strategy() {
        let forms = [Form::Batched, Form::OneByOne];
        let rows = rows(&[10, 20], &forms, &[Strategy::Optimistic, Strategy::Atomic]);
        let names: Vec<(u32, String)> = rows.iter().map(|row| (row.buyers, row.name())).collect();
        let of_ten =
            ["ceiling", "optimistic, batched", "atomic, batched", "optimistic, one by one", "atomic, one by one"];
        assert_eq!(names.len(), 10);
        for (index, name) in of_ten.into_iter().enumerate() {
            assert_eq!((&names[index], &names[index + 5]), (&(10, name.to_owned()), &(20, name.to_owned())));
        }
    }

    #[test]
    fn everything_is_there_unless_it_is_left_out() {
        let all = rows(&[10], Form::value_variants(), Strategy::value_variants());
        let doors = Strategy::value_variants().iter().filter(|strategy| door(**strategy).is_some()).count();
        assert_eq!((all.len(), doors), (1 + 3 * Strategy::value_variants().len() + doors, 3));
        assert_eq!(rows(&[10], &[], &[]).len(), 1);
    }

    #[test]
    fn every_row_has_its_turn_in_each_round_forward_and_back() {
        assert_eq!(turns(3, 3), [(1, 0), (1, 1), (1, 2), (2, 2), (2, 1), (2, 0), (3, 0), (3, 1), (3, 2)]);
        assert_eq!(turns(3, 0), []);
    }
}
