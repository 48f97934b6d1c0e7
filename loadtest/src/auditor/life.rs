//! Whether an order's whole life kept its promises: history, money, and what the world was told.
//!
//! Invariant: the gateway's books and the events are judged against what the database says, and the database against them;
//! none is believed alone.

mod events;
mod orders;
pub(super) mod replay;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use shared::messages::Verdict;
use shared::order::State;
use uuid::Uuid;

use super::{Case, Invariant};
use crate::facts::RecordedOrder;
use crate::life::events::Events;
use crate::life::facts::{RecordedLife, RecordedTransition};
use crate::life::follow_ups::{Asked, FollowUps};
use crate::life::ledger::Ledger;

/// What is known of the lives of a sale's orders, after their end.
#[derive(Debug, Clone, Copy)]
pub struct LifeFacts<'a> {
    /// What buyers asked for after their verdicts, and were told.
    pub follow_ups: &'a FollowUps,
    /// The gateway's books.
    pub ledger: &'a Ledger,
    /// What the world was told.
    pub events: &'a Events,
    /// What the database says.
    pub recorded: &'a RecordedLife,
    /// Whether every hold had the time to run out.
    pub is_over: bool,
}

/// These facts, indexed.
struct Lives<'a> {
    facts: &'a LifeFacts<'a>,
    orders: HashMap<Uuid, &'a RecordedOrder>,
    transitions: HashMap<Uuid, Vec<&'a RecordedTransition>>,
    /// Each buyer who followed up, with the order that it followed up.
    asked: HashMap<Uuid, (usize, Asked)>,
}

/// Every check, in reading order.
pub(super) fn check<'a>(case: &Case<'a>, facts: &'a LifeFacts<'a>) -> Vec<Invariant> {
    let Some(recorded) = case.facts.recorded else { return Vec::new() };
    let mut transitions: HashMap<Uuid, Vec<&RecordedTransition>> = HashMap::new();
    for transition in &facts.recorded.transitions {
        transitions.entry(transition.order_id).or_default().push(transition);
    }
    let orders = recorded.orders.iter().map(|order| (order.id, order)).collect();
    let asked = facts.follow_ups.all().map(|(index, asked)| (asked.follow_up.order_id, (index, asked))).collect();
    let lives = Lives { facts, orders, transitions, asked };
    let mut invariants = orders::check(&lives, case);
    invariants.extend(events::check(&lives, case));
    invariants
}

impl<'a> Lives<'a> {
    /// An order's transitions, in order.
    fn history(&self, order: Uuid) -> &[&'a RecordedTransition] {
        self.transitions.get(&order).map_or(&[], Vec::as_slice)
    }

    /// The orders in this state, by their ids.
    fn in_state(&self, state: State) -> impl Iterator<Item = &'a RecordedOrder> {
        self.orders.values().copied().filter(move |order| order.state == state.as_str())
    }

    /// What the buyer with this index was told of its follow-up; `None` where that is no verdict on it.
    fn told(&self, index: usize, asked: &Asked) -> Option<Verdict> {
        let body = self.facts.follow_ups.answers.answers[index].body.as_deref()?;
        let verdict: Verdict = serde_json::from_slice(body).ok()?;
        let is_its = verdict.request_id == Some(asked.follow_up.request_id.to_string())
            && verdict.code.status() == verdict.status
            && verdict.order.is_none();
        is_its.then_some(verdict)
    }
}

/// Ids as a broken invariant names them, in an order that does not change.
fn names(ids: impl IntoIterator<Item = Uuid>) -> Vec<String> {
    let mut names: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    names.sort_unstable();
    names.dedup();
    names
}
