//! After the gateway has answered: what becomes of the order, and what the request is told. Pure.
//!
//! Invariants: money that was taken ends as a paid order, or is given back; no order that others hold a claim to is touched
//! by an outcome that is not theirs; and a verdict on record stays as it is.

use super::{Order, Snapshot, Verdicts, refused, text, units, unknown};
use crate::gateway::Outcome;
use shared::handler::Answer;
use shared::messages::{Code, PaymentRequest};
use shared::order::{Cause, Refusal, State};
use std::collections::BTreeMap;
use uuid::Uuid;

/// How the asking for a payment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The gateway has decided.
    Decided(Outcome),
    /// It had taken the money for an order that is no longer held, and has given it back.
    Refunded,
}

/// A batch whose outcomes are decided on. The transitions are made in the order of these fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Finished {
    /// For each outcome, in order.
    pub ends: Vec<End>,
    /// Orders from `reserved` to `paying`, each with its request: a decline was recorded, and the money was taken.
    pub late: Vec<(Uuid, String)>,
    /// Orders from `paying` to `paid`, each with its request.
    pub captured: Vec<(Uuid, String)>,
    /// Orders from `paying` back to `reserved`, each with its request.
    pub declined: Vec<(Uuid, String)>,
    /// The units that are sold with them, by item.
    pub sold: BTreeMap<String, i64>,
    /// The payments that are no longer under way, by order; with the charge, where there is one.
    pub over: BTreeMap<Uuid, Option<String>>,
    /// The verdicts to record.
    pub verdicts: Verdicts,
}

/// What a request is told.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// This.
    Answered(Answer),
    /// Nothing yet: the money was taken for an order whose units are no longer held, and has to be given back first.
    Refund,
}

/// Decides on what the gateway said to these requests, in order.
#[must_use]
pub fn finish(asked: &[(&PaymentRequest, Ended)], mut snapshot: Snapshot) -> Finished {
    let mut finished = Finished::default();
    for (request, ended) in asked {
        let end = end(request, ended, &mut snapshot, &mut finished);
        finished.ends.push(end);
    }
    finished
}

fn end(request: &PaymentRequest, ended: &Ended, snapshot: &mut Snapshot, finished: &mut Finished) -> End {
    let id = request.order_id;
    let payment = snapshot.payments.get_mut(&id).filter(|payment| payment.is_by(request));
    let is_ours = payment.is_some();
    let order = snapshot.orders.get_mut(&id);
    let told = match ended {
        Ended::Decided(Outcome::Captured { charge_id }) => match captured(request, order, is_ours, finished) {
            Some(told) => {
                if told.0 == Code::Paid {
                    finished.over.insert(id, Some(charge_id.clone()));
                }
                told
            }
            None => return End::Refund,
        },
        Ended::Decided(Outcome::Declined { reason }) => declined(request, order, is_ours, reason, finished),
        Ended::Refunded => declined(request, order, is_ours, "the charge was refunded", finished),
    };
    if let Some(payment) = payment {
        payment.is_under_way = false;
        finished.over.entry(id).or_default();
    }
    match snapshot.recorded(request) {
        Some(answer) => End::Answered(answer),
        None => End::Answered(snapshot.record(request, told, &mut finished.verdicts)),
    }
}

/// The order becomes paid, where its units are there to be sold. `None`: they are not.
fn captured(
    request: &PaymentRequest,
    order: Option<&mut Order>,
    is_ours: bool,
    finished: &mut Finished,
) -> Option<(Code, String)> {
    let (id, by) = (request.order_id, request.request_id.clone());
    let order = order?;
    match order.state {
        State::Paying if !is_ours => return Some(refused(id, Refusal::PaymentUnderWay)),
        State::Paying => (),
        State::Reserved => finished.late.push((id, by.clone())),
        // By somebody who asked with the same key: it is the same charge.
        State::Paid => return Some(refused(id, Refusal::AlreadyPaid)),
        State::Expired | State::Cancelled => return None,
    }
    order.state = State::Paid;
    finished.captured.push((id, by));
    *finished.sold.entry(order.item.clone()).or_default() += order.quantity;
    Some((Code::Paid, format!("The order {id} is paid for; {} {} yours.", units(order), are(order))))
}

/// The order is held again for what is left of its time, where this request was paying for it.
fn declined(
    request: &PaymentRequest,
    order: Option<&mut Order>,
    is_ours: bool,
    reason: &str,
    finished: &mut Finished,
) -> (Code, String) {
    let id = request.order_id;
    let Some(order) = order else { return unknown(id) };
    match order.state.after(Cause::PaymentDeclined) {
        Ok(next) if is_ours => {
            order.state = next;
            finished.declined.push((id, request.request_id.clone()));
            let until = text(order.hold_until);
            let left = format!("{} {} held for you until {until}", units(order), are(order));
            (Code::Declined, format!("The payment of the order {id} was declined: {reason}. {left}."))
        }
        Ok(_) => refused(id, Refusal::PaymentUnderWay),
        Err(refusal) => refused(id, refusal),
    }
}

fn are(order: &Order) -> &'static str {
    if order.quantity == 1 { "is" } else { "are" }
}
