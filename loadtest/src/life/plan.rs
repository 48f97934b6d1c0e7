//! What each buyer does with what was reserved: pay, cancel, or let the hold run out. Pure.
//!
//! Invariant: the same plan gives the same buyer the same wish, and the same request id for it, for ever; so to ask again
//! is to send the same message again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use shared::messages::{PAYMENT_QUEUE, PaymentRequest, RELEASE_QUEUE, ReleaseRequest};
use uuid::Uuid;

use crate::random::Random;
use crate::schedule::Schedule;

/// All of a share.
const PERCENT_MAX: u8 = 100;
/// Keeps the choice of wishes apart from other choices of the same seed.
const WISHES: u64 = 1;
/// What a follow-up's request id is made of, beside the purchase's.
const FOLLOW_UP: &[u8] = b"follow-up";

/// A share of many, in whole percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u8);

impl Share {
    /// None of all.
    pub const NONE: Self = Self(0);

    /// In percent, 0 to 100.
    #[must_use]
    pub fn percent(self) -> u32 {
        u32::from(self.0)
    }

    /// Whether both together are no more than all.
    #[must_use]
    pub fn fits_with(self, other: Self) -> bool {
        self.percent() + other.percent() <= u32::from(PERCENT_MAX)
    }

    /// A draw that says yes for this share of all draws.
    pub(crate) fn hits(self, random: &mut Random) -> bool {
        random.below(u32::from(PERCENT_MAX)) < self.percent()
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

/// Who does what with the units that are reserved for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Plan {
    /// Of those who got units: who pays.
    pub pay: Share,
    /// Of those who got units: who cancels. The rest let their hold run out.
    pub cancel: Share,
    /// How long an order holds its units; `None` holds them for longer than any sale.
    pub hold: Option<Duration>,
    /// Chooses who does what.
    pub seed: u64,
}

/// What a buyer does with an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Pays at once.
    Pay,
    /// Cancels at once.
    Cancel,
    /// Nothing, until its hold runs out.
    LetRunOut,
}

impl Plan {
    /// What the buyer with this index does.
    #[must_use]
    pub fn wish(&self, index: usize) -> Wish {
        let drawn = Random::of(self.seed, WISHES, index as u64).below(u32::from(PERCENT_MAX));
        if drawn < self.pay.percent() {
            Wish::Pay
        } else if drawn < self.pay.percent() + self.cancel.percent() {
            Wish::Cancel
        } else {
            Wish::LetRunOut
        }
    }
}

/// A buyer's second message, about the order that the first one got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowUp {
    /// The buyer.
    pub index: usize,
    /// Its own, unique to this run.
    pub request_id: Uuid,
    /// The order.
    pub order_id: Uuid,
    /// [`Wish::Pay`] or [`Wish::Cancel`].
    pub wish: Wish,
}

impl FollowUp {
    /// The request id of the follow-up to this purchase.
    #[must_use]
    pub fn request_id_of(purchase: Uuid) -> Uuid {
        Uuid::new_v5(&purchase, FOLLOW_UP)
    }

    /// What the buyer pays with: of each buyer another.
    #[must_use]
    pub fn payment_method_of(index: usize) -> String {
        format!("card-of-{}", Schedule::buyer(index))
    }

    /// The queue that it is for.
    #[must_use]
    pub fn queue(&self) -> &'static str {
        match self.wish {
            Wish::Pay => PAYMENT_QUEUE,
            Wish::Cancel | Wish::LetRunOut => RELEASE_QUEUE,
        }
    }

    /// The message's body.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let (request_id, order_id) = (self.request_id.to_string(), self.order_id);
        let body = match self.wish {
            Wish::Pay => {
                let payment_method = Self::payment_method_of(self.index);
                serde_json::to_vec(&PaymentRequest { request_id, order_id, payment_method })
            }
            Wish::Cancel | Wish::LetRunOut => serde_json::to_vec(&ReleaseRequest { request_id, order_id }),
        };
        body.expect("a request has only strings")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::messages::Request;

    fn plan(pay: &str, cancel: &str) -> Plan {
        Plan { pay: pay.parse().unwrap(), cancel: cancel.parse().unwrap(), hold: None, seed: 42 }
    }

    #[test]
    fn a_share_is_a_whole_percentage() {
        assert_eq!("25%".parse::<Share>().unwrap().to_string(), "25%");
        for wrong in ["25", "101%", "-1%", "2.5%", "", "%", "+5%"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_wishes_have_their_shares_and_follow_from_the_seed() {
        let count = |plan: Plan, wish| (0..10_000).filter(|&index| plan.wish(index) == wish).count();
        let some = plan("50%", "10%");
        assert!((4_800..5_200).contains(&count(some, Wish::Pay)), "{}", count(some, Wish::Pay));
        assert!((900..1_100).contains(&count(some, Wish::Cancel)), "{}", count(some, Wish::Cancel));
        assert_eq!(count(plan("100%", "0%"), Wish::Pay), 10_000);
        assert_eq!(count(plan("0%", "0%"), Wish::LetRunOut), 10_000);
        let wishes = |plan: Plan| (0..100).map(|index| plan.wish(index)).collect::<Vec<_>>();
        assert_eq!(wishes(some), wishes(some));
        assert_ne!(wishes(some), wishes(Plan { seed: 43, ..some }));
    }

    #[test]
    fn a_follow_up_is_a_message_that_the_contract_allows() {
        let purchase = Uuid::from_u128(7);
        let request_id = FollowUp::request_id_of(purchase);
        assert_ne!(request_id, purchase);
        let follow_up = |wish| FollowUp { index: 3, request_id, order_id: Uuid::from_u128(8), wish };
        let pays = PaymentRequest::decode(&follow_up(Wish::Pay).body(), None).unwrap();
        assert_eq!((pays.order_id, pays.payment_method.as_str()), (Uuid::from_u128(8), "card-of-buyer-3"));
        let cancels = ReleaseRequest::decode(&follow_up(Wish::Cancel).body(), None).unwrap();
        assert_eq!(cancels.request_id, request_id.to_string());
    }
}
