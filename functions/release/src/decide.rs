//! The decision on release requests, pure: requests and what the database said of them in, answers and cancellations out.
//!
//! Invariants: deciding a batch is deciding its requests one by one, in order; and an order is cancelled once.

use shared::handler::Answer;
use shared::idempotency::Verdicts;
use shared::messages::{Code, Identity, ReleaseRequest, Verdict};
use shared::order::store::{Order, Units};
use shared::order::{Cause, Refusal};
use std::collections::HashMap;
use uuid::Uuid;

/// A decided batch.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// One for each request, in order.
    pub answers: Vec<Answer>,
    /// Each with the request that asked for it.
    pub cancelled: Vec<(Uuid, &'a str)>,
    /// What goes back with them.
    pub units: Units,
}

/// Decides `requests` in order, on the orders that they ask about and that exist.
pub fn decide<'a>(
    requests: &'a [ReleaseRequest],
    mut orders: HashMap<Uuid, Order>,
    verdicts: &mut Verdicts<'a>,
) -> Plan<'a> {
    let mut plan = Plan::default();
    for request in requests {
        let answer = verdicts.answer(request).unwrap_or_else(|| {
            // Another sender's is as if there were none.
            let mut order = orders.get_mut(&request.order_id).filter(|order| order.is_open_to(request.sender()));
            let (code, message) = cancel(request, order.as_deref_mut(), &mut plan);
            let item = order.map(|order| order.item.clone());
            verdicts
                .add(request, Verdict { item, ..Verdict::decided(&request.request_id, code, message, verdicts.now) })
        });
        plan.answers.push(answer);
    }
    plan
}

/// Cancels the order if that can be, and says what became of it.
fn cancel<'a>(request: &'a ReleaseRequest, order: Option<&mut Order>, plan: &mut Plan<'a>) -> (Code, String) {
    let id = request.order_id;
    let Some(order) = order else { return (Code::UnknownOrder, format!("There is no order {id}.")) };
    match order.state.after(Cause::Cancel) {
        Ok(next) => {
            order.state = next;
            plan.cancelled.push((id, &request.request_id));
            let Order { item, quantity, .. } = order;
            *plan.units.entry(item.clone()).or_default() += *quantity;
            let units = if *quantity == 1 { "unit is" } else { "units are" };
            (Code::Cancelled, format!("The order {id} is cancelled; {quantity} {units} on sale again: {item}."))
        }
        Err(Refusal::AlreadyCancelled) => (Code::AlreadyCancelled, format!("The order {id} was cancelled before.")),
        Err(Refusal::AlreadyExpired) => (Code::AlreadyExpired, format!("The hold of the order {id} ran out before.")),
        Err(Refusal::AlreadyPaid) => (Code::AlreadyPaid, format!("The order {id} is paid for.")),
        Err(Refusal::PaymentUnderWay) => (Code::PaymentUnderWay, format!("The order {id} is being paid for.")),
        Err(Refusal::NoPaymentUnderWay) => unreachable!("a cancellation is no outcome of a payment"),
    }
}
