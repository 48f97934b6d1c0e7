//! The rules of an item's sale: who may buy it, when, and how much of it. What one `WHERE` clause cannot say: each refusal
//! has its code, and says when, or what, would be allowed.
//!
//! Pure: "now" is the database's, and what is known of the buyer is handed in. Invariant: of the rules that refuse a buyer,
//! one that no waiting cures is told first, so that nobody comes back tomorrow to hear what he could have heard today.

use shared::messages::{Code, PurchaseRequest};
use std::time::Duration;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The rules of one item, combined freely: a request must pass each of them. By default there is none.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The sale begins.
    pub opens_at: Option<OffsetDateTime>,
    /// The sale ends.
    pub closes_at: Option<OffsetDateTime>,
    /// Only buyers of one of these tiers.
    pub tiers: Option<Vec<String>>,
    /// No second purchase by the same buyer within this time.
    pub cooldown: Option<Duration>,
    /// Units that one buyer may hold and have paid for, in all.
    pub max_per_buyer: Option<i64>,
}

/// What is known of a buyer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Buyer<'a> {
    /// The buyer's tier, where there is one and the rules look at it.
    pub tier: Option<&'a str>,
    /// Where the rules look at it.
    pub history: BuyerHistory,
}

/// What a buyer has of an item: reserved, being paid for, or paid. An order that was cancelled or that expired gave its
/// units back, and is no purchase: it counts towards neither limit nor cooldown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BuyerHistory {
    /// Units of all these orders.
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
    /// Whether a decision needs to know what the buyer has already.
    #[must_use]
    pub fn look_at_history(&self) -> bool {
        self.cooldown.is_some() || self.max_per_buyer.is_some()
    }

    /// Whether a decision needs to know who the buyer is.
    #[must_use]
    pub fn look_at_tier(&self) -> bool {
        self.tiers.is_some()
    }

    /// Why the request gets nothing, however much is left, or `None`: the rules allow it.
    ///
    /// The sale window speaks of the sale, and comes first. Of those that speak of the buyer, the tier and a limit that is
    /// used up come before the cooldown: waiting does not cure them. A limit that leaves something comes after it: while a
    /// cooldown runs, no quantity would be allowed.
    #[must_use]
    pub fn refuse(&self, request: &PurchaseRequest, now: OffsetDateTime, buyer: &Buyer) -> Option<(Code, String)> {
        let history = &buyer.history;
        self.refuse_time(&request.item, now)
            .or_else(|| self.refuse_tier(&request.item, buyer.tier))
            .or_else(|| self.refuse_beyond(request, history, 1))
            .or_else(|| self.refuse_soon(&request.item, now, history))
            .or_else(|| self.refuse_beyond(request, history, i64::from(request.quantity)))
    }

    fn refuse_time(&self, item: &str, now: OffsetDateTime) -> Option<(Code, String)> {
        if let Some(opens_at) = self.opens_at.filter(|opens_at| now < *opens_at) {
            return Some((Code::SaleNotOpen, format!("The sale of {item} opens at {}.", text(opens_at))));
        }
        let closes_at = self.closes_at.filter(|closes_at| *closes_at <= now)?;
        Some((Code::SaleClosed, format!("The sale of {item} closed at {}.", text(closes_at))))
    }

    fn refuse_tier(&self, item: &str, tier: Option<&str>) -> Option<(Code, String)> {
        let tiers = self.tiers.as_ref()?;
        if tier.is_some_and(|tier| tiers.iter().any(|one| one == tier)) {
            return None;
        }
        let yours = tier.map_or("you have none".to_owned(), |tier| format!("yours is {tier}"));
        Some((Code::NotEligible, format!("{item} is for buyers of tier {} only; {yours}.", tiers.join(" or "))))
    }

    fn refuse_soon(&self, item: &str, now: OffsetDateTime, history: &BuyerHistory) -> Option<(Code, String)> {
        let last_at = history.last_at?;
        let allowed_at = last_at + self.cooldown?;
        let message =
            || format!("You bought {item} at {}; you may buy more of it from {} on.", text(last_at), text(allowed_at));
        (now < allowed_at).then(|| (Code::Cooldown, message()))
    }

    /// Refuses where not even `units` more would be allowed.
    fn refuse_beyond(&self, request: &PurchaseRequest, history: &BuyerHistory, units: i64) -> Option<(Code, String)> {
        let (max, has) = (self.max_per_buyer?, history.units);
        // Nothing, too, where the limit was lowered below what he has.
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

/// For people.
pub(crate) fn text(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}

#[cfg(test)]
mod tests;
