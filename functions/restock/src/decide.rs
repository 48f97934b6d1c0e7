//! The decision on restock requests, pure: requests and what the database said of them in, answers and changes out.
//!
//! Invariant: deciding a batch is deciding its requests one by one, in order.

use crate::item::{Item, Outcome, apply};
use shared::handler::Answer;
use shared::idempotency::Verdicts;
use shared::messages::{Code, EventKind, Rejection, RestockRequest, Verdict};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A decided batch.
#[derive(Debug, Default)]
pub struct Plan {
    /// One answer for each request, in order.
    pub answers: Vec<Answer>,
    /// The items to insert, as they are after the batch, by id.
    pub created: BTreeMap<String, Item>,
    /// The items to update, as they are after the batch, by id.
    pub changed: BTreeMap<String, Item>,
    /// What to publish, in order: the item as each operation left it.
    pub events: Vec<(EventKind, Item)>,
}

/// Decides `requests` in order, on the items that they are about and that exist.
///
/// # Errors
/// The items whose orders must be counted before: nothing can be decided until they are.
pub fn decide<'a>(
    requests: &'a [RestockRequest],
    mut items: HashMap<String, Item>,
    verdicts: &mut Verdicts<'a>,
) -> Result<Plan, BTreeSet<String>> {
    let mut plan = Plan::default();
    let mut uncounted = BTreeSet::new();
    for request in requests {
        if let Some(answer) = verdicts.answer(request) {
            plan.answers.push(answer);
            continue;
        }
        let item = items.get(&request.item);
        let item_version = item.map(|item| item.version);
        let (code, message) = match apply(&request.operation, &request.item, item, verdicts.now) {
            Outcome::Done(item, code, kind, message) => {
                plan.keep(item, kind, &mut items);
                (code, message)
            }
            Outcome::Refused(code, message) => (code, message),
            Outcome::Invalid(message) => {
                let rejection = Rejection::new(Code::InvalidField, message).on(request);
                plan.answers.push(Answer::Rejected(rejection));
                continue;
            }
            Outcome::Uncounted => {
                uncounted.insert(request.item.clone());
                continue;
            }
        };
        let verdict = Verdict::decided(&request.request_id, code, message, verdicts.now);
        plan.answers.push(verdicts.add(request, Verdict { item_version, ..verdict }));
    }
    if uncounted.is_empty() { Ok(plan) } else { Err(uncounted) }
}

impl Plan {
    /// Has the item be this from now on: for the requests that follow, and in the database.
    fn keep(&mut self, item: Item, kind: EventKind, items: &mut HashMap<String, Item>) {
        let id = item.id.clone();
        let is_new = !items.contains_key(&id) || self.created.contains_key(&id);
        let written = if is_new { &mut self.created } else { &mut self.changed };
        written.insert(id.clone(), item.clone());
        self.events.push((kind, item.clone()));
        items.insert(id, item);
    }
}

#[cfg(test)]
mod tests;
