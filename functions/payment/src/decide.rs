//! The decisions on payments, pure: [`begin`] says whom the gateway is asked about, [`finish`] what its answer leads to.
//!
//! Invariants: a batch is decided as its requests one by one, in order; one request at a time pays for an order, and one
//! request pays for one order; the gateway is asked only about orders whose units are held; and money that was taken ends
//! as a paid order, or is given back.

use self::paying::Paying;
use self::words::{refused, units_are, unknown};
use crate::gateway::{Charge, Outcome};
use shared::handler::Answer;
use shared::idempotency::Verdicts;
use shared::messages::time::text;
use shared::messages::{Code, End, EndRequest, Identity, PaymentRequest, Rejection, Settlement, Verdict};
use shared::order::store::{Order, Units};
use shared::order::{Cause, Refusal, State};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// What the database said.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// The orders that were asked about and exist, by id.
    pub orders: HashMap<Uuid, Order>,
    /// The payments of these orders, and those under way by these requests, by order.
    pub payments: HashMap<Uuid, Payment>,
    pub verdicts: Verdicts<'a>,
}

/// The payment of an order: the one under way, or the last one.
#[derive(Debug, Clone)]
pub struct Payment {
    /// Which one pays.
    pub request: PaymentRequest,
    /// Whether the gateway may have been asked, and the outcome is not committed.
    pub is_under_way: bool,
    /// Whether it is asked about again in its time, and not because a message comes round.
    pub is_put_off: bool,
}

impl Payment {
    fn of(request: &PaymentRequest) -> Self {
        Self { request: request.clone(), is_under_way: true, is_put_off: false }
    }

    /// Whether it is under way by this very request, which is for the same order.
    fn is_by(&self, request: &PaymentRequest) -> bool {
        let ours = &self.request;
        self.is_under_way
            && (&ours.request_id, &ours.payment_method) == (&request.request_id, &request.payment_method)
            && request.is_by(ours.user())
    }
}

/// A batch whose payments are begun.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Begun<'a> {
    /// For each request, in order, its answer, which may be that there is none yet; `None`: the gateway is asked about its
    /// order.
    pub answers: Vec<Option<Answer>>,
    /// By order. Copies of a request are one.
    pub asks: BTreeMap<Uuid, Ask<'a>>,
}

/// What the gateway is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask<'a> {
    pub request: &'a PaymentRequest,
    pub charge: Charge,
    /// Its payment's id: its own, or where another sender's payment under way has that, as its sender's.
    pub key: std::borrow::Cow<'a, str>,
    /// Its order becomes `paying`; else it was asked about before.
    pub is_new: bool,
}

/// Decides `requests` in order, before the gateway is asked.
pub fn begin<'a>(requests: &'a [PaymentRequest], snapshot: &mut Snapshot<'a>) -> Begun<'a> {
    let mut begun = Begun::default();
    let mut paying = Paying::of(snapshot.payments.values());
    for request in requests {
        begun.answers.push(begin_one(request, snapshot, &mut paying, &mut begun.asks));
    }
    begun
}

fn begin_one<'a>(
    request: &'a PaymentRequest,
    snapshot: &mut Snapshot<'a>,
    paying: &mut Paying,
    asks: &mut BTreeMap<Uuid, Ask<'a>>,
) -> Option<Answer> {
    let id = request.order_id;
    let ask = |order: &Order, key, is_new| {
        let (item, payment_method) = (order.item.clone(), request.payment_method.clone());
        Ask { request, charge: Charge { order_id: id, item, quantity: order.quantity, payment_method }, key, is_new }
    };
    let order = snapshot.orders.get_mut(&id);
    // Its own payment goes on, whatever became of the order meanwhile: the gateway may have taken the money. Also where
    // its id has a verdict by now: another function's request has used it, and this one has none before its payment ends.
    if let Some(order) = &order
        && let Some(payment) = snapshot.payments.get(&id).filter(|payment| payment.is_by(request))
    {
        if payment.is_put_off {
            return Some(Answer::Requeue);
        }
        asks.entry(id).or_insert_with(|| ask(order, request.request_id.as_str().into(), false));
        return None;
    }
    if let Some(answer) = snapshot.verdicts.answer(request) {
        return Some(answer);
    }
    // By this id, but not this order, or not by this method.
    if paying.has(request) {
        return Some(Answer::Rejected(Rejection::reused(request, &[])));
    }
    // Another sender's is as if there were none.
    let order = order.filter(|order| order.is_open_to(request.sender()));
    let refusal = match order.map(|order| (order.state.after(Cause::PaymentBegun), order)) {
        None => unknown(id),
        Some((Err(refusal), _)) => refused(id, refusal),
        Some((Ok(_), order)) if order.hold_until <= snapshot.verdicts.now => refused(id, Refusal::AlreadyExpired),
        Some((Ok(next), order)) => {
            order.state = next;
            asks.insert(id, ask(order, paying.key(request), true));
            snapshot.payments.insert(id, Payment::of(request));
            paying.add(request);
            return None;
        }
    };
    Some(record(snapshot, request, refusal))
}

/// What becomes of payments. The transitions are made in the order of these fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Finished<'a> {
    /// For each outcome, or request to end a payment, in order, what its request is answered. `None`: nothing yet, as the
    /// money was taken for an order whose units are no longer held, and has to be given back first.
    pub answers: Vec<Option<Answer>>,
    /// Orders from `reserved` to `paying`, each with its request: a decline was recorded, and the money was taken.
    pub late: Vec<(Uuid, &'a str)>,
    /// Orders from `paying` to `paid`, each with its request.
    pub captured: Vec<(Uuid, &'a str)>,
    /// Orders from `paying` back to `reserved`, each with its request.
    pub declined: Vec<(Uuid, &'a str)>,
    /// Orders from `paying` to `expired`, each with its request.
    pub voided: Vec<(Uuid, &'a str)>,
    /// The units that are sold with the captured ones.
    pub sold: Units,
    /// The units that the voided ones give back.
    pub given_back: Units,
    /// The payments that are no longer under way, by order; with the charge, where there is one.
    pub over: BTreeMap<Uuid, Option<String>>,
    /// Whom the gateway is to void, whatever becomes of who found it; where it took money for an order whose units are not held
    /// any more, it is to give that back.
    pub to_void: BTreeSet<Uuid>,
}

/// Decides on what the gateway said to these requests, in order. Of money that is given back it says that none was taken.
pub fn finish<'a>(asked: &[(&'a PaymentRequest, Outcome)], snapshot: &mut Snapshot<'a>) -> Finished<'a> {
    let mut finished = Finished::default();
    for (request, outcome) in asked {
        let answer = finished.finish(request, outcome, snapshot);
        finished.answers.push(answer);
    }
    finished
}

/// Decides on `requests` to end payments, in order, as if the gateway had been asked. `payers` are the requests of these orders'
/// payments, the one under way or the last one, by order; `verdicts` those on `requests`.
pub fn settle<'a>(
    requests: &'a [EndRequest],
    payers: &'a HashMap<Uuid, PaymentRequest>,
    snapshot: &mut Snapshot<'a>,
    verdicts: &mut Verdicts<'a>,
) -> Finished<'a> {
    let mut finished = Finished::default();
    for request in requests {
        let (id, payer) = (request.order_id, payers.get(&request.order_id));
        let answer = if let Some(answer) = verdicts.answer(request) {
            answer
        } else if payer.is_some_and(|payer| payer.request_id == request.request_id) {
            // The payer's own verdict is to have this id.
            Answer::Rejected(Rejection::reused(request, &[]))
        } else if finished.over.contains_key(&id) || finished.to_void.contains(&id) {
            // What is written at once has no order, so an order's payment is ended once in a transaction.
            Answer::Later
        } else {
            let (code, text) = finished.settle(request, payer, snapshot);
            let item = snapshot.orders.get(&id).map(|order| order.item.clone());
            verdicts.add(request, Verdict { item, ..Verdict::decided(&request.request_id, code, text, verdicts.now) })
        };
        finished.answers.push(Some(answer));
    }
    finished
}

impl<'a> Finished<'a> {
    fn finish(
        &mut self,
        request: &'a PaymentRequest,
        outcome: &Outcome,
        snapshot: &mut Snapshot<'a>,
    ) -> Option<Answer> {
        let id = request.order_id;
        let payment = snapshot.payments.get_mut(&id).filter(|payment| payment.is_by(request));
        let is_ours = payment.is_some();
        let order = snapshot.orders.get_mut(&id);
        let verdict = match outcome {
            Outcome::Captured { charge_id } => {
                let verdict = self.capture(request, order?, is_ours)?;
                if verdict.0 == Code::Paid {
                    self.over.insert(id, Some(charge_id.clone()));
                }
                verdict
            }
            // It is held again for what is left of its time.
            Outcome::Declined { reason } => match unpaid(id, order, is_ours, Cause::PaymentDeclined) {
                Ok(order) => {
                    self.declined.push((id, &request.request_id));
                    let left = format!("{} held for you until {}", units_are(order), text(order.hold_until));
                    (Code::Declined, format!("The payment of the order {id} was declined: {reason}. {left}."))
                }
                Err(refused) => refused,
            },
            // Its hold ends with the payment: nothing can be charged under its key any more.
            Outcome::Voided => match unpaid(id, order, is_ours, Cause::PaymentVoided) {
                Ok(order) => {
                    self.voided.push((id, &request.request_id));
                    *self.given_back.entry(order.item.clone()).or_default() += order.quantity;
                    let what = "did not end in time; nothing is charged, and its hold is over";
                    (Code::AlreadyExpired, format!("The payment of the order {id} {what}."))
                }
                Err(refused) => refused,
            },
        };
        if let Some(payment) = payment {
            payment.is_under_way = false;
            self.over.entry(id).or_default();
        }
        let recorded = snapshot.verdicts.answer(request);
        // A verdict on record stays as it is.
        Some(recorded.unwrap_or_else(|| record(snapshot, request, verdict)))
    }

    /// The order becomes paid, where its units are there to be sold. `None`: they are not.
    fn capture(&mut self, request: &'a PaymentRequest, order: &mut Order, is_ours: bool) -> Option<(Code, String)> {
        let (id, by) = (request.order_id, request.request_id.as_str());
        match order.state {
            State::Paying if !is_ours => return Some(refused(id, Refusal::PaymentUnderWay)),
            State::Paying => (),
            State::Reserved => self.late.push((id, by)),
            // By somebody who asked with the same key: it is the same charge.
            State::Paid => return Some(refused(id, Refusal::AlreadyPaid)),
            State::Expired | State::Cancelled => {
                // One that is under way is asked about again, and voided, as it is.
                self.to_void.extend((!is_ours).then_some(id));
                return None;
            }
        }
        order.state = State::Paid;
        self.captured.push((id, by));
        *self.sold.entry(order.item.clone()).or_default() += order.quantity;
        Some((Code::Paid, format!("The order {id} is paid for; {} yours.", units_are(order))))
    }

    fn settle(
        &mut self,
        EndRequest { order_id: id, end, .. }: &EndRequest,
        payer: Option<&'a PaymentRequest>,
        snapshot: &mut Snapshot<'a>,
    ) -> (Code, String) {
        let id = *id;
        let Some(state) = snapshot.orders.get(&id).map(|order| order.state) else { return unknown(id) };
        let is_under_way = snapshot.payments.get(&id).is_some_and(|payment| payment.is_under_way);
        let none = (Code::NoPayment, format!("No payment of the order {id} is under way."));
        let Some(payer) = payer else { return none };
        match end {
            End::Settle(Settlement::Captured { .. }) if state == State::Paid => refused(id, Refusal::AlreadyPaid),
            End::Settle(Settlement::Captured { charge_id }) => {
                let outcome = Outcome::Captured { charge_id: charge_id.clone() };
                if self.finish(payer, &outcome, snapshot).is_some() {
                    return (Code::Settled, format!("The order {id} is paid for."));
                }
                self.to_void.insert(id);
                (Code::Settled, format!("The order {id} is not held any more; its charge is given back."))
            }
            // Of one that is not the one under way, or whose order has ended and whose money is being given back, it is late.
            End::Settle(Settlement::Declined { reason, payment_method })
                if is_under_way
                    && state == State::Paying
                    && payment_method.as_ref().is_none_or(|of| *of == payer.payment_method) =>
            {
                self.finish(payer, &Outcome::Declined { reason: reason.clone() }, snapshot);
                (Code::Settled, format!("The payment of the order {id} is declined."))
            }
            End::Void if is_under_way => {
                self.to_void.insert(id);
                (Code::Voiding, format!("The gateway is asked to void the payment of the order {id}."))
            }
            End::Settle(Settlement::Declined { .. }) | End::Void => none,
        }
    }
}

/// The order whose payment has ended without money, in its next state; else why this request has ended none.
fn unpaid(id: Uuid, order: Option<&mut Order>, is_ours: bool, cause: Cause) -> Result<&mut Order, (Code, String)> {
    let order = order.ok_or_else(|| unknown(id))?;
    match order.state.after(cause) {
        Ok(next) if is_ours => {
            order.state = next;
            Ok(order)
        }
        Ok(_) => Err(refused(id, Refusal::PaymentUnderWay)),
        Err(refusal) => Err(refused(id, refusal)),
    }
}

/// Has a verdict recorded for a request that has none.
fn record<'a>(
    Snapshot { orders, verdicts, .. }: &mut Snapshot<'a>,
    request: &'a PaymentRequest,
    (code, message): (Code, String),
) -> Answer {
    // Of an order that the sender knows.
    let order = orders.get(&request.order_id).filter(|_| code != Code::UnknownOrder);
    let item = order.map(|order| order.item.clone());
    verdicts.add(request, Verdict { item, ..Verdict::decided(&request.request_id, code, message, verdicts.now) })
}

mod paying;
#[cfg(test)]
mod tests;
mod words;
