//! One verdict per request id: which requests of a batch are answered already, and which verdicts the batch adds. Pure;
//! [`store`] reads and records them.
//!
//! Invariant: a request whose id is on record, in the database or by an earlier request of the same batch, is never decided
//! again. The same content gets the recorded bytes; other content is `request_id_reused`.

pub mod store;

use crate::{
    handler::Answer,
    messages::{Rejection, Request, Status, Verdict},
};
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// A verdict on record.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Recorded {
    pub fingerprint: Uuid,
    /// The reply as it was sent.
    pub reply: String,
}

/// A verdict that a batch adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVerdict<'a> {
    pub request_id: &'a str,
    /// The item that it is about, where the request names one.
    pub item: Option<&'a str>,
    pub status: Status,
    /// The fingerprint of the request, and the reply to send.
    pub recorded: Recorded,
}

/// The verdicts that concern a batch.
#[derive(Debug, Clone)]
pub struct Verdicts<'a> {
    /// The moment of the batch, by the database's clock.
    pub now: OffsetDateTime,
    /// What is on record of the batch's request ids.
    recorded: HashMap<String, Recorded>,
    new: Vec<NewVerdict<'a>>,
    /// The place of each request id in `new`.
    places: HashMap<&'a str, usize>,
}

impl<'a> Verdicts<'a> {
    pub fn at(now: OffsetDateTime, recorded: HashMap<String, Recorded>) -> Self {
        Self { now, recorded, new: Vec::new(), places: HashMap::new() }
    }

    /// The answer to a request whose id has a verdict; `None`: it is to be decided.
    pub fn answer(&self, request: &impl Request) -> Option<Answer> {
        let id = request.request_id();
        let recorded = match self.added(id) {
            Some(new) => &new.recorded,
            None => self.recorded.get(id)?,
        };
        Some(if recorded.fingerprint == request.fingerprint() {
            Answer::Verdict(recorded.reply.clone())
        } else {
            Answer::Rejected(Rejection::reused(id))
        })
    }

    /// Adds the verdict of a request that has none, for an item where the request names one, and answers with it.
    pub fn add(&mut self, request: &'a impl Request, item: Option<&'a str>, verdict: &Verdict) -> Answer {
        let reply = serde_json::to_string(verdict).expect("a verdict is representable as JSON");
        let recorded = Recorded { fingerprint: request.fingerprint(), reply: reply.clone() };
        let request_id = request.request_id();
        self.places.insert(request_id, self.new.len());
        self.new.push(NewVerdict { request_id, item, status: verdict.status, recorded });
        Answer::Verdict(reply)
    }

    /// What the batch adds for this request id.
    pub fn added(&self, request_id: &str) -> Option<&NewVerdict<'a>> {
        self.places.get(request_id).map(|place| &self.new[*place])
    }

    /// What the batch adds, in its order.
    pub fn all_added(&self) -> &[NewVerdict<'a>] {
        &self.new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{Code, ReleaseRequest};

    fn request(id: &str, order: u128) -> ReleaseRequest {
        ReleaseRequest { request_id: id.to_owned(), order_id: Uuid::from_u128(order) }
    }

    #[test]
    fn an_id_has_one_verdict_whether_it_is_on_record_or_new_in_the_batch() {
        let (old, new) = (request("old", 1), request("new", 1));
        let recorded = Recorded { fingerprint: old.fingerprint(), reply: "as it was sent".to_owned() };
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut verdicts = Verdicts::at(now, HashMap::from([("old".to_owned(), recorded)]));
        assert_eq!(verdicts.answer(&new), None, "it is to be decided");
        let verdict = Verdict::decided("new", Code::UnknownOrder, "There is none.", now);
        let first = verdicts.add(&new, None, &verdict);
        for (again, expected) in [
            (request("old", 1), Answer::Verdict("as it was sent".to_owned())),
            (request("old", 2), Answer::Rejected(Rejection::reused("old"))),
            (request("new", 1), first),
            (request("new", 2), Answer::Rejected(Rejection::reused("new"))),
        ] {
            assert_eq!(verdicts.answer(&again), Some(expected), "{again:?}");
        }
        assert_eq!(verdicts.all_added().len(), 1);
        assert_eq!(verdicts.added("new").map(|new| new.status), Some(verdict.status));
        assert_eq!(verdicts.added("old"), None);
    }
}
