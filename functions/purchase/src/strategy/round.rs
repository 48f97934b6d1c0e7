//! The requests of a batch that are still open, and the answers of those that are not. Pure.
//!
//! Invariant: a request leaves the round once, with its answer; the others keep their order.

use crate::{decide::Decided, store::at_version};
use shared::{handler::Answer, idempotency::Verdicts, messages::PurchaseRequest};
use std::collections::HashMap;

/// How often each item conflicted.
pub(super) type Conflicts = HashMap<String, i64>;

/// A batch under way.
pub(super) struct Round<'a> {
    requests: &'a [PurchaseRequest],
    answers: Vec<Option<Answer>>,
    /// Attempts so far.
    pub(super) attempts: u32,
    pub(super) conflicts: Conflicts,
}

impl<'a> Round<'a> {
    pub(super) fn new(requests: &'a [PurchaseRequest]) -> Self {
        Self { requests, answers: vec![None; requests.len()], attempts: 0, conflicts: Conflicts::new() }
    }

    pub(super) fn is_over(&self) -> bool {
        self.answers.iter().all(Option::is_some)
    }

    /// What is still to be decided, in order.
    pub(super) fn open(&self) -> Vec<&'a PurchaseRequest> {
        let with_answers = self.requests.iter().zip(&self.answers);
        with_answers.filter(|(_, answer)| answer.is_none()).map(|(request, _)| request).collect()
    }

    /// Takes over what an attempt at [`Round::open`] has answered: the rest stays for the next one.
    pub(super) fn take(&mut self, attempt: &mut Attempt<'a>) {
        self.attempts += 1;
        let open = self.answers.iter_mut().filter(|answer| answer.is_none());
        open.zip(attempt.answers.drain(..)).for_each(|(open, answer)| *open = answer);
        for item in &attempt.conflicted {
            *self.conflicts.entry((*item).to_owned()).or_default() += 1;
        }
    }

    /// The answers, in order, where each request has one.
    pub(super) fn into_answers(self) -> Option<Vec<Answer>> {
        self.answers.into_iter().collect()
    }
}

/// What came of one attempt at requests.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    /// Of each request, in order: its answer, where that is committed or was on record.
    pub(super) answers: Vec<Option<Answer>>,
    /// The items on which something was committed.
    pub(super) committed: Vec<&'a str>,
    /// The items on which somebody else was faster.
    pub(super) conflicted: Vec<&'a str>,
    /// Whether somebody else recorded one of the request ids at the same instant: then nothing was committed.
    pub(super) is_id_contended: bool,
}

impl<'a> Attempt<'a> {
    pub(super) fn of_contended_id(requests: usize) -> Self {
        let answers = vec![None; requests];
        Self { answers, committed: Vec::new(), conflicted: Vec::new(), is_id_contended: true }
    }

    /// What holds of a decided batch: what was on record before, what rests on no item's row, and what rests on one that was
    /// `committed`, for the version that the row had. Copies of a request share what becomes of the first.
    pub(super) fn of(
        requests: &[&'a PurchaseRequest],
        decided: Decided<'a, '_>,
        verdicts: &Verdicts<'a>,
        committed: &HashMap<&'a str, i64>,
    ) -> Self {
        let changes = &decided.changes;
        let held = |request: &PurchaseRequest, answer: Answer| {
            let item = verdicts.added(&request.request_id).and_then(|new| new.item);
            let Some((item, change)) = item.and_then(|item| changes.get_key_value(item)) else { return Some(answer) };
            let version = *committed.get(item)?;
            Some(match answer {
                Answer::Verdict(reply) if version != change.item.version => {
                    Answer::Verdict(at_version(&reply, version))
                }
                Answer::Verdict(_) | Answer::Rejected(_) | Answer::Requeue => answer,
            })
        };
        let answers = requests.iter().zip(decided.answers).map(|(request, answer)| held(request, answer)).collect();
        let (committed, conflicted) = changes.keys().copied().partition(|item| committed.contains_key(item));
        Self { answers, committed, conflicted, is_id_contended: false }
    }
}
