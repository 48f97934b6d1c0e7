//! One verdict per request id: which requests of a batch are answered already, and which verdicts the batch adds. Pure;
//! [`store`] reads and records them.
//!
//! Invariant: a request whose id is on record, in the database or by an earlier request of the same batch, is never decided
//! again. The same content gets the recorded bytes; other content is `request_id_reused`.
//!
//! A purchase's deadline is no part of its content, but versions up to 0.2 have it in the fingerprints that they record and go
//! by. So that old workers and new ones know each other's verdicts, a fingerprint is recorded as they make it, and the one
//! without the deadline beside it. Of what they recorded themselves, perhaps with a deadline, which nobody knows, a request
//! is a repeat where nothing that is known differs: its item, and where units were reserved, buyer and quantity.

pub mod store;

use crate::{
    handler::Answer,
    messages::{About, Identity, Rejection, Status, Verdict},
};
use std::collections::HashMap;
use time::OffsetDateTime;
use uuid::Uuid;

/// A verdict on record.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Recorded {
    /// As versions up to 0.2 make it.
    pub fingerprint: Uuid,
    /// The fingerprint without the deadline, where that is another. [`Uuid::nil`]: one of those versions recorded it.
    pub content: Option<Uuid>,
    /// The item that it is about, where it names one; who has the order, where that was asked.
    pub item: Option<String>,
    #[sqlx(default)]
    pub buyer: Option<String>,
    /// The reply as it was sent.
    pub reply: String,
}

/// A verdict that a batch adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVerdict<'a> {
    pub request_id: &'a str,
    /// What it will be known to be about: only who has an order is on record.
    pub about: About<'a>,
    pub status: Status,
    /// The fingerprints of the request, and the reply to send.
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
    pub fn answer(&self, request: &impl Identity) -> Option<Answer> {
        let id = request.request_id();
        let added = self.added(id);
        let recorded = match added {
            Some(new) => &new.recorded,
            None => self.recorded.get(id)?,
        };
        if recorded.is_of(request) {
            return Some(Answer::Verdict(recorded.reply.clone()));
        }
        let verdict: Option<Verdict> = serde_json::from_str(&recorded.reply).ok();
        let differing = request.about().differing(&match (added, &verdict) {
            (Some(new), _) => new.about,
            (None, verdict) => recorded.about(verdict.as_ref()),
        });
        let is_purchase = verdict.is_some_and(|verdict| match verdict.status {
            Status::Reserved | Status::SoldOut | Status::Refused => request.about().buyer.is_some(),
            Status::Done | Status::Invalid => false,
        });
        let may_be_of_another_deadline = recorded.content == Some(Uuid::nil()) && recorded.item.is_some();
        Some(if may_be_of_another_deadline && is_purchase && differing.is_empty() {
            Answer::Verdict(recorded.reply.clone())
        } else {
            Answer::Rejected(Rejection::reused(id, &differing))
        })
    }

    /// Adds the verdict of a request that has none, and answers with it.
    pub fn add(&mut self, request: &'a impl Identity, verdict: &Verdict) -> Answer {
        let reply = serde_json::to_string(verdict).expect("a verdict is representable as JSON");
        let content = request.fingerprint();
        let (fingerprint, content) = match request.fingerprint_with_deadline() {
            Some(fingerprint) => (fingerprint, Some(content)),
            None => (content, None),
        };
        let recorded = Recorded { fingerprint, content, reply: reply.clone(), ..Recorded::default() };
        let (request_id, about) = (request.request_id(), request.about());
        let about = if verdict.order.is_some() { about } else { About { item: about.item, ..About::default() } };
        self.places.insert(request_id, self.new.len());
        self.new.push(NewVerdict { request_id, about, status: verdict.status, recorded });
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

impl Recorded {
    /// Whether it is the request's own, as far as fingerprints tell.
    pub fn is_of(&self, request: &impl Identity) -> bool {
        let content = request.fingerprint();
        self.fingerprint == content
            || self.content == Some(content)
            || request.fingerprint_with_deadline() == Some(self.fingerprint)
    }

    fn about(&self, verdict: Option<&Verdict>) -> About<'_> {
        let order = verdict.and_then(|verdict| verdict.order.as_ref());
        let quantity = order.map(|order| order.quantity);
        About { item: self.item.as_deref(), buyer: self.buyer.as_deref(), quantity }
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
        let (fingerprint, reply) = (old.fingerprint(), "as it was sent".to_owned());
        let recorded = Recorded { fingerprint, reply, ..Recorded::default() };
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut verdicts = Verdicts::at(now, HashMap::from([("old".to_owned(), recorded)]));
        assert_eq!(verdicts.answer(&new), None, "it is to be decided");
        let verdict = Verdict::decided("new", Code::UnknownOrder, "There is none.", now);
        let first = verdicts.add(&new, &verdict);
        for (again, expected) in [
            (request("old", 1), Answer::Verdict("as it was sent".to_owned())),
            (request("old", 2), Answer::Rejected(Rejection::reused("old", &[]))),
            (request("new", 1), first),
            (request("new", 2), Answer::Rejected(Rejection::reused("new", &[]))),
        ] {
            assert_eq!(verdicts.answer(&again), Some(expected), "{again:?}");
        }
        assert_eq!(verdicts.all_added().len(), 1);
        assert_eq!(verdicts.added("new").map(|new| new.status), Some(verdict.status));
        assert_eq!(verdicts.added("old"), None);
    }
}
