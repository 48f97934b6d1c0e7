//! The gateway's books: who was charged, who was declined, who got the money back. Pure.
//!
//! Invariant: one key is charged at most once, however often it is asked for, and never after it was refunded; the same
//! question gets the same answer.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use uuid::Uuid;

/// How the gateway behaves; by default it captures whatever it is asked for, at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// Of all payment methods: how many are declined.
    pub decline_percent: u32,
    /// Of all answers: how many are spoilt.
    pub failure_percent: u32,
    /// Chooses both.
    pub seed: u64,
    /// How long it thinks before it answers; it has decided by then.
    pub latency: Duration,
    /// Payment methods that are declined, whatever the seed says.
    pub declined: HashSet<String>,
    /// Keys about which it says nothing, as long as they stand here.
    pub silent_on: HashSet<String>,
    /// How many of the next answers are lost on their way.
    pub lost_answers: u32,
    /// Does nothing, and says that it is out of order.
    pub is_away: bool,
}

/// What somebody asks the gateway to take.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Bill {
    /// What it is for.
    pub order_id: String,
    /// The item.
    pub item: String,
    /// Units.
    pub quantity: u32,
    /// Whom to charge.
    pub payment_method: String,
}

/// A charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// What was charged for: the first bill with this key.
    pub bill: Bill,
    /// The gateway's name for it.
    pub id: String,
    /// Whether the money went back.
    pub is_refunded: bool,
    /// Whether the same key came with another bill than the first; that is a fault of whoever asks.
    pub is_reused: bool,
}

/// Everything that the gateway did.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// By the idempotency key.
    pub charges: HashMap<String, Charge>,
    /// Questions, of any kind and with any outcome.
    pub asked: u64,
    /// Answers that were spoilt on purpose.
    pub spoilt: u64,
    /// How often each key was asked with, by what it was about: the payment method, or the key itself for a refund.
    pub attempts: HashMap<(String, String), u64>,
}

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// The money is taken; the charge's id.
    Captured(String),
    /// It is not, and this is why.
    Declined(&'static str),
}

/// What goes wrong with one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The gateway says 500 before it has done anything.
    BeforeWork,
    /// It has done what was asked, and says 500.
    AfterWork,
    /// It has done what was asked, and the connection ends without an answer.
    Cut,
}

impl Ledger {
    /// The charges that were not refunded: whose money the shop has.
    pub fn kept(&self) -> impl Iterator<Item = (&str, &Charge)> {
        self.charges.iter().filter(|(_, charge)| !charge.is_refunded).map(|(key, charge)| (key.as_str(), charge))
    }

    /// How often this key was asked with.
    #[must_use]
    pub fn asked_about(&self, key: &str) -> u64 {
        self.attempts.iter().filter(|((asked, _), _)| asked == key).map(|(_, attempts)| attempts).sum()
    }

    /// Captures the bill, as a gateway that declines nobody.
    pub fn capture(&mut self, key: &str, bill: Bill) -> &mut Charge {
        let id = format!("charge-{}", self.charges.len() + 1);
        let charge = Charge { bill, id, is_refunded: false, is_reused: false };
        self.charges.entry(key.to_owned()).or_insert(charge)
    }

    /// Gives the money back; `false` where none was taken with this key.
    pub fn refund(&mut self, key: &str) -> bool {
        self.charges.get_mut(key).is_some_and(|charge| {
            charge.is_refunded = true;
            true
        })
    }

    /// Takes the money, unless this key was charged before, or this payment method is no good.
    pub(super) fn charge(&mut self, key: &str, bill: Bill, behaviour: &Behaviour) -> Decision {
        if let Some(charge) = self.charges.get_mut(key) {
            let about = |bill: &Bill| (bill.order_id.clone(), bill.item.clone(), bill.quantity);
            charge.is_reused |= about(&charge.bill) != about(&bill);
            return match charge.is_refunded {
                true => Decision::Declined("refunded"),
                false => Decision::Captured(charge.id.clone()),
            };
        }
        let is_unlucky = percentile(behaviour.seed, &bill.payment_method) < behaviour.decline_percent;
        if is_unlucky || behaviour.declined.contains(&bill.payment_method) {
            return Decision::Declined("insufficient_funds");
        }
        Decision::Captured(self.capture(key, bill).id.clone())
    }

    /// Counts a question, and says what is to go wrong with its answer. Drawn by what it is about and how often that was
    /// asked, not by the order in which questions come: so a seed spoils the same answers each time.
    pub(super) fn asked(&mut self, key: &str, about: &str, behaviour: &mut Behaviour) -> Option<Fault> {
        self.asked += 1;
        let attempts = self.attempts.entry((key.to_owned(), about.to_owned())).or_default();
        *attempts += 1;
        let draw = |what: &str| percentile(behaviour.seed, &format!("{about}\n{attempts}\n{what}"));
        let fault = if behaviour.is_away {
            Some(Fault::BeforeWork)
        } else if behaviour.lost_answers > 0 {
            behaviour.lost_answers -= 1;
            Some(Fault::Cut)
        } else if draw("spoilt") < behaviour.failure_percent {
            Some([Fault::BeforeWork, Fault::AfterWork, Fault::Cut][draw("how") as usize % 3])
        } else {
            None
        };
        self.spoilt += u64::from(fault.is_some());
        fault
    }
}

/// 0 to 99, the same for the same seed and text with every version of everything.
fn percentile(seed: u64, text: &str) -> u32 {
    // The top bits: those below hold the UUID's version.
    let bits = Uuid::new_v5(&Uuid::from_u128(seed.into()), text.as_bytes()).as_u128() >> 96;
    (bits % 100) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bill(order: &str, payment_method: &str) -> Bill {
        Bill { order_id: order.into(), item: "ticket".into(), quantity: 1, payment_method: payment_method.into() }
    }

    #[test]
    fn one_key_is_charged_once_however_often_it_is_asked_for() {
        let (mut ledger, kind) = (Ledger::default(), Behaviour::default());
        let first = ledger.charge("o-1", bill("o-1", "a"), &kind);
        assert_eq!(ledger.charge("o-1", bill("o-1", "b"), &kind), first, "whatever the payment method");
        assert_ne!(ledger.charge("o-2", bill("o-2", "a"), &kind), first);
        assert_eq!(ledger.kept().count(), 2);
        assert!(ledger.kept().all(|(_, charge)| !charge.is_reused));
        ledger.charge("o-1", bill("o-9", "a"), &kind);
        assert!(ledger.charges["o-1"].is_reused, "one key for two orders is a fault");
    }

    #[test]
    fn a_refunded_charge_is_not_kept_and_never_taken_again() {
        let mut ledger = Ledger::default();
        assert!(!ledger.refund("o-1"), "there is nothing to give back");
        ledger.capture("o-1", bill("o-1", "a"));
        assert!(ledger.refund("o-1") && ledger.refund("o-1"), "to ask twice is no fault");
        assert_eq!(ledger.kept().count(), 0);
        let again = ledger.charge("o-1", bill("o-1", "a"), &Behaviour::default());
        assert_eq!(again, Decision::Declined("refunded"));
    }

    #[test]
    fn who_is_declined_follows_from_the_payment_method_and_another_one_may_do() {
        let behaviour = Behaviour { decline_percent: 50, seed: 42, ..Behaviour::default() };
        let mut ledger = Ledger::default();
        let mut declined =
            |card: &str| ledger.charge(card, bill(card, card), &behaviour) == Decision::Declined("insufficient_funds");
        let cards: Vec<String> = (0..1_000).map(|number| format!("card-{number}")).collect();
        let first: Vec<bool> = cards.iter().map(|card| declined(card)).collect();
        let again: Vec<bool> = cards.iter().map(|card| declined(card)).collect();
        assert_eq!(first, again);
        let count = first.iter().filter(|declined| **declined).count();
        assert!((430..570).contains(&count), "{count}");
        assert_eq!(ledger.charges.len() + count, 1_000);
    }

    #[test]
    fn answers_are_spoilt_in_each_of_three_ways_and_a_retry_gets_through() {
        let mut behaviour = Behaviour { failure_percent: 50, seed: 42, ..Behaviour::default() };
        let mut ledger = Ledger::default();
        let faults: Vec<Option<Fault>> = (0..100).map(|_| ledger.asked("o-1", "card", &mut behaviour)).collect();
        for fault in [None, Some(Fault::BeforeWork), Some(Fault::AfterWork), Some(Fault::Cut)] {
            assert!(faults.contains(&fault), "{fault:?}");
        }
        assert_eq!((ledger.asked, ledger.spoilt), (100, faults.iter().flatten().count() as u64));
    }
}
