//! What is proved of a sale: pure checks over what was asked, what was answered, what the database holds, what the payment
//! gateway charged and what was published. None of them is believed alone.
//!
//! Each promise is one [`Invariant`] with a name that never changes; a broken one counts its offenders and names the first.

pub mod database_state;
mod events;
mod orders;
mod sale;
mod stock;
#[cfg(test)]
mod tests;

use crate::answers::Answers;
use crate::orders::events::Events;
use crate::orders::follow_ups::FollowUps;
use crate::result::DoorsReport;
use crate::schedule::Schedule;
use database_state::{DatabaseState, RecordedItem, RecordedOrder, RecordedVerdict};
use orders::Orders;
use serde::Serialize;
use shared::devstack::gateway::Ledger;
use shared::messages::{Code, Status, Verdict};
use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::time::Duration;
use stock::Stock;

const OFFENDERS_NAMED_MAX: usize = 5;

/// Everything that is known about a sale after its end; what nobody did is empty.
#[derive(Debug, Default)]
pub struct Evidence {
    pub scope: Scope,
    pub schedule: Arc<Schedule>,
    pub answers: Answers,
    /// How many messages the queue `dead` gained. (Of a request that ends in `dead.invalid` there is no record.)
    pub dead_growth: i64,
    pub endings: Vec<Ending>,
    pub jumper: Jumper,
    /// What buyers met at the doors, where they came by HTTP and nothing was done to anybody meanwhile.
    pub doors: Option<DoorsReport>,
    pub database: DatabaseState,
    pub follow_ups: FollowUps,
    /// What the payment gateway did.
    pub ledger: Ledger,
    /// What was published.
    pub events: Events,
}

/// What became of somebody who tried to jump the line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Jumper {
    /// Nobody was there to be asked.
    #[default]
    NotTried,
    Unanswered,
    Told(Code),
}

/// How far a sale went, and so what is judged of it: this and all before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// No database took part (the ceiling).
    #[default]
    Replies,
    /// Nobody paid, cancelled, or let a hold run out.
    Records,
    Orders,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    pub worker_id: String,
    /// Whether it drained when it was asked to, and exited with 0; a worker that was killed on purpose counts too.
    pub clean: bool,
    /// For people, such as `exit status: 0`.
    pub how: String,
}

/// One promise, and whether it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Invariant {
    pub name: &'static str,
    pub holds: bool,
    /// For people: what was checked, or who offends.
    pub detail: String,
}

impl Display for Invariant {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.name, self.detail)
    }
}

/// How many requests ended in each way, by what the buyers were answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct VerdictCounts {
    pub reserved: u64,
    pub sold_out: u64,
    pub refused: u64,
    pub invalid: u64,
}

/// The judgement, in the keys of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// In reading order.
    pub invariants: Vec<Invariant>,
    pub verdicts: VerdictCounts,
    /// Requests that got no reply, or that have no recorded verdict.
    pub lost: u64,
    /// Identical replies beyond the number of sends: allowed (replies come at least once), and counted.
    pub duplicate_replies: u64,
    /// Replies that differ from the first one to the same request.
    pub conflicting_replies: u64,
    /// Units reserved beyond the stock.
    pub oversold: u64,
    /// Accepted requests that were sent after a refused one of equal or smaller quantity; by HTTP also where both were under way at
    /// once, which breaks no promise.
    pub order_inversions: u64,
    /// When each of those who got units was answered, from the start of the sale, in publish order.
    #[serde(skip)]
    pub sold_at: Vec<Duration>,
}

impl Audit {
    #[must_use]
    pub fn of(evidence: &Evidence) -> Self {
        let case = Case::of(evidence);
        let stock = Stock::of(&case);
        let mut invariants = sale::replies_and_workers(&case);
        if evidence.scope >= Scope::Records {
            invariants.extend(sale::records(&case, &stock));
        }
        if evidence.scope >= Scope::Orders {
            let orders = Orders::of(&case);
            invariants.extend(orders::check(&orders));
            invariants.extend(events::check(&orders));
        }
        let answers = &evidence.answers.answers;
        let sold = case.answered.iter().zip(answers).filter(|(status, _)| **status == Some(Status::Reserved));
        let of = |status| case.answered.iter().filter(|answered| **answered == Some(status)).count() as u64;
        let is_recorded = |index: usize| evidence.scope < Scope::Records || case.recorded[index].is_some();
        let is_lost = |index: usize| case.is_unanswered(index) || (case.was_sent(index) && !is_recorded(index));
        Self {
            invariants,
            verdicts: VerdictCounts {
                reserved: of(Status::Reserved),
                sold_out: of(Status::SoldOut),
                refused: of(Status::Refused),
                invalid: of(Status::Invalid),
            },
            lost: case.requests_where(is_lost).count() as u64,
            duplicate_replies: answers.iter().map(|one| u64::from(one.replies.saturating_sub(one.sends))).sum(),
            conflicting_replies: answers.iter().map(|one| u64::from(one.differing)).sum(),
            oversold: stock.oversold.iter().map(|(_, units)| units).sum(),
            order_inversions: stock.inversions,
            sold_at: sold.map(|(_, answer)| answer.at).collect(),
        }
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.broken().next().is_none()
    }

    /// The promises that were not.
    pub(crate) fn broken(&self) -> impl Iterator<Item = &Invariant> {
        self.invariants.iter().filter(|invariant| !invariant.holds)
    }
}

/// The evidence, indexed. Requests are known by their index in the schedule.
struct Case<'a> {
    evidence: &'a Evidence,
    /// As they stand in messages and rows.
    ids: Vec<String>,
    /// As the buyers were answered; `None` where there is no reply, or not a verdict of this request.
    answered: Vec<Option<Status>>,
    recorded: Vec<Option<&'a RecordedVerdict>>,
    /// More than one is a fault.
    orders: Vec<Vec<&'a RecordedOrder>>,
    /// By the item's index in the schedule; `None` where the item is gone.
    items: Vec<Option<&'a RecordedItem>>,
}

impl<'a> Case<'a> {
    fn of(evidence: &'a Evidence) -> Self {
        let Evidence { database, schedule, .. } = evidence;
        let Schedule { requests, items, .. } = &**schedule;
        let ids: Vec<String> = requests.iter().map(|due| due.request_id.to_string()).collect();
        let bodies = evidence.answers.answers.iter().map(|answer| answer.body.as_deref());
        let answered = bodies.zip(&ids).map(|(body, id)| status_of(body?, id)).collect();
        let rows: HashMap<&str, &RecordedItem> = database.items.iter().map(|row| (row.id.as_str(), row)).collect();
        let items = items.iter().map(|item| rows.get(item.id.as_str()).copied()).collect();
        let (recorded, orders) = (vec![None; ids.len()], vec![Vec::new(); ids.len()]);
        let mut case = Self { evidence, ids, answered, recorded, orders, items };
        for verdict in &database.verdicts {
            if let Some(index) = case.index(&verdict.request_id) {
                case.recorded[index] = Some(verdict);
            }
        }
        for order in &database.orders {
            if let Some(index) = case.index(&order.request_id) {
                case.orders[index].push(order);
            }
        }
        case
    }

    /// `None` where nobody asked with this id.
    fn index(&self, request_id: &str) -> Option<usize> {
        self.evidence.answers.index(request_id).filter(|&index| self.ids[index] == request_id)
    }

    /// Who was never sent, because the time was over, is not lost.
    fn was_sent(&self, index: usize) -> bool {
        self.evidence.answers.answers[index].sends > 0
    }

    fn is_unanswered(&self, index: usize) -> bool {
        self.was_sent(index) && self.answered[index].is_none()
    }

    /// The ids of the requests that offend.
    fn requests_where(&self, offends: impl Fn(usize) -> bool) -> impl Iterator<Item = &str> {
        (0..self.ids.len()).filter(move |&index| offends(index)).map(|index| self.ids[index].as_str())
    }

    /// As recorded, or as answered where nothing is recorded.
    fn status(&self, index: usize) -> Option<Status> {
        self.recorded[index].map(|verdict| verdict.status).or(self.answered[index])
    }

    /// Who was sold out and who got units, of these, in the order in which they asked. By HTTP everybody asks by themselves, and whose
    /// requests are under way at once have no order: somebody who is sold out then stands where they were told so.
    fn in_order(&self, indices: impl Iterator<Item = usize>) -> Vec<usize> {
        self.in_order_of(indices, |_, told| told)
    }

    /// The same, where who came by HTTP and was sold out stands at this moment, by when they began to ask and when they were told.
    fn in_order_of(
        &self,
        indices: impl Iterator<Item = usize>,
        sold_out_at: fn(Duration, Duration) -> Duration,
    ) -> Vec<usize> {
        let moment = |index: usize| {
            let is_sold_out = match self.status(index)? {
                Status::SoldOut => true,
                Status::Reserved => false,
                Status::Refused | Status::Done | Status::Invalid => return None,
            };
            let answer = &self.evidence.answers.answers[index];
            let at = match answer.begun {
                // On the queue, requests are published in the schedule's order.
                None => Duration::from_nanos(index as u64),
                Some(begun) if is_sold_out => sold_out_at(begun, answer.at),
                Some(begun) => begun,
            };
            Some((at, is_sold_out, index))
        };
        let mut moments: Vec<_> = indices.filter_map(moment).collect();
        moments.sort_unstable();
        moments.into_iter().map(|(.., index)| index).collect()
    }

    fn quantity(&self, index: usize) -> i64 {
        i64::from(self.evidence.schedule.requests[index].quantity)
    }

    /// The item that was asked for, as an index into the schedule's.
    fn item(&self, index: usize) -> usize {
        self.evidence.schedule.requests[index].item as usize
    }

    fn item_id(&self, index: usize) -> &'a str {
        &self.evidence.schedule.items[self.item(index)].id
    }
}

/// What a reply says, if it is a verdict of this request.
fn status_of(body: &[u8], request_id: &str) -> Option<Status> {
    let verdict: Verdict = serde_json::from_slice(body).ok()?;
    let is_consistent = verdict.request_id.as_deref() == Some(request_id)
        && verdict.code.status() == verdict.status
        // A purchase is never merely done.
        && verdict.status != Status::Done
        && verdict.order.is_some() == (verdict.status == Status::Reserved);
    is_consistent.then_some(verdict.status)
}

/// An invariant that holds when nobody offends.
pub(crate) fn invariant(
    name: &'static str,
    when_kept: impl Into<String>,
    offenders: impl IntoIterator<Item: Display>,
) -> Invariant {
    let mut offenders = offenders.into_iter();
    let mut named: Vec<String> = offenders.by_ref().take(OFFENDERS_NAMED_MAX).map(|one| one.to_string()).collect();
    if named.is_empty() {
        return Invariant { name, holds: true, detail: when_kept.into() };
    }
    let more = offenders.count();
    let count = named.len() + more;
    named.extend((more > 0).then(|| "…".to_owned()));
    Invariant { name, holds: false, detail: format!("{count}: {}", named.join(", ")) }
}
