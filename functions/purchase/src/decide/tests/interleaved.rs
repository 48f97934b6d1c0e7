//! Deciders that read, and commit when it suits the test: whatever the order, no limit is passed.
//!
//! The database is played by a few lines: a commit holds if the version is still the one read, and what a buyer has
//! moves the version on whenever it changes.

use super::*;

const DECIDERS: usize = 3;
const MAX_PER_BUYER: i64 = 3;
const COOLDOWN: Duration = Duration::seconds(5);

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

/// An order that keeps its units: whose, how many, since when.
type Live = (String, u32, OffsetDateTime);

/// The item's row and its orders.
struct Database {
    rules: Rules,
    now: OffsetDateTime,
    version: i64,
    available: i64,
    live: Vec<Live>,
}

impl Database {
    /// The version that was read, and the orders that are decided and not committed.
    fn read_and_decide(&self, asked: &[(u32, u32)]) -> (i64, Vec<Live>) {
        let mut item = Item { version: self.version, ..ruled(self.available, self.rules.clone()) };
        for (buyer, quantity, at) in &self.live {
            let history = item.histories.entry(buyer.clone()).or_default();
            *history = history.after(*quantity, *at);
        }
        let before = snapshot([("a", item)]);
        let of = |(id, (buyer, quantity)): (u32, &(u32, u32))| PurchaseRequest {
            buyer: format!("b-{buyer}"),
            ..request(id, "a", *quantity)
        };
        let requests: Vec<_> = (0..).zip(asked).map(of).collect();
        let requests: Vec<_> = requests.iter().collect();
        let decided = decide(&requests, &before, &mut Verdicts::at(self.now, HashMap::new()), Uuid::nil);
        let live = |order: &NewOrder| (order.request.buyer.clone(), order.request.quantity, self.now);
        (self.version, decided.orders.iter().map(live).collect())
    }

    fn happens(&mut self, event: Event, decided: &mut [Option<(i64, Vec<Live>)>]) {
        match event {
            Event::Reads(decider, batch) => decided[decider] = Some(self.read_and_decide(&batch)),
            Event::Commits(decider) => {
                if let Some((version, orders)) = decided[decider].take_if(|(version, _)| *version == self.version) {
                    self.version = version + 1;
                    self.available -= orders.iter().map(|(_, quantity, _)| i64::from(*quantity)).sum::<i64>();
                    self.live.extend(orders);
                }
            }
            Event::Ends(place) if place < self.live.len() => {
                self.version += 1;
                self.available += i64::from(self.live.swap_remove(place).1);
            }
            Event::Ends(_) => (),
            Event::Passes(seconds) => self.now += Duration::seconds(seconds),
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
            cooldown_ms: cooling.then_some(5_000),
            ..Rules::default()
        };
        let mut database = Database { rules, now: NOW, version: 0, available: 100, live: Vec::new() };
        let mut decided = vec![None; DECIDERS];
        for event in events {
            database.happens(event, &mut decided);
            for buyer in ["b-0", "b-1"] {
                let mut orders: Vec<_> = database.live.iter().filter(|order| order.0 == buyer).collect();
                let units: i64 = orders.iter().map(|order| i64::from(order.1)).sum();
                prop_assert!(!limited || units <= MAX_PER_BUYER, "{buyer} has {units}");
                orders.sort_by_key(|order| order.2);
                let too_soon = orders.windows(2).find(|pair| pair[1].2 - pair[0].2 < COOLDOWN);
                prop_assert!(!cooling || too_soon.is_none(), "{too_soon:?}");
            }
        }
    }
}
