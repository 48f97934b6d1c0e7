//! Deciders that read, and commit when it suits the test: whatever the order, no limit is passed.
//!
//! The database is played by a few lines: a commit holds if the version is still the one read, and what a buyer has
//! moves the version on whenever it changes.

use super::*;

const DECIDERS: usize = 3;
const MAX_PER_BUYER: i64 = 3;
const COOLDOWN_MS: i64 = 5_000;

/// What happens next.
#[derive(Debug, Clone)]
enum Event {
    /// A decider reads, and decides this batch: (number of the buyer, quantity).
    Reads(usize, Vec<(u32, u32)>),
    /// It commits, if nothing has moved.
    Commits(usize),
    /// An order gives its units back: it expires, or is cancelled.
    Ends(usize),
    /// Time passes, in seconds.
    Passes(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let batch = prop::collection::vec((0_u32..2, 1_u32..4), 1..5);
    prop_oneof![
        3 => (0..DECIDERS, batch).prop_map(|(decider, batch)| Event::Reads(decider, batch)),
        3 => (0..DECIDERS).prop_map(Event::Commits),
        1 => (0_usize..40).prop_map(Event::Ends),
        1 => (1_i64..4).prop_map(Event::Passes),
    ]
}

/// An order that keeps its units.
#[derive(Debug, Clone, PartialEq)]
struct Live {
    buyer: String,
    quantity: u32,
    at: OffsetDateTime,
}

/// The item's row and its orders.
struct Database {
    rules: Rules,
    now: OffsetDateTime,
    version: i64,
    available: i64,
    live: Vec<Live>,
    requests: u32,
}

/// A batch that is decided and not committed.
type Batch = (i64, Vec<Live>);

impl Database {
    fn read_and_decide(&mut self, asked: &[(u32, u32)]) -> Batch {
        let mut item = Item { version: self.version, ..ruled(self.available, self.rules.clone()) };
        for order in &self.live {
            let history = item.histories.entry(order.buyer.clone()).or_default();
            *history = history.after(order.quantity, order.at);
        }
        let before = snapshot([("a", item)]);
        let mut requests = Vec::new();
        for (buyer, quantity) in asked {
            self.requests += 1;
            let buyer = format!("b-{buyer}");
            requests.push(PurchaseRequest { buyer, ..request(self.requests, "a", *quantity) });
        }
        let requests: Vec<_> = requests.iter().collect();
        let decided = decide(&requests, &before, &mut Verdicts::at(self.now, HashMap::new()), Uuid::nil);
        let order = |order: &NewOrder| {
            let PurchaseRequest { buyer, quantity, .. } = order.request.clone();
            Live { buyer, quantity, at: self.now }
        };
        (self.version, decided.orders.iter().map(order).collect())
    }

    fn commit(&mut self, (version, orders): Batch) {
        if version == self.version {
            self.version += 1;
            self.available -= orders.iter().map(|order| i64::from(order.quantity)).sum::<i64>();
            self.live.extend(orders);
        }
    }

    fn end(&mut self, place: usize) {
        if place < self.live.len() {
            self.version += 1;
            self.available += i64::from(self.live.swap_remove(place).quantity);
        }
    }
}

proptest! {
    #[test]
    fn no_interleaving_of_batches_passes_a_limit(
        events in prop::collection::vec(event(), 0..120),
        limited in any::<bool>(),
        cooling in any::<bool>(),
    ) {
        let rules = Rules {
            max_per_buyer: limited.then_some(MAX_PER_BUYER),
            cooldown_ms: cooling.then_some(COOLDOWN_MS),
            ..Rules::default()
        };
        let mut database =
            Database { rules, now: NOW, version: 0, available: 100, live: Vec::new(), requests: 0 };
        let mut decided: [Option<Batch>; DECIDERS] = Default::default();
        for event in events {
            match event {
                Event::Reads(decider, batch) => decided[decider] = Some(database.read_and_decide(&batch)),
                Event::Commits(decider) => {
                    if let Some(plan) = decided[decider].take() {
                        database.commit(plan);
                    }
                }
                Event::Ends(place) => database.end(place),
                Event::Passes(seconds) => database.now += Duration::seconds(seconds),
            }
            for buyer in ["b-0", "b-1"] {
                let mut orders: Vec<_> = database.live.iter().filter(|order| order.buyer == buyer).collect();
                let units: i64 = orders.iter().map(|order| i64::from(order.quantity)).sum();
                prop_assert!(!limited || units <= MAX_PER_BUYER, "{buyer} has {units}");
                orders.sort_by_key(|order| order.at);
                let too_soon = orders.windows(2).find(|pair| pair[1].at - pair[0].at < Duration::milliseconds(COOLDOWN_MS));
                prop_assert!(!cooling || too_soon.is_none(), "{too_soon:?}");
            }
        }
    }
}
