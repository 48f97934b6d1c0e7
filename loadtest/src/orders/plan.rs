//! What each buyer does with what was reserved: pay, cancel, or let the hold run out. Pure.
//!
//! The same plan gives the same buyer the same follow-up, with the same request id; so to ask again is to send the same
//! message again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use shared::devstack::gateway::Behaviour;
use shared::messages::{PAYMENT_QUEUE, PaymentRequest, RELEASE_QUEUE, ReleaseRequest};
use uuid::Uuid;

use crate::random::Random;
use crate::schedule::Schedule;

const PERCENT_MAX: u8 = 100;
/// Keeps the choice of follow-ups apart from other choices of the same seed.
const FOLLOW_UPS: u64 = 1;
/// What a follow-up's request id is made of, beside the purchase's.
const FOLLOW_UP: &[u8] = b"follow-up";

/// A share of many, in whole percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share(u8);

impl Share {
    pub fn percent(self) -> u32 {
        u32::from(self.0)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
        let percent = digits.and_then(|digits| digits.parse().ok()).filter(|percent| *percent <= PERCENT_MAX);
        percent.map(Self).ok_or_else(|| "a share is a whole percentage, 0% to 100%, such as 25%".to_owned())
    }
}

impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}%", self.0)
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Who does what with the units that are reserved for them, and how the payment gateway behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// Of those who got units.
    pub pay: Share,
    /// Of those who got units. The rest let their hold run out.
    pub cancel: Share,
    /// `None` holds units for longer than any sale.
    pub hold: Option<Duration>,
    /// Of the payment methods.
    pub decline: Share,
    /// Of the gateway's answers: those that it spoils.
    pub gateway_failure: Share,
    pub gateway_latency: Duration,
    pub seed: u64,
}

impl Plan {
    /// What the buyer with this index does at once with an order; `None` lets its hold run out.
    pub fn follow_up(&self, index: usize) -> Option<FollowUpKind> {
        let drawn = Random::of(self.seed, FOLLOW_UPS, index as u64).below(u32::from(PERCENT_MAX));
        if drawn < self.pay.percent() {
            Some(FollowUpKind::Pay)
        } else if drawn < self.pay.percent() + self.cancel.percent() {
            Some(FollowUpKind::Cancel)
        } else {
            None
        }
    }

    pub fn gateway(&self) -> Behaviour {
        Behaviour {
            decline_percent: self.decline.percent(),
            failure_percent: self.gateway_failure.percent(),
            latency: self.gateway_latency,
            seed: self.seed,
            ..Behaviour::default()
        }
    }
}

/// A buyer's second message, about the order that the first one got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowUp {
    /// The buyer's.
    pub index: usize,
    pub request_id: Uuid,
    pub order_id: Uuid,
    pub kind: FollowUpKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowUpKind {
    Pay,
    Cancel,
}

impl FollowUp {
    /// The request id of the follow-up to this purchase.
    pub fn request_id_of(purchase: Uuid) -> Uuid {
        Uuid::new_v5(&purchase, FOLLOW_UP)
    }

    pub fn queue(&self) -> &'static str {
        match self.kind {
            FollowUpKind::Pay => PAYMENT_QUEUE,
            FollowUpKind::Cancel => RELEASE_QUEUE,
        }
    }

    pub fn body(&self) -> Vec<u8> {
        let (request_id, order_id) = (self.request_id.to_string(), self.order_id);
        let body = match self.kind {
            FollowUpKind::Pay => {
                // Of each buyer another.
                let payment_method = format!("card-of-{}", Schedule::buyer(self.index));
                serde_json::to_vec(&PaymentRequest { request_id, order_id, payment_method })
            }
            FollowUpKind::Cancel => serde_json::to_vec(&ReleaseRequest { request_id, order_id }),
        };
        body.expect("a request has only strings")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::messages::Request;

    fn plan(pay: &str, cancel: &str) -> Plan {
        Plan { pay: pay.parse().unwrap(), cancel: cancel.parse().unwrap(), seed: 42, ..Plan::default() }
    }

    #[test]
    fn a_share_is_a_whole_percentage() {
        assert_eq!("25%".parse::<Share>().unwrap().to_string(), "25%");
        for wrong in ["25", "101%", "-1%", "2.5%", "", "%", "+5%"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_follow_ups_have_their_shares_and_follow_from_the_seed() {
        let count = |plan: Plan, kind| (0..10_000).filter(|&index| plan.follow_up(index) == kind).count();
        let some = plan("50%", "10%");
        assert!(
            (4_800..5_200).contains(&count(some, Some(FollowUpKind::Pay))),
            "{}",
            count(some, Some(FollowUpKind::Pay))
        );
        assert!(
            (900..1_100).contains(&count(some, Some(FollowUpKind::Cancel))),
            "{}",
            count(some, Some(FollowUpKind::Cancel))
        );
        assert_eq!(count(plan("100%", "0%"), Some(FollowUpKind::Pay)), 10_000);
        assert_eq!(count(plan("0%", "0%"), None), 10_000);
        let kinds = |plan: Plan| (0..100).map(|index| plan.follow_up(index)).collect::<Vec<_>>();
        assert_eq!(kinds(some), kinds(some));
        assert_ne!(kinds(some), kinds(Plan { seed: 43, ..some }));
    }

    #[test]
    fn a_follow_up_is_a_message_that_the_contract_allows() {
        let purchase = Uuid::from_u128(7);
        let request_id = FollowUp::request_id_of(purchase);
        assert_ne!(request_id, purchase);
        let follow_up = |kind| FollowUp { index: 3, request_id, order_id: Uuid::from_u128(8), kind };
        let pays = PaymentRequest::decode(&follow_up(FollowUpKind::Pay).body(), None).unwrap();
        assert_eq!((pays.order_id, pays.payment_method.as_str()), (Uuid::from_u128(8), "card-of-buyer-3"));
        let cancels = ReleaseRequest::decode(&follow_up(FollowUpKind::Cancel).body(), None).unwrap();
        assert_eq!(cancels.request_id, request_id.to_string());
    }
}
