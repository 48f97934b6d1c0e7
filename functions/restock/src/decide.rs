//! The decision on restock requests: requests and what the database said of them in, answers and changes out.
//!
//! Pure: no clock, no I/O; "now" is the database's. Invariants: requests are decided in the order given; deciding a
//! batch is deciding its requests one by one; and one request id gets one verdict.

use crate::item::{Item, Outcome, apply};
use shared::handler::Answer;
use shared::messages::{Code, EventKind, Rejection, Request, RestockRequest, Verdict};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use time::OffsetDateTime;
use uuid::Uuid;

/// What the database said.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The moment, by the database's clock.
    pub now: OffsetDateTime,
    /// The items that were asked about and exist, by id.
    pub items: HashMap<String, Item>,
    /// The verdicts recorded for the request ids that were asked about.
    pub recorded: HashMap<String, Recorded>,
}

/// A verdict on record, or about to be.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Of the request's content.
    pub fingerprint: Uuid,
    /// The reply as it was sent.
    pub reply: String,
}

/// A decided batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// One answer for each request, in order.
    pub answers: Vec<Answer>,
    /// The items to insert, as they are after the batch, by id.
    pub created: BTreeMap<String, Item>,
    /// The items to update, as they are after the batch, by id.
    pub changed: BTreeMap<String, Item>,
    /// What to tell, in order: the item as each operation left it.
    pub events: Vec<(EventKind, Item)>,
    /// The verdicts to record, by request id.
    pub verdicts: BTreeMap<String, Decision>,
}

/// A new verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The item's id.
    pub item: String,
    /// How it ends.
    pub code: Code,
    /// Of the request's content.
    pub fingerprint: Uuid,
    /// The reply to send and to record.
    pub reply: String,
}

/// Decides `requests` in order.
///
/// # Errors
/// The items whose orders must be counted before: nothing can be decided until they are.
pub fn decide(requests: &[RestockRequest], mut snapshot: Snapshot) -> Result<Plan, BTreeSet<String>> {
    let mut plan = Plan::default();
    let mut uncounted = BTreeSet::new();
    for request in requests {
        let fingerprint = request.fingerprint();
        let answer = match snapshot.recorded.get(&request.request_id) {
            Some(recorded) if recorded.fingerprint == fingerprint => Answer::Verdict(recorded.reply.clone()),
            Some(_) => Answer::Rejected(Rejection::reused(&request.request_id)),
            None => {
                let item = snapshot.items.get(&request.item);
                let version = item.map(|item| item.version);
                let decided = match apply(&request.operation, &request.item, item, snapshot.now) {
                    Outcome::Done(item, code, kind, message) => {
                        keep(item, kind, &mut snapshot, &mut plan);
                        Ok((code, message))
                    }
                    Outcome::Refused(code, message) => Ok((code, message)),
                    Outcome::Invalid(message) => Err(Rejection::new(Code::InvalidField, message)),
                    Outcome::Uncounted => {
                        uncounted.insert(request.item.clone());
                        continue;
                    }
                };
                match decided {
                    Ok((code, message)) => {
                        let reply = reply(request, code, message, version, snapshot.now);
                        let recorded = Recorded { fingerprint, reply: reply.clone() };
                        snapshot.recorded.insert(request.request_id.clone(), recorded);
                        let item = request.item.clone();
                        let decision = Decision { item, code, fingerprint, reply: reply.clone() };
                        plan.verdicts.insert(request.request_id.clone(), decision);
                        Answer::Verdict(reply)
                    }
                    Err(rejection) => Answer::Rejected(rejection.of(&request.request_id)),
                }
            }
        };
        plan.answers.push(answer);
    }
    if uncounted.is_empty() { Ok(plan) } else { Err(uncounted) }
}

/// Has the item be this from now on: for the requests that follow, and in the database.
fn keep(item: Item, kind: EventKind, snapshot: &mut Snapshot, plan: &mut Plan) {
    let id = item.id.clone();
    let is_new = !snapshot.items.contains_key(&id) || plan.created.contains_key(&id);
    let written = if is_new { &mut plan.created } else { &mut plan.changed };
    written.insert(id.clone(), item.clone());
    plan.events.push((kind, item.clone()));
    snapshot.items.insert(id, item);
}

fn reply(
    request: &RestockRequest,
    code: Code,
    message: String,
    item_version: Option<i64>,
    now: OffsetDateTime,
) -> String {
    let verdict = Verdict {
        request_id: Some(request.request_id.clone()),
        status: code.status(),
        code,
        message,
        order: None,
        item_version,
        decided_at: Some(now),
    };
    serde_json::to_string(&verdict).expect("a verdict is representable as JSON")
}

#[cfg(test)]
mod tests;
