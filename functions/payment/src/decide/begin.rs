//! Before the gateway is asked: whose payment begins, whose goes on, and who is refused. Pure.
//!
//! Invariant: the gateway is asked about an order only where its units are held, by its own request, and from then on they
//! stay held until that request's outcome is known.

use super::{Payment, Snapshot, Verdicts, refused, too_late, unknown};
use shared::handler::Answer;
use shared::messages::{PaymentRequest, Rejection, Request};
use shared::order::Cause;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use uuid::Uuid;

/// A batch whose payments are begun.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Begun {
    /// What comes next, for each request, in order.
    pub steps: Vec<Step>,
    /// The orders that become `paying`, each with the place of its request.
    pub new: BTreeMap<Uuid, usize>,
    /// The orders that are asked about again.
    pub again: BTreeSet<Uuid>,
    /// The refusals to record.
    pub verdicts: Verdicts,
}

/// What comes next for a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing: this is the answer.
    Answered(Answer),
    /// The gateway is asked about its order.
    Ask,
}

/// Decides `requests` in order.
#[must_use]
pub fn begin(requests: &[PaymentRequest], mut snapshot: Snapshot) -> Begun {
    let mut begun = Begun::default();
    let under_way = snapshot.payments.values().filter(|payment| payment.is_under_way);
    let mut paying: HashSet<String> = under_way.map(|payment| payment.request_id.clone()).collect();
    for (place, request) in requests.iter().enumerate() {
        let step = step(place, request, &mut snapshot, &mut paying, &mut begun);
        begun.steps.push(step);
    }
    begun
}

/// `paying` are the ids of the requests whose payments are under way.
fn step(
    place: usize,
    request: &PaymentRequest,
    snapshot: &mut Snapshot,
    paying: &mut HashSet<String>,
    begun: &mut Begun,
) -> Step {
    // Its own payment goes on, whatever became of the order meanwhile: the gateway may have taken the money. Also where
    // its id has a verdict by now: another function's request has used it, and this one has none before its payment ends.
    if snapshot.payments.get(&request.order_id).is_some_and(|payment| payment.is_by(request)) {
        if !begun.new.contains_key(&request.order_id) {
            begun.again.insert(request.order_id);
        }
        return Step::Ask;
    }
    if let Some(answer) = snapshot.recorded(request) {
        return Step::Answered(answer);
    }
    // By this id, but not this order, or not by this method.
    if paying.contains(&request.request_id) {
        return Step::Answered(Answer::Rejected(Rejection::reused(&request.request_id)));
    }
    let refusal = match snapshot.orders.get_mut(&request.order_id) {
        None => unknown(request.order_id),
        Some(order) => match order.state.after(Cause::PaymentBegun) {
            Ok(_) if order.hold_until <= snapshot.now => too_late(request.order_id),
            Ok(next) => {
                order.state = next;
                let (request_id, fingerprint) = (request.request_id.clone(), request.fingerprint());
                let payment = Payment { request_id, fingerprint, is_under_way: true };
                snapshot.payments.insert(request.order_id, payment);
                paying.insert(request.request_id.clone());
                begun.new.insert(request.order_id, place);
                return Step::Ask;
            }
            Err(refusal) => refused(request.order_id, refusal),
        },
    };
    Step::Answered(snapshot.record(request, refusal, &mut begun.verdicts))
}
