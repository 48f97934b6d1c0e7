//! The requests of a batch that are still to be decided, and the answers of those that are. Pure.
//!
//! Invariant: a request leaves the round once, with its answer; the others keep their order.

use super::{Attempt, Conflicts};
use shared::{handler::Answer, messages::PurchaseRequest};

/// A batch under way.
pub(super) struct Round<'a> {
    requests: &'a [PurchaseRequest],
    /// Places in `requests`, in order.
    left: Vec<usize>,
    answers: Vec<Option<Answer>>,
    /// Attempts so far.
    pub(super) attempts: u32,
    /// How often each item was decided in vain.
    pub(super) conflicts: Conflicts,
}

impl<'a> Round<'a> {
    pub(super) fn new(requests: &'a [PurchaseRequest]) -> Self {
        Self {
            requests,
            left: (0..requests.len()).collect(),
            answers: vec![None; requests.len()],
            attempts: 0,
            conflicts: Conflicts::new(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.left.is_empty()
    }

    /// What is still to be decided, in order.
    pub(super) fn requests_left(&self) -> Vec<&'a PurchaseRequest> {
        self.left.iter().map(|place| &self.requests[*place]).collect()
    }

    /// Takes over what an attempt at [`Round::requests_left`] has answered: the rest stays for the next one.
    pub(super) fn take(&mut self, attempt: &mut Attempt<'a>) {
        self.attempts += 1;
        let places = std::mem::take(&mut self.left);
        for (place, answer) in places.into_iter().zip(std::mem::take(&mut attempt.answers)) {
            match answer {
                Some(answer) => self.answers[place] = Some(answer),
                None => self.left.push(place),
            }
        }
        for item in &attempt.overtaken {
            *self.conflicts.entry((*item).to_owned()).or_default() += 1;
        }
    }

    /// The answers, in order.
    pub(super) fn answers(self) -> Vec<Answer> {
        self.answers.into_iter().map(|answer| answer.expect("the round is over, so each has its answer")).collect()
    }
}
