//! What each buyer does with what was reserved: pay, cancel, or let the hold run out. Pure.
//!
//! The same plan gives the same buyer the same follow-up, with the same request id; so to ask again is to send the same
//! message again.

use crate::random::Random;
use crate::schedule::Schedule;
use clap::Args;
use serde::{Serialize, Serializer};
use shared::devstack::gateway::Behaviour;
use shared::messages::{PAYMENT_QUEUE, PaymentRequest, RELEASE_QUEUE, ReleaseRequest};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use uuid::Uuid;

const PERCENT_MAX: u8 = 100;
/// Keeps the choice of follow-ups apart from other choices of the same seed.
const FOLLOW_UPS: u64 = 1;
/// What a follow-up's request id is made of, beside the purchase's.
const FOLLOW_UP: &[u8] = b"follow-up";
/// The longest hold, and the longest that the gateway may think.
const TIME_MS_MAX: u64 = 3_600_000;

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

/// Who does what with the units that are reserved for them, and how the payment gateway behaves: as options, and as keys of
/// the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Args, Serialize)]
pub struct Plan {
    /// Of the buyers who get units: how many pay at once, such as 50%.
    #[arg(long, value_name = "PERCENT")]
    pub pay_share: Option<Share>,
    /// How many cancel at once. The rest let their hold run out.
    #[arg(long, value_name = "PERCENT")]
    pub cancel_share: Option<Share>,
    /// How long an order holds its units, such as 2s, 500ms or 1m; the run then lasts until the last hold has ended [default:
    /// longer than the sale].
    #[arg(long = "hold", value_name = "TIME", value_parser = parse_ms)]
    pub hold_ms: Option<u64>,
    /// Of the payment methods: how many the gateway declines.
    #[arg(long, value_name = "PERCENT", default_value_t)]
    pub decline_share: Share,
    /// Of the gateway's answers: how many are spoilt, as a 500 or a connection that is cut, before or after the money was
    /// taken.
    #[arg(long, value_name = "PERCENT", default_value_t)]
    pub gateway_failure_share: Share,
    /// How long the gateway thinks.
    #[arg(long = "gateway-latency", value_name = "TIME", default_value = "20ms", value_parser = parse_ms)]
    pub gateway_latency_ms: u64,
    #[arg(skip)]
    #[serde(skip)]
    pub seed: u64,
}

impl Plan {
    /// `None` where buyers do nothing with their units.
    pub fn with_seed(self, seed: u64) -> Option<Self> {
        let is_wanted = self.pay_share.is_some() || self.cancel_share.is_some() || self.hold_ms.is_some();
        let share = |given: Option<Share>| Some(given.unwrap_or_default());
        let (pay_share, cancel_share) = (share(self.pay_share), share(self.cancel_share));
        is_wanted.then_some(Self { pay_share, cancel_share, seed, ..self })
    }

    /// `None` holds units for longer than any sale.
    pub fn hold(&self) -> Option<Duration> {
        self.hold_ms.map(Duration::from_millis)
    }

    /// Of those who get units, in percent: who pays, and who pays or cancels.
    pub fn percents(&self) -> (u32, u32) {
        let percent = |share: Option<Share>| share.unwrap_or_default().percent();
        (percent(self.pay_share), percent(self.pay_share) + percent(self.cancel_share))
    }

    /// What the buyer with this index does at once with an order; `None` lets its hold run out.
    pub fn follow_up(&self, index: usize) -> Option<FollowUpKind> {
        let drawn = Random::of(self.seed, FOLLOW_UPS, index as u64).below(u32::from(PERCENT_MAX));
        let (pay, pay_or_cancel) = self.percents();
        match drawn {
            _ if drawn < pay => Some(FollowUpKind::Pay),
            _ if drawn < pay_or_cancel => Some(FollowUpKind::Cancel),
            _ => None,
        }
    }

    pub fn gateway(&self, seed: u64) -> Behaviour {
        Behaviour {
            decline_percent: self.decline_share.percent(),
            failure_percent: self.gateway_failure_share.percent(),
            latency: Duration::from_millis(self.gateway_latency_ms),
            seed,
            ..Behaviour::default()
        }
    }
}

fn parse_ms(text: &str) -> Result<u64, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000)];
    let ms = units.into_iter().find_map(|(unit, ms)| text.strip_suffix(unit)?.parse::<u64>().ok()?.checked_mul(ms));
    let allowed = ms.filter(|ms| (1..=TIME_MS_MAX).contains(ms));
    allowed.ok_or_else(|| "a time is 1ms to 60m, such as 500ms, 2s or 1m".to_owned())
}

/// A buyer's second message, about the order that the first one got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowUp {
    /// The buyer's.
    pub index: usize,
    pub request_id: Uuid,
    pub order_id: Uuid,
    pub kind: FollowUpKind,
    /// When its buyer had the purchase's verdict, from the start of the sale.
    pub at: Duration,
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

    pub fn exchange(&self) -> &'static str {
        match self.kind {
            FollowUpKind::Pay => PAYMENT_QUEUE,
            FollowUpKind::Cancel => RELEASE_QUEUE,
        }
    }

    pub fn body(&self) -> Vec<u8> {
        let (request_id, order_id) = (self.request_id.to_string(), self.order_id);
        let body = match self.kind {
            FollowUpKind::Pay => {
                let payment_method = card_of(&Schedule::buyer(self.index));
                serde_json::to_vec(&PaymentRequest { request_id, order_id, payment_method, sender: None })
            }
            FollowUpKind::Cancel => serde_json::to_vec(&ReleaseRequest { request_id, order_id, sender: None }),
        };
        body.expect("a request has only strings")
    }
}

/// Of each buyer another.
pub(crate) fn card_of(buyer: &str) -> String {
    format!("card-of-{buyer}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::messages::{PaymentMessage, Request};

    #[test]
    fn a_share_is_a_whole_percentage_and_a_time_has_a_unit_and_bounds() {
        assert_eq!("25%".parse::<Share>().unwrap().to_string(), "25%");
        for wrong in ["25", "101%", "-1%", "2.5%", "", "%", "+5%"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
        for (text, ms) in [("1ms", 1), ("2s", 2_000), ("60m", 3_600_000)] {
            assert_eq!(parse_ms(text), Ok(ms));
        }
        for wrong in ["", "5", "ms", "0s", "61m", "-1s", "1.5s", "1h"] {
            assert!(parse_ms(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_follow_ups_have_their_shares_and_follow_from_the_seed() {
        let plan = |pay, cancel, seed| Plan {
            pay_share: Some(Share(pay)),
            cancel_share: Some(Share(cancel)),
            seed,
            ..Plan::default()
        };
        let count = |plan: Plan, kind| (0..10_000).filter(|&index| plan.follow_up(index) == kind).count();
        let some = plan(50, 10, 42);
        let (pay, cancel) = (count(some, Some(FollowUpKind::Pay)), count(some, Some(FollowUpKind::Cancel)));
        assert!((4_800..5_200).contains(&pay) && (900..1_100).contains(&cancel), "{pay} {cancel}");
        assert_eq!(count(plan(100, 0, 42), Some(FollowUpKind::Pay)), 10_000);
        assert_eq!(count(plan(0, 0, 42), None), 10_000);
        let kinds = |plan: Plan| (0..100).map(|index| plan.follow_up(index)).collect::<Vec<_>>();
        assert_eq!(kinds(some), kinds(some));
        assert_ne!(kinds(some), kinds(plan(50, 10, 43)));
    }

    #[test]
    fn a_follow_up_is_a_message_that_the_contract_allows() {
        let purchase = Uuid::from_u128(7);
        let (request_id, order_id) = (FollowUp::request_id_of(purchase), Uuid::from_u128(8));
        assert_ne!(request_id, purchase);
        let body = |kind| FollowUp { index: 3, request_id, order_id, kind, at: Duration::ZERO }.body();
        let (request_id, payment_method) = (request_id.to_string(), "card-of-buyer-3".to_owned());
        let pays = PaymentRequest { request_id: request_id.clone(), order_id, payment_method, sender: None };
        let decoded = PaymentMessage::decode(&body(FollowUpKind::Pay), None);
        assert_eq!(decoded, Ok(PaymentMessage::Pay(pays)));
        let cancels = ReleaseRequest::decode(&body(FollowUpKind::Cancel), None).unwrap();
        assert_eq!(cancels.request_id, request_id);
    }
}
