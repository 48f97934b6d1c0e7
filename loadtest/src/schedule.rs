//! Who asks for what, and when: a whole sale worked out before its first message is sent. Pure.
//!
//! Equal scenario and salt give an equal schedule; another salt gives other ids, and the same choices.

use crate::random::Random;
use clap::Args;
use serde::Serialize;
use shared::messages::{PurchaseRequest, QUANTITY_MAX, REQUESTS_MAX};
use std::ops::RangeInclusive;
use std::time::Duration;
use uuid::Uuid;

/// The most buyers in one sale: keeps every index in a `u32` and every reply in memory.
pub const BUYERS_MAX: u32 = 5_000_000;
pub(crate) const ITEMS_MAX: i64 = 1_000_000;
/// The most units in one sale: every sum of units fits an `i64`, and every count a JSON number.
pub(crate) const STOCK_MAX: u64 = 1 << 53;
const RATE_MAX: f64 = 1_000_000.0;
const BURST_MS_MAX: i64 = 3_600_000;
/// The time in the first request id: 2026-01-01.
const FIRST_ID_MS: u64 = 1_767_225_600_000;
const IDS_PER_MS: u64 = 8;
pub(crate) const REQUESTS_PER_MESSAGE_MAX: i64 = REQUESTS_MAX as i64;

/// What a sale looks like: as the command line takes it, and as the result has it.
#[derive(Debug, Clone, PartialEq, Serialize, Args)]
pub struct Scenario {
    /// Buyers; each sends one request.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(BUYERS_MAX)))]
    pub buyers: u32,
    /// Units on sale over all items: spread evenly, the first items get the remainder.
    #[arg(long, value_name = "UNITS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=STOCK_MAX))]
    pub stock: u64,
    /// Items on sale; each buyer picks one.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=ITEMS_MAX))]
    pub items: u32,
    /// Units that a buyer asks for: a number, or a range such as 1-4.
    #[arg(long = "quantity", value_name = "UNITS", default_value = "1", value_parser = parse_quantities)]
    #[serde(skip)]
    pub quantities: RangeInclusive<u32>,
    /// Arrivals per second, as a Poisson process; 0 sends everything at once.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0.0, value_parser = parse_rate)]
    pub rate: f64,
    /// Milliseconds from one burst to the next: whoever comes between two, at the rate, comes with the second. Of 0, each comes alone.
    #[arg(long = "burst", value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=BURST_MS_MAX))]
    pub burst_ms: u32,
    /// The most requests that go in one message, all of one item: what is due is collected until there are as many, or until
    /// nothing more is due. Of 1, each is a message of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=REQUESTS_PER_MESSAGE_MAX))]
    pub requests_per_message: u32,
    /// Chooses who buys what and when; the same seed gives the same sale.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
}

impl Default for Scenario {
    fn default() -> Self {
        let (quantities, rate, burst_ms, requests_per_message) = (1..=1, 0.0, 0, 1);
        Self { buyers: 1_000, stock: 1, items: 1, quantities, rate, burst_ms, requests_per_message, seed: 42 }
    }
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
    /// The most that go in one message.
    pub requests_per_message: usize,
}

impl Schedule {
    /// When the last request is due, from the start of the sale.
    pub fn last(&self) -> Duration {
        self.requests.last().map_or(Duration::ZERO, |due| due.at)
    }

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
        let (least, most) = scenario.quantities.clone().into_inner();
        let mut random = Random::new(scenario.seed);
        let mut at = Duration::ZERO;
        let requests = (0..scenario.buyers)
            .map(|index| {
                let item = random.below(scenario.items);
                let quantity = least + random.below(most - least + 1);
                if scenario.rate > 0.0 {
                    at += Duration::from_secs_f64(random.exponential() / scenario.rate);
                }
                let at = in_burst(at, scenario.burst_ms);
                Due { request_id: time_ordered(space, index.into()), item, quantity, at }
            })
            .collect();
        let requests_per_message = scenario.requests_per_message as usize;
        Self { items_prefix, items, requests, requests_per_message }
    }

    /// The body of a message with these requests: an array, unless each request is a message of its own.
    pub fn body(&self, indices: &[usize]) -> serde_json::Result<Vec<u8>> {
        let requests: Vec<PurchaseRequest> = indices.iter().map(|&index| self.request(index)).collect();
        match &requests[..] {
            [request] if !self.sends_arrays() => serde_json::to_vec(request),
            requests => serde_json::to_vec(requests),
        }
    }

    pub fn sends_arrays(&self) -> bool {
        self.requests_per_message > 1
    }

    fn request(&self, index: usize) -> PurchaseRequest {
        let Due { request_id, item, quantity, .. } = self.requests[index];
        let (request_id, item) = (request_id.to_string(), self.items[item as usize].id.clone());
        PurchaseRequest { request_id, item, buyer: Self::buyer(index), quantity, deadline: None, sender: None }
    }

    pub fn buyer(index: usize) -> String {
        format!("buyer-{index}")
    }
}

/// When whoever would come at this moment comes, where bursts are so far apart.
fn in_burst(at: Duration, burst_ms: u32) -> Duration {
    let burst = Duration::from_millis(burst_ms.into()).as_nanos();
    if burst == 0 { at } else { Duration::from_nanos_u128(at.as_nanos().next_multiple_of(burst)) }
}

/// A UUID of version 7, as of a sender that makes some each millisecond: what is asked for together lies together in the key of
/// the verdicts.
fn time_ordered(space: Uuid, index: u64) -> Uuid {
    let (millis, random) = (index / IDS_PER_MS, Uuid::new_v5(&space, &index.to_be_bytes()).into_bytes());
    let random = random.first_chunk().expect("a UUID has more than ten bytes");
    uuid::Builder::from_unix_timestamp_millis(FIRST_ID_MS + millis, random).into_uuid()
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| *rate == 0.0 || (0.001..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| format!("a rate is 0, or 0.001 to {RATE_MAX} per second"))
}

fn parse_quantities(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (least, most) = text.split_once('-').unwrap_or((text, text));
    let range = least.trim().parse().ok().zip(most.trim().parse().ok()).map(|(least, most)| least..=most);
    let allowed = range.filter(|range| 1 <= *range.start() && !range.is_empty() && *range.end() <= QUANTITY_MAX);
    allowed.ok_or_else(|| format!("a quantity is 1 to {QUANTITY_MAX}, such as 2 or 1-4"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use shared::messages::ARRAY_BYTES_MAX;

    use super::*;

    fn scenario() -> Scenario {
        Scenario { buyers: 10_000, items: 7, stock: 100, quantities: 1..=4, rate: 500.0, ..Scenario::default() }
    }

    #[test]
    fn a_seed_makes_the_choices_and_a_salt_the_ids() {
        let (sale, salted) = (Schedule::new(&scenario(), "a"), Schedule::new(&scenario(), "b"));
        assert_eq!(sale, Schedule::new(&scenario(), "a"));
        let choices = |schedule: &Schedule| -> Vec<(u32, u32, Duration)> {
            schedule.requests.iter().map(|due| (due.item, due.quantity, due.at)).collect()
        };
        assert_eq!(choices(&sale), choices(&salted));
        assert_ne!(choices(&sale), choices(&Schedule::new(&Scenario { seed: 43, ..scenario() }, "a")));
        let ids: HashSet<Uuid> = sale.requests.iter().chain(&salted.requests).map(|due| due.request_id).collect();
        assert_eq!(ids.len(), 20_000);
        assert!(sale.items.iter().all(|item| salted.items.iter().all(|other| item.id != other.id)));
        assert!(sale.items.iter().all(|item| shared::messages::is_id(&item.id)));
    }

    #[test]
    fn a_request_alone_is_an_object_and_one_of_many_an_element_and_a_thousand_of_the_longest_fit_a_message() {
        let body = |schedule: &Schedule, indices: &[usize]| String::from_utf8(schedule.body(indices).unwrap()).unwrap();
        let alone = Schedule::new(&scenario(), "a");
        let together = Schedule::new(&Scenario { requests_per_message: 10, ..scenario() }, "a");
        assert_eq!(together.requests, alone.requests);
        let [first, second] = [0, 1].map(|index| body(&alone, &[index]));
        assert!(first.starts_with(r#"{"request_id":""#) && first.ends_with('}'), "{first}");
        assert_eq!(body(&together, &[0, 1]), format!("[{first},{second}]"));
        assert_eq!(body(&together, &[1]), format!("[{second}]"));

        let salt = Uuid::max().simple().to_string();
        let quantities = QUANTITY_MAX..=QUANTITY_MAX;
        let mut longest = Schedule::new(&Scenario { buyers: 1, items: 1, quantities, ..scenario() }, &salt);
        longest.items[0].id = format!("{}{ITEMS_MAX}", longest.items_prefix);
        // The last buyer's number is longer by these digits than the first's.
        let digits = BUYERS_MAX.to_string().len() - 1;
        let bytes_with_comma = body(&longest, &[0]).len() + digits + 1;
        assert!(bytes_with_comma * REQUESTS_MAX < ARRAY_BYTES_MAX, "{bytes_with_comma}");
    }

    #[test]
    fn stock_is_spread_evenly_and_every_item_and_quantity_asked_for() {
        let schedule = Schedule::new(&scenario(), "a");
        let stocks: Vec<u64> = schedule.items.iter().map(|item| item.stock).collect();
        assert_eq!(stocks, [15, 15, 14, 14, 14, 14, 14]);
        let asked: HashSet<(u32, u32)> = schedule.requests.iter().map(|due| (due.item, due.quantity)).collect();
        assert_eq!(asked.len(), 7 * 4);
    }

    #[test]
    fn in_bursts_each_comes_with_the_next_one_and_in_the_same_order() {
        let alone = Schedule::new(&scenario(), "a").requests;
        let together = Schedule::new(&Scenario { burst_ms: 200, ..scenario() }, "a").requests;
        let burst = Duration::from_millis(200);
        for (alone, together) in alone.iter().zip(&together) {
            assert_eq!(Due { at: together.at, ..*alone }, *together);
            assert!(together.at >= alone.at && together.at - alone.at < burst);
        }
        let moments: HashSet<Duration> = together.iter().map(|due| due.at).collect();
        assert!(moments.iter().all(|at| at.as_nanos() % burst.as_nanos() == 0));
        // 20 s of them.
        assert!((90..110).contains(&moments.len()), "{}", moments.len());
    }

    #[test]
    fn a_rate_spreads_the_buyers_in_order_around_it_and_without_one_all_are_due_at_once() {
        let requests = Schedule::new(&scenario(), "a").requests;
        assert!(requests.is_sorted_by_key(|due| due.at));
        // 10,000 arrivals at 500/s: 20 s, with a standard deviation of 0.2 s.
        let last = requests.last().map(|due| due.at.as_secs_f64()).unwrap_or_default();
        assert!((19.0..21.0).contains(&last), "{last}");
        let at_once = Schedule::new(&Scenario { rate: 0.0, burst_ms: 7, ..scenario() }, "a");
        assert!(at_once.requests.iter().all(|due| due.at == Duration::ZERO));
    }
}
