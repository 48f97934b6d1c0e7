//! Whether a sale kept its promises: pure checks over what was asked, what was told and what was recorded.
//!
//! Knows no broker and no database: it is handed [`Facts`], and judges the same facts the same way for ever.
//! Invariant: each promise is one [`Invariant`] with a name that never changes, and a broken one names the first
//! offenders and counts them all.

mod life;
mod records;
mod replies;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use serde::Serialize;
use shared::messages::{Status, Verdict};

use crate::answers::Answers;
use crate::facts::{Recorded, RecordedOrder, RecordedVerdict};
use crate::schedule::{Due, Schedule};
pub use life::LifeFacts;
use life::replay::Replay;

/// The most offenders that a broken invariant names.
const OFFENDERS_NAMED_MAX: usize = 5;

/// Everything that is known about a sale after its end.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What was asked, in publish order.
    pub schedule: &'a Schedule,
    /// What the buyers were told.
    pub answers: &'a Answers,
    /// How many messages the queue `dead` gained; every request of a sale is valid, so none belongs there.
    pub dead_growth: i64,
    /// How each worker ended.
    pub endings: &'a [Ending],
    /// What the database says; `None` where none took part (the ceiling).
    pub recorded: Option<&'a Recorded>,
    /// What became of the orders after that; `None` where nobody paid, cancelled, or let a hold run out.
    pub life: Option<LifeFacts<'a>>,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// The worker's id.
    pub worker_id: String,
    /// Whether it drained when it was asked to, and exited with 0; a worker that was killed on purpose counts too.
    pub clean: bool,
    /// For people, such as `exit status: 0`.
    pub how: String,
}

/// One promise, and whether it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Invariant {
    /// A stable word.
    pub name: &'static str,
    /// Whether it was kept.
    pub holds: bool,
    /// For people: what was checked, or who offends.
    pub detail: String,
}

/// How many requests ended in each way, by what the buyers were told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VerdictCounts {
    /// The buyer holds the units.
    pub reserved: u64,
    /// Too few units were left.
    pub sold_out: u64,
    /// A rule said no.
    pub refused: u64,
    /// The message was at fault.
    pub invalid: u64,
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Every promise, in reading order.
    pub invariants: Vec<Invariant>,
    /// What the buyers were told.
    pub verdicts: VerdictCounts,
    /// Requests that got no reply, or that have no recorded verdict.
    pub lost: u64,
    /// Identical replies beyond the number of sends: allowed (replies come at least once), and counted.
    pub duplicate_replies: u64,
    /// Replies that differ from the first one to the same request.
    pub conflicting_replies: u64,
    /// Units reserved beyond the stock.
    pub oversold: u64,
    /// Accepted requests that were published after a refused one of equal or smaller quantity.
    pub order_inversions: u64,
    /// When each of those who got units was told so, from the start of the sale, in publish order.
    pub sold_at: Vec<Duration>,
}

impl Audit {
    /// Judges a sale.
    #[must_use]
    pub fn of(facts: &Facts<'_>) -> Self {
        let case = Case::new(facts);
        let mut audit = Self {
            invariants: replies::check(&case),
            verdicts: count(&case.told),
            lost: case.lost(),
            duplicate_replies: replies::duplicates(facts.answers),
            conflicting_replies: facts.answers.answers.iter().map(|answer| u64::from(answer.differing)).sum(),
            oversold: case.oversold().iter().map(|(_, units)| units).sum(),
            order_inversions: case.inversions().len() as u64,
            sold_at: case.sold_at(),
        };
        if let Some(recorded) = facts.recorded {
            audit.invariants.extend(records::check(&case, recorded));
        }
        if let Some(life) = &facts.life {
            audit.invariants.extend(life::check(&case, life));
        }
        audit
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.invariants.iter().all(|invariant| invariant.holds)
    }
}

/// The facts, indexed.
struct Case<'a> {
    facts: &'a Facts<'a>,
    /// Each request's id as it stands in messages and rows.
    ids: Vec<String>,
    /// Each request's verdict as its buyer was told; `None` where there is no reply, or not a verdict of this request.
    told: Vec<Option<Status>>,
    /// By request id.
    verdicts: HashMap<&'a str, &'a RecordedVerdict>,
    /// By request id; more than one is a fault.
    orders: HashMap<&'a str, Vec<&'a RecordedOrder>>,
    /// Where units may have come back: the sale, decided once more.
    replay: Option<Replay>,
}

impl<'a> Case<'a> {
    fn new(facts: &'a Facts<'a>) -> Self {
        let ids: Vec<String> = facts.schedule.requests.iter().map(|due| due.request_id.to_string()).collect();
        let bodies = facts.answers.answers.iter().map(|answer| answer.body.as_deref());
        let told = bodies.zip(&ids).map(|(body, id)| body.and_then(|body| status_told(body, id))).collect();
        let (mut verdicts, mut orders) = (HashMap::new(), HashMap::<&str, Vec<_>>::new());
        if let Some(recorded) = facts.recorded {
            verdicts.extend(recorded.verdicts.iter().map(|verdict| (verdict.request_id.as_str(), verdict)));
            for order in &recorded.orders {
                orders.entry(&order.request_id).or_default().push(order);
            }
        }
        let case = Self { facts, ids, told, verdicts, orders, replay: None };
        let replay = facts.life.as_ref().map(|life| Replay::of(&case, life));
        Self { replay, ..case }
    }

    /// Every request with its index.
    fn requests(&self) -> impl Iterator<Item = (usize, &'a Due)> {
        self.facts.schedule.requests.iter().enumerate()
    }

    fn recorded_verdict(&self, index: usize) -> Option<&'a RecordedVerdict> {
        self.verdicts.get(self.ids[index].as_str()).copied()
    }

    /// The request's verdict: as recorded, or as told where nothing is recorded.
    fn status(&self, index: usize) -> Option<Status> {
        self.recorded_verdict(index).map(|verdict| verdict.status).or(self.told[index])
    }

    /// Whether anything says that the request holds units: a record, a reply or an order.
    fn is_reserved(&self, index: usize) -> bool {
        self.status(index) == Some(Status::Reserved)
            || self.told[index] == Some(Status::Reserved)
            || self.orders.contains_key(self.ids[index].as_str())
    }

    fn lost(&self) -> u64 {
        let unrecorded = |index| self.facts.recorded.is_some() && self.recorded_verdict(index).is_none();
        (0..self.ids.len()).filter(|&index| self.told[index].is_none() || unrecorded(index)).count() as u64
    }

    fn sold_at(&self) -> Vec<Duration> {
        let told = self.told.iter().zip(&self.facts.answers.answers);
        told.filter(|(status, _)| **status == Some(Status::Reserved)).map(|(_, answer)| answer.at).collect()
    }

    /// The items that were oversold, each with the units beyond its stock. The ceiling has no stock to oversell.
    fn oversold(&self) -> Vec<(&str, u64)> {
        if let Some(replay) = &self.replay {
            return replay.oversold.iter().map(|(item, units)| (item.as_str(), *units)).collect();
        }
        if self.facts.recorded.is_none() {
            return Vec::new();
        }
        let mut reserved = vec![0_u64; self.facts.schedule.items.len()];
        for (index, due) in self.requests().filter(|&(index, _)| self.is_reserved(index)) {
            let ordered = self.orders.get(self.ids[index].as_str()).map(|orders| {
                orders.iter().map(|order| u64::try_from(order.quantity).unwrap_or_default()).sum::<u64>()
            });
            reserved[due.item as usize] += ordered.unwrap_or(0).max(u64::from(due.quantity));
        }
        let items = self.facts.schedule.items.iter().zip(reserved);
        items
            .filter(|(item, units)| *units > item.stock)
            .map(|(item, units)| (item.id.as_str(), units - item.stock))
            .collect()
    }

    /// The accepted requests that jumped the queue. Where the stock only shrinks, whoever comes after a refused request and
    /// asks for as much or more must be refused too; where units come back, the decisions tell in which order they were made.
    fn inversions(&self) -> Vec<&str> {
        if let Some(replay) = &self.replay {
            return replay.preferred.iter().map(|&index| self.ids[index].as_str()).collect();
        }
        if self.facts.recorded.is_none() {
            return Vec::new();
        }
        let mut least_refused = vec![u32::MAX; self.facts.schedule.items.len()];
        let mut offenders = Vec::new();
        for (index, due) in self.requests() {
            let least = &mut least_refused[due.item as usize];
            match self.status(index) {
                Some(Status::SoldOut) => *least = due.quantity.min(*least),
                Some(Status::Reserved) if due.quantity >= *least => offenders.push(self.ids[index].as_str()),
                Some(Status::Reserved | Status::Refused | Status::Done | Status::Invalid) | None => {}
            }
        }
        offenders
    }
}

/// What a reply says, if it is a verdict of this request.
fn status_told(body: &[u8], request_id: &str) -> Option<Status> {
    let verdict: Verdict = serde_json::from_slice(body).ok()?;
    let consistent = verdict.request_id.as_deref() == Some(request_id)
        && verdict.code.status() == verdict.status
        // A purchase is never merely done.
        && verdict.status != Status::Done
        && verdict.order.is_some() == (verdict.status == Status::Reserved);
    consistent.then_some(verdict.status)
}

fn count(told: &[Option<Status>]) -> VerdictCounts {
    let of = |status| told.iter().filter(|told| **told == Some(status)).count() as u64;
    VerdictCounts {
        reserved: of(Status::Reserved),
        sold_out: of(Status::SoldOut),
        refused: of(Status::Refused),
        invalid: of(Status::Invalid),
    }
}

/// An invariant that holds when nobody offends.
fn invariant<S: AsRef<str>>(name: &'static str, when_kept: impl Into<String>, offenders: &[S]) -> Invariant {
    if offenders.is_empty() {
        return Invariant { name, holds: true, detail: when_kept.into() };
    }
    let named: Vec<&str> = offenders.iter().take(OFFENDERS_NAMED_MAX).map(AsRef::as_ref).collect();
    let more = if offenders.len() > named.len() { ", …" } else { "" };
    Invariant { name, holds: false, detail: format!("{}: {}{more}", offenders.len(), named.join(", ")) }
}
