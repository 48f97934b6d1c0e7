//! The rules of an item's sale: who may buy it, when, and how much of it. Each refusal has its code, and says when, or what,
//! would be allowed.
//!
//! Pure. Invariant: of the rules that refuse a buyer, one that no waiting cures is named first, so that nobody comes back
//! tomorrow to hear what they could have heard today.

use shared::messages::time::text;
use shared::messages::{Code, PurchaseRequest};
use time::{Duration, OffsetDateTime};

/// What the names of an item's tiers take of a refusal, in bytes: a reply to 1,000 requests is a megabyte at most.
const TIERS_BYTES_MAX: usize = 256;
const OR: &str = " or ";

/// Why a request gets nothing, for programs and for people.
pub type Refusal = (Code, String);

/// The rules of one item, combined freely: a request must pass each of them. By default there is none.
#[derive(Debug, Clone, Default, sqlx_macros::FromRow)]
pub struct Rules {
    pub opens_at: Option<OffsetDateTime>,
    pub closes_at: Option<OffsetDateTime>,
    /// Only buyers of one of these tiers.
    pub tiers: Option<Vec<String>>,
    /// No second purchase by the same buyer within this time.
    pub cooldown_ms: Option<i64>,
    /// Units that one buyer may hold and have paid for, in all.
    pub max_per_buyer: Option<i64>,
}

/// What is known of a buyer, where the rules look at it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Buyer<'a> {
    pub tier: Option<&'a str>,
    pub history: BuyerHistory,
}

/// What a buyer has of an item: reserved, being paid for, or paid. An order that was cancelled or that expired gave its
/// units back, and is no purchase: it counts towards neither limit nor cooldown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx_macros::FromRow)]
pub struct BuyerHistory {
    /// Of all these orders.
    pub units: i64,
    /// When the last of them was reserved.
    pub last_at: Option<OffsetDateTime>,
}

impl BuyerHistory {
    /// The same after one more purchase.
    #[must_use]
    pub fn after(self, quantity: u32, at: OffsetDateTime) -> Self {
        Self { units: self.units.saturating_add(i64::from(quantity)), last_at: self.last_at.max(Some(at)) }
    }
}

impl Rules {
    #[must_use]
    pub fn look_at_history(&self) -> bool {
        self.cooldown_ms.is_some() || self.max_per_buyer.is_some()
    }

    #[must_use]
    pub fn look_at_tier(&self) -> bool {
        self.tiers.is_some()
    }

    /// Whether a decision rests on more than the item's row.
    #[must_use]
    pub fn look_at_buyers(&self) -> bool {
        self.look_at_history() || self.look_at_tier()
    }

    /// Why the request gets nothing, however much is left, or `None`: the rules allow it.
    ///
    /// The sale window comes first. Of those that speak of the buyer, the tier and a limit that is used up come before the
    /// cooldown: waiting does not cure them. A limit that leaves something comes after it: while a cooldown runs, no
    /// quantity would be allowed.
    #[must_use]
    pub fn refuse(&self, request: &PurchaseRequest, now: OffsetDateTime, buyer: &Buyer) -> Option<Refusal> {
        let history = &buyer.history;
        self.refuse_time(&request.item, now)
            .or_else(|| self.refuse_tier(&request.item, buyer.tier))
            .or_else(|| self.refuse_beyond(request, history, 1))
            .or_else(|| self.refuse_soon(&request.item, now, history))
            .or_else(|| self.refuse_beyond(request, history, i64::from(request.quantity)))
    }

    fn refuse_time(&self, item: &str, now: OffsetDateTime) -> Option<Refusal> {
        if let Some(opens_at) = self.opens_at.filter(|opens_at| now < *opens_at) {
            return Some((Code::SaleNotOpen, format!("The sale of {item} opens at {}.", text(opens_at))));
        }
        let closes_at = self.closes_at.filter(|closes_at| *closes_at <= now)?;
        Some((Code::SaleClosed, format!("The sale of {item} closed at {}.", text(closes_at))))
    }

    fn refuse_tier(&self, item: &str, tier: Option<&str>) -> Option<Refusal> {
        let tiers = self.tiers.as_ref()?;
        if tier.is_some_and(|tier| tiers.iter().any(|one| one == tier)) {
            return None;
        }
        let yours = tier.map_or("you have none".to_owned(), |tier| format!("yours is {tier}"));
        Some((Code::NotEligible, format!("{item} is for buyers of tier {} only; {yours}.", named(tiers))))
    }

    fn refuse_soon(&self, item: &str, now: OffsetDateTime, history: &BuyerHistory) -> Option<Refusal> {
        let last_at = history.last_at?;
        let allowed_at = last_at + Duration::milliseconds(self.cooldown_ms?);
        let message =
            || format!("You bought {item} at {}; you may buy more of it from {} on.", text(last_at), text(allowed_at));
        (now < allowed_at).then(|| (Code::Cooldown, message()))
    }

    /// Refuses where not even `units` more would be allowed.
    fn refuse_beyond(&self, request: &PurchaseRequest, history: &BuyerHistory, units: i64) -> Option<Refusal> {
        let (max, has) = (self.max_per_buyer?, history.units);
        // Nothing, too, where the limit was lowered below what they have.
        let room = max.saturating_sub(has).max(0);
        if units <= room {
            return None;
        }
        let may = if room == 0 { "no more".to_owned() } else { format!("{room} more, not {}", request.quantity) };
        let item = &request.item;
        let message =
            format!("One buyer may have {max} of {item}, held and paid for; you have {has}, so you may ask for {may}.");
        Some((Code::BuyerLimit, message))
    }
}

/// The tiers by name, as far as there is room.
fn named(tiers: &[String]) -> String {
    let mut bytes = 0;
    let fits = |tier: &&String| {
        bytes += tier.len() + OR.len();
        bytes <= TIERS_BYTES_MAX
    };
    let named = tiers.iter().take_while(fits).count();
    tiers[..named].join(OR) + if named < tiers.len() { " or others" } else { "" }
}

#[cfg(test)]
mod tests;
