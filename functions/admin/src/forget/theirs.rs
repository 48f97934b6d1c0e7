//! Whose a verdict is.

use shared::messages::{Identity, PurchaseRequest, QUANTITY_MAX, Verdict};
use sqlx_macros::FromRow;
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// Of so many items the buyer's fingerprints are kept in memory: 16 KB each.
const ITEMS_MAX: usize = 1_000;

/// What is the buyer's.
pub(super) struct Theirs<'a> {
    pub buyer: &'a str,
    pub orders: HashSet<Uuid>,
    /// Of all that they may have asked for, by item.
    pub fingerprints: HashMap<String, HashSet<Uuid>>,
}

impl Theirs<'_> {
    pub(super) fn has(&mut self, row: &Row) -> bool {
        // Forgotten before, of whomever.
        if row.fingerprint.is_nil() {
            return row.is_named;
        }
        // What they bought since the orders were read is open, and is found the next time.
        match order_of(&row.reply) {
            Some(order) => self.orders.contains(&order),
            None => row.item.as_ref().is_some_and(|item| self.may_ask_for(item).contains(&row.fingerprint)),
        }
    }

    fn may_ask_for(&mut self, item: &str) -> &HashSet<Uuid> {
        if self.fingerprints.len() >= ITEMS_MAX && !self.fingerprints.contains_key(item) {
            self.fingerprints.clear();
        }
        self.fingerprints.entry(item.to_owned()).or_insert_with(|| {
            let (item, buyer) = (item.to_owned(), self.buyer.to_owned());
            let mut request =
                PurchaseRequest { request_id: String::new(), item, buyer, quantity: 0, deadline: None, sender: None };
            let fingerprints = (1..=QUANTITY_MAX).map(|quantity| {
                request.quantity = quantity;
                request.fingerprint()
            });
            fingerprints.collect()
        })
    }
}

/// The order that a reply is about: what was reserved, or what the message of a payment or a release names.
pub(super) fn order_of(reply: &str) -> Option<Uuid> {
    let verdict: Verdict = serde_json::from_str(reply).ok()?;
    let named = || verdict.message.split_once("order ")?.1.get(..36)?.parse().ok();
    verdict.order.as_ref().map(|order| order.id).or_else(named)
}

#[derive(FromRow)]
pub(super) struct Row {
    pub request_id: String,
    item: Option<String>,
    /// Without the deadline, where that is known.
    fingerprint: Uuid,
    /// Empty where no order is named in it.
    pub reply: String,
    /// Whether the request id names the buyer.
    pub is_named: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_names_the_order_that_it_is_about() {
        let id = Uuid::now_v7();
        let verdict = |rest: String| format!(r#"{{"request_id":"r","status":"done","code":"paid",{rest}}}"#);
        let hold = "2026-11-29T00:00:00.000000Z";
        let order = format!(
            r#""message":"","order":{{"id":"{id}","item":"a","quantity":1,"hold_until":"{hold}"}},"decided_at":"{hold}""#
        );
        for (reply, expected) in [
            (verdict(order), Some(id)),
            (verdict(format!(r#""message":"The payment of the order {id} was declined.""#)), Some(id)),
            (verdict(r#""message":"There is no order ä.""#.to_owned()), None),
            (String::new(), None),
        ] {
            assert_eq!(order_of(&reply), expected, "{reply}");
        }
    }
}
