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
//!
//! An id is its sender's own. Whoever uses it first has their verdict under the id itself, where versions up to 0.2 find it,
//! too; another sender has theirs under [`Identity::own_key`]. Both are looked for, always: who was first may be past their time. Who has
//! no sender has nothing but the id itself, so to them an id that a sender has used is a reused one. What those versions
//! recorded is anybody's.

pub mod store;

use crate::handler::Answer;
use crate::messages::{About, Identity, Rejection, Status, Verdict};
use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::iter;
use time::OffsetDateTime;
use uuid::Uuid;

/// A verdict on record.
#[derive(Debug, Clone, Default, PartialEq, Eq, sqlx_macros::FromRow)]
pub struct Recorded {
    /// As versions up to 0.2 make it.
    pub fingerprint: Uuid,
    /// The fingerprint without the deadline, where that is another. [`Uuid::nil`]: one of those versions recorded it.
    pub content: Option<Uuid>,
    /// "": one of those versions recorded it.
    pub sender: Option<String>,
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
    pub sender: Option<&'a str>,
    /// Under which it is recorded.
    pub key: Cow<'a, str>,
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
    /// What is on record of the batch's request ids, by key.
    recorded: HashMap<String, Recorded>,
    new: Vec<NewVerdict<'a>>,
    /// The place in `new` where each request id is first.
    places: HashMap<&'a str, usize>,
}

/// The keys under which a request's verdict may be on record.
pub fn keys(request: &impl Identity) -> impl Iterator<Item = Cow<'_, str>> {
    let own = request.sender().map(|_| request.own_key());
    iter::once(Cow::Borrowed(request.request_id())).chain(own)
}

impl<'a> Verdicts<'a> {
    pub fn at(now: OffsetDateTime, recorded: HashMap<String, Recorded>) -> Self {
        Self { now, recorded, new: Vec::new(), places: HashMap::new() }
    }

    /// The answer to a request whose id has a verdict; `None`: it is to be decided.
    pub fn answer(&self, request: &impl Identity) -> Option<Answer> {
        let added = self.added(request);
        let (recorded, sender) = match added {
            Some(new) => (&new.recorded, new.sender),
            None => self.on_record(request).map(|(_, recorded)| (recorded, recorded.sender.as_deref()))?,
        };
        // Of another's, nothing is said.
        if !request.is_by(sender) {
            return Some(Answer::Rejected(Rejection::reused(request, &["sender"])));
        }
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
            Answer::Rejected(Rejection::reused(request, &differing))
        })
    }

    /// What is on record of a request's id, and its key; another sender's only where this one could have none of their own.
    fn on_record(&self, request: &impl Identity) -> Option<(&str, &Recorded)> {
        if self.recorded.is_empty() {
            return None;
        }
        let get = |key: &str| self.recorded.get_key_value(key).map(|(key, recorded)| (key.as_str(), recorded));
        let first = get(request.request_id());
        match first {
            Some((_, recorded)) if request.is_by(recorded.sender.as_deref()) => first,
            Some(_) | None if request.sender().is_some() => get(&request.own_key()),
            Some(_) | None => first,
        }
    }

    /// The keys of what is on record of the ids of these requests, and of other content.
    pub fn of_others<R: Identity>(&self, requests: &[&R]) -> Vec<String> {
        let recorded = requests.iter().filter_map(|request| Some((request, self.on_record(*request)?)));
        recorded.filter(|(request, (_, found))| !found.is_of(**request)).map(|(_, (key, _))| key.to_owned()).collect()
    }

    /// Notes who has the order of the verdict with this key.
    pub fn note_buyer(&mut self, key: &str, buyer: Option<String>) {
        if let Some(recorded) = self.recorded.get_mut(key) {
            recorded.buyer = buyer;
        }
    }

    /// Adds the verdict of a request that has none, and answers with it.
    pub fn add(&mut self, request: &'a impl Identity, mut verdict: Verdict) -> Answer {
        verdict.item = verdict.item.or_else(|| request.about().item.map(ToOwned::to_owned));
        let reply = serde_json::to_string(&verdict).expect("a verdict is representable as JSON");
        let content = request.fingerprint();
        let (fingerprint, content) = match request.fingerprint_with_deadline() {
            Some(fingerprint) => (fingerprint, Some(content)),
            None => (content, None),
        };
        let recorded = Recorded { fingerprint, content, reply: reply.clone(), ..Recorded::default() };
        let (request_id, about) = (request.request_id(), request.about());
        let about = if verdict.order.is_some() { about } else { About { item: about.item, ..About::default() } };
        let is_taken = self.recorded.contains_key(request_id);
        let key = match self.places.entry(request_id) {
            Entry::Vacant(place) if !is_taken => {
                place.insert(self.new.len());
                Cow::Borrowed(request_id)
            }
            Entry::Vacant(place) => {
                place.insert(self.new.len());
                request.own_key()
            }
            Entry::Occupied(_) => request.own_key(),
        };
        self.new.push(NewVerdict { request_id, sender: request.user(), key, about, status: verdict.status, recorded });
        Answer::Verdict(reply)
    }

    /// What the batch adds for this request's id; another sender's only where this one could have none of their own.
    pub fn added(&self, request: &impl Identity) -> Option<&NewVerdict<'a>> {
        let (id, user) = (request.request_id(), request.user());
        let first = *self.places.get(id)?;
        let own = self.new[first..].iter().find(|new| new.request_id == id && new.sender == user);
        own.or_else(|| self.new.get(first).filter(|new| user.is_none() && new.key == id))
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
    use crate::messages::{Code, ReleaseRequest, Sender};

    fn request(id: &str, order: u128) -> ReleaseRequest {
        ReleaseRequest { request_id: id.to_owned(), order_id: Uuid::from_u128(order), sender: None }
    }

    fn by(user: &str, request: ReleaseRequest) -> ReleaseRequest {
        ReleaseRequest { sender: Some(Sender { user: user.to_owned(), is_trusted: false }), ..request }
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
        let first = verdicts.add(&new, verdict.clone());
        for (again, expected) in [
            (request("old", 1), Answer::Verdict("as it was sent".to_owned())),
            (request("old", 2), Answer::Rejected(Rejection::reused(&old, &[]))),
            (request("new", 1), first),
            (request("new", 2), Answer::Rejected(Rejection::reused(&new, &[]))),
        ] {
            assert_eq!(verdicts.answer(&again), Some(expected), "{again:?}");
        }
        assert_eq!(verdicts.all_added().len(), 1);
        assert_eq!(verdicts.added(&new).map(|new| new.status), Some(verdict.status));
        assert_eq!(verdicts.added(&old), None);
    }

    #[test]
    fn an_id_is_its_senders_own_and_what_older_versions_recorded_is_anybodys() {
        let plain = request("id", 1);
        let (ann, bob, eve) = (by("ann", plain.clone()), by("bob", plain.clone()), by("eve", plain.clone()));
        let recorded = |sender: Option<&str>, reply: &str| Recorded {
            fingerprint: plain.fingerprint(),
            sender: sender.map(ToOwned::to_owned),
            reply: reply.to_owned(),
            ..Recorded::default()
        };
        let now = OffsetDateTime::UNIX_EPOCH;
        let of = |sender| Verdicts::at(now, HashMap::from([("id".to_owned(), recorded(sender, "first"))]));
        let (own, reused) =
            (Answer::Verdict("first".to_owned()), Answer::Rejected(Rejection::reused(&plain, &["sender"])));
        for (sender, to_nobody, to_ann, to_bob) in [
            (None, Some(&own), None, None),
            (Some("ann"), Some(&reused), Some(&own), None),
            (Some(""), Some(&own), Some(&own), Some(&own)),
        ] {
            let found = [&plain, &ann, &bob].map(|request| of(sender).answer(request));
            assert_eq!(found.each_ref().map(Option::as_ref), [to_nobody, to_ann, to_bob], "{sender:?}");
        }
        // The first one's time is past, or it is not.
        for first in [None, Some(("id".to_owned(), recorded(Some("ann"), "first")))] {
            let second = ("id bob".to_owned(), recorded(Some("bob"), "second"));
            let verdicts = Verdicts::at(now, first.into_iter().chain([second]).collect());
            assert_eq!(verdicts.answer(&bob), Some(Answer::Verdict("second".to_owned())));
        }
        let mut verdicts = of(Some("ann"));
        for request in [&bob, &eve] {
            let verdict =
                Verdict::decided("id", Code::UnknownOrder, request.sender.as_ref().unwrap().user.as_str(), now);
            let answer = verdicts.add(request, verdict);
            assert_eq!(verdicts.answer(request), Some(answer), "each its own");
        }
        let keys: Vec<&str> = verdicts.all_added().iter().map(|new| &*new.key).collect();
        assert_eq!((keys, verdicts.answer(&plain)), (vec!["id bob", "id eve"], Some(reused)));
        // Whoever has no sender has what is on record, whoever else uses the id in the same batch.
        let mut verdicts = of(None);
        verdicts.add(&bob, Verdict::decided("id", Code::UnknownOrder, "There is none.", now));
        assert_eq!(verdicts.answer(&plain), Some(own));
    }
}
