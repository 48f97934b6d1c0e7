//! Who asks for what, and when: a whole sale worked out before its first message is sent. Pure.
//!
//! Equal scenario and salt give an equal schedule; another salt gives other ids, and the same choices.

use std::ops::RangeInclusive;
use std::time::Duration;

use uuid::Uuid;

use crate::random::Random;

/// The most buyers in one sale: keeps every index in a `u32` and every reply in memory.
pub const BUYERS_MAX: u32 = 5_000_000;

/// What a sale looks like, from the command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    pub buyers: u32,
    /// Items on sale; each buyer chooses one, uniformly.
    pub items: u32,
    /// Units on sale, over all items: spread evenly, the first items get the remainder.
    pub stock: u64,
    /// Units that a buyer asks for, uniformly from this range.
    pub quantities: RangeInclusive<u32>,
    /// Arrivals per second, as a Poisson process; 0 means all at once.
    pub rate: f64,
    /// Chooses the items, quantities and arrival times.
    pub seed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemOnSale {
    /// The item's id, unique to this run.
    pub id: String,
    pub stock: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    pub request_id: Uuid,
    /// An index into [`Schedule::items`].
    pub item: u32,
    pub quantity: u32,
    /// The intended send time, from the start of the sale.
    pub at: Duration,
}

/// A whole sale, in publish order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// What every item's id begins with, and the id of no other run's.
    pub items_prefix: String,
    pub items: Vec<ItemOnSale>,
    /// Every request, by its intended send time.
    pub requests: Vec<Due>,
}

impl Schedule {
    /// Works out the sale; `salt` keeps the ids of two runs on one database apart (only `[A-Za-z0-9._:-]`, short).
    pub fn new(scenario: &Scenario, salt: &str) -> Self {
        let item_count = u64::from(scenario.items);
        let items_prefix = format!("sale-{salt}-");
        let items = (0..item_count)
            .map(|index| ItemOnSale {
                id: format!("{items_prefix}{index}"),
                stock: scenario.stock / item_count + u64::from(index < scenario.stock % item_count),
            })
            .collect();
        let space = Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{salt}/{}", scenario.seed).as_bytes());
        let (least, most) = (*scenario.quantities.start(), *scenario.quantities.end());
        let mut random = Random::new(scenario.seed);
        let mut at = Duration::ZERO;
        let requests = (0..scenario.buyers)
            .map(|index| {
                let item = random.below(scenario.items);
                let quantity = least + random.below(most - least + 1);
                if scenario.rate > 0.0 {
                    at += Duration::from_secs_f64(random.exponential() / scenario.rate);
                }
                Due { request_id: Uuid::new_v5(&space, &index.to_be_bytes()), item, quantity, at }
            })
            .collect();
        Self { items_prefix, items, requests }
    }

    pub fn buyer(index: usize) -> String {
        format!("buyer-{index}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn scenario() -> Scenario {
        Scenario { buyers: 10_000, items: 7, stock: 100, quantities: 1..=4, rate: 500.0, seed: 42 }
    }

    #[test]
    fn the_same_seed_and_salt_give_the_same_sale_and_another_seed_other_choices() {
        assert_eq!(Schedule::new(&scenario(), "a"), Schedule::new(&scenario(), "a"));
        let other = Scenario { seed: 43, ..scenario() };
        assert_ne!(Schedule::new(&scenario(), "a").requests, Schedule::new(&other, "a").requests);
    }

    #[test]
    fn another_salt_gives_other_ids_and_the_same_choices() {
        let (one, other) = (Schedule::new(&scenario(), "a"), Schedule::new(&scenario(), "b"));
        let ids: HashSet<Uuid> = one.requests.iter().chain(&other.requests).map(|due| due.request_id).collect();
        assert_eq!(ids.len(), 20_000);
        assert!(one.items.iter().all(|item| other.items.iter().all(|different| item.id != different.id)));
        let choices = |schedule: &Schedule| -> Vec<(u32, u32, Duration)> {
            schedule.requests.iter().map(|due| (due.item, due.quantity, due.at)).collect()
        };
        assert_eq!(choices(&one), choices(&other));
    }

    #[test]
    fn the_stock_is_spread_evenly_and_adds_up() {
        let stocks: Vec<u64> = Schedule::new(&scenario(), "a").items.iter().map(|item| item.stock).collect();
        assert_eq!(stocks, [15, 15, 14, 14, 14, 14, 14]);
    }

    #[test]
    fn without_a_rate_every_buyer_is_due_at_once() {
        let schedule = Schedule::new(&Scenario { rate: 0.0, ..scenario() }, "a");
        assert!(schedule.requests.iter().all(|due| due.at == Duration::ZERO));
    }

    #[test]
    fn a_rate_spreads_the_buyers_in_order_around_it() {
        let requests = Schedule::new(&scenario(), "a").requests;
        assert!(requests.is_sorted_by_key(|due| due.at));
        // 10,000 arrivals at 500/s: 20 s, with a standard deviation of 0.2 s.
        let last = requests.last().map(|due| due.at.as_secs_f64()).unwrap_or_default();
        assert!((19.0..21.0).contains(&last), "{last}");
    }

    #[test]
    fn every_item_and_every_quantity_is_asked_for() {
        let requests = Schedule::new(&scenario(), "a").requests;
        let asked: HashSet<(u32, u32)> = requests.iter().map(|due| (due.item, due.quantity)).collect();
        assert_eq!(asked.len(), 7 * 4);
    }

    #[test]
    fn every_id_is_one_that_the_contract_allows() {
        let schedule = Schedule::new(&scenario(), "0190f7a2b3c4");
        assert!(schedule.items.iter().all(|item| shared::messages::is_id(&item.id)));
        assert!(shared::messages::is_id(&Schedule::buyer(9_999)));
    }
}
