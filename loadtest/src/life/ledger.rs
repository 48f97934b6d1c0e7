//! The gateway's books: who was charged, who was declined, who got the money back. Pure.
//!
//! Invariant: one key is charged at most once, however often it is asked for, and never after it was refunded; the same
//! question gets the same answer.

use std::collections::HashMap;

use crate::life::plan::Share;
use crate::random::Random;

/// Keeps the choice of who is declined apart from other choices of the same seed.
const DECLINES: u64 = 2;
/// Keeps the choice of what goes wrong apart.
const FAILURES: u64 = 3;

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

/// What became of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The money is taken; the charge's id.
    Captured(String),
    /// It is not, and this is why.
    Declined(&'static str),
}

/// What goes wrong with one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The gateway says 500 before it has done anything.
    BeforeWork,
    /// It has done what was asked, and says 500.
    AfterWork,
    /// It has done what was asked, and the connection ends without an answer.
    Cut,
}

/// Everything that the gateway did.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// By the idempotency key.
    pub charges: HashMap<String, Charge>,
    /// By the key and the payment method.
    pub declines: HashMap<(String, String), u64>,
    /// Questions, of any kind and with any outcome.
    pub asked: u64,
    /// Answers that were spoilt on purpose.
    pub spoilt: u64,
    /// How often each key was asked with.
    attempts: HashMap<String, u64>,
}

/// How the gateway behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manners {
    /// Of all payment methods: those that are declined.
    pub decline: Share,
    /// Of all answers: those that are spoilt.
    pub failure: Share,
    /// Chooses both.
    pub seed: u64,
}

impl Ledger {
    /// Takes the money, unless this key was charged before, or this payment method is no good.
    pub fn charge(&mut self, key: &str, bill: Bill, manners: &Manners) -> Decision {
        if let Some(charge) = self.charges.get_mut(key) {
            let same = charge.bill.order_id == bill.order_id
                && charge.bill.item == bill.item
                && charge.bill.quantity == bill.quantity;
            charge.is_reused |= !same;
            return match charge.is_refunded {
                true => Decision::Declined("refunded"),
                false => Decision::Captured(charge.id.clone()),
            };
        }
        if manners.decline.hits(&mut Random::of(manners.seed, DECLINES, number_of(&bill.payment_method))) {
            *self.declines.entry((key.to_owned(), bill.payment_method)).or_default() += 1;
            return Decision::Declined("insufficient_funds");
        }
        let id = format!("charge-{}", self.charges.len() + 1);
        self.charges.insert(key.to_owned(), Charge { bill, id: id.clone(), is_refunded: false, is_reused: false });
        Decision::Captured(id)
    }

    /// Gives the money back; `false` where none was taken with this key.
    pub fn refund(&mut self, key: &str) -> bool {
        self.charges.get_mut(key).is_some_and(|charge| {
            charge.is_refunded = true;
            true
        })
    }

    /// Counts a question, and says what is to go wrong with its answer. Chosen by the key's payment method and by how often
    /// it was asked, not by the order in which questions come: so a seed spoils the same answers each time.
    pub fn asked(&mut self, key: &str, about: &str, manners: &Manners) -> Option<Fault> {
        self.asked += 1;
        let attempt = self.attempts.entry(key.to_owned()).or_default();
        *attempt += 1;
        let mut random = Random::of(manners.seed, FAILURES.wrapping_add(*attempt << 8), number_of(about));
        let fault = manners.failure.hits(&mut random).then(|| match random.below(3) {
            0 => Fault::BeforeWork,
            1 => Fault::AfterWork,
            _ => Fault::Cut,
        });
        self.spoilt += u64::from(fault.is_some());
        fault
    }

    /// The charges that were not refunded: whose money the shop has.
    pub fn kept(&self) -> impl Iterator<Item = (&str, &Charge)> {
        self.charges.iter().filter(|(_, charge)| !charge.is_refunded).map(|(key, charge)| (key.as_str(), charge))
    }
}

/// FNV-1a: a number of a text that stays the same with every version of everything.
fn number_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Manners = Manners { decline: Share::NONE, failure: Share::NONE, seed: 42 };

    fn bill(order: &str, payment_method: &str) -> Bill {
        Bill { order_id: order.into(), item: "ticket".into(), quantity: 1, payment_method: payment_method.into() }
    }

    #[test]
    fn one_key_is_charged_once_however_often_it_is_asked_for() {
        let mut ledger = Ledger::default();
        let first = ledger.charge("o-1", bill("o-1", "a"), &KIND);
        assert_eq!(ledger.charge("o-1", bill("o-1", "a"), &KIND), first);
        assert_ne!(ledger.charge("o-2", bill("o-2", "a"), &KIND), first);
        assert_eq!(ledger.kept().count(), 2);
        assert!(ledger.kept().all(|(_, charge)| !charge.is_reused));
        ledger.charge("o-1", bill("o-9", "a"), &KIND);
        assert!(ledger.charges["o-1"].is_reused, "one key for two orders is a fault");
    }

    #[test]
    fn a_refunded_charge_is_not_kept_and_never_taken_again() {
        let mut ledger = Ledger::default();
        assert!(!ledger.refund("o-1"), "there is nothing to give back");
        ledger.charge("o-1", bill("o-1", "a"), &KIND);
        assert!(ledger.refund("o-1") && ledger.refund("o-1"), "to ask twice is no fault");
        assert_eq!(ledger.kept().count(), 0);
        assert_eq!(ledger.charge("o-1", bill("o-1", "a"), &KIND), Decision::Declined("refunded"));
    }

    #[test]
    fn who_is_declined_follows_from_the_payment_method_and_another_one_may_do() {
        let manners = Manners { decline: "50%".parse().unwrap(), ..KIND };
        let mut ledger = Ledger::default();
        let mut declined =
            |card: &str| ledger.charge(card, bill(card, card), &manners) == Decision::Declined("insufficient_funds");
        let cards: Vec<String> = (0..1_000).map(|number| format!("card-{number}")).collect();
        let first: Vec<bool> = cards.iter().map(|card| declined(card)).collect();
        let again: Vec<bool> = cards.iter().map(|card| declined(card)).collect();
        assert_eq!(first, again);
        let count = first.iter().filter(|declined| **declined).count();
        assert!((430..570).contains(&count), "{count}");
        assert_eq!(ledger.charges.len() + ledger.declines.len(), 1_000);
    }

    #[test]
    fn answers_are_spoilt_in_each_of_three_ways_and_a_retry_gets_through() {
        let manners = Manners { failure: "50%".parse().unwrap(), ..KIND };
        let mut ledger = Ledger::default();
        let faults: Vec<Option<Fault>> = (0..100).map(|_| ledger.asked("o-1", "card", &manners)).collect();
        for fault in [None, Some(Fault::BeforeWork), Some(Fault::AfterWork), Some(Fault::Cut)] {
            assert!(faults.contains(&fault), "{fault:?}");
        }
        assert_eq!((ledger.asked, ledger.spoilt), (100, faults.iter().flatten().count() as u64));
    }
}
