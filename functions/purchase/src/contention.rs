//! What is told of attempts: a line in the log for each conflict, and metrics by item, so that hot items are found.
//!
//! Invariant: however many items there are, the metrics name a bounded number of them: those with the most conflicts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use shared::retry::{Attempt, Ended, Listener};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The most items that the metrics name; of any others, all are one.
pub const ITEMS_NAMED_MAX: usize = 64;
/// What stands for items that are not named. No item can be called that.
const OTHERS: &str = "(others)";

/// Logs conflicts.
pub(crate) struct Log;

impl Listener for Log {
    fn attempted(&self, attempt: &Attempt<'_>) {
        let Ended::Conflict { wait } = attempt.ended else { return };
        let (number, wait_ms) = (attempt.number, wait.map(|wait| wait.as_millis()));
        match attempt.item {
            Some(item) => tracing::info!(item, attempt = number, wait_ms, "version conflict; deciding again"),
            None => tracing::info!(attempt = number, wait_ms, "request id conflict; deciding again"),
        }
    }
}

/// Counts attempts and conflicts.
#[derive(Debug, Clone)]
pub struct Contention {
    attempts: Family<ItemLabel, Counter>,
    conflicts: Family<ItemLabel, Counter>,
    waits_seconds: Histogram,
    /// The items that are named, each with the most conflicts that it can have had.
    named: Arc<Mutex<HashMap<String, u64>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ItemLabel {
    item: String,
}

impl ItemLabel {
    fn of(item: &str) -> Self {
        Self { item: item.to_owned() }
    }
}

impl Default for Contention {
    fn default() -> Self {
        Self {
            attempts: Family::default(),
            conflicts: Family::default(),
            // 1 ms to 2 s: what waits are configured to be.
            waits_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 12)),
            named: Arc::default(),
        }
    }
}

impl Contention {
    /// Has the metrics shown with this registry's.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let attempts = "Decisions tried on an item; items are named once they had a conflict";
        registry.register("attempts", attempts, self.attempts.clone());
        let conflicts = "Decisions made again because the item's version had moved on";
        registry.register("conflicts", conflicts, self.conflicts.clone());
        let waits = "Waits between attempts";
        registry.register_with_unit("retry_wait", waits, Unit::Seconds, self.waits_seconds.clone());
    }

    /// What the item is called in the metrics. An item is named with its first conflict; where there is no room, in place of
    /// the one with the fewest, which is counted with the others from then on.
    ///
    /// The new one may have had as many as that before, so it is taken to have had them (the algorithm *Space-Saving*):
    /// else one that becomes hot would give way to whichever cold one is next.
    fn label(&self, named: &mut HashMap<String, u64>, item: &str, conflicts: u64) -> ItemLabel {
        if let Some(count) = named.get_mut(item) {
            *count += conflicts;
            return ItemLabel::of(item);
        }
        if conflicts == 0 {
            return ItemLabel::of(OTHERS);
        }
        let mut before = 0;
        if named.len() >= ITEMS_NAMED_MAX
            && let Some(least) = named.iter().min_by_key(|(_, count)| **count).map(|(item, _)| item.clone())
        {
            before = named.remove(&least).unwrap_or_default();
            for family in [&self.attempts, &self.conflicts] {
                let count = family.get_or_create(&ItemLabel::of(&least)).get();
                family.remove(&ItemLabel::of(&least));
                family.get_or_create(&ItemLabel::of(OTHERS)).inc_by(count);
            }
        }
        named.insert(item.to_owned(), before + conflicts);
        ItemLabel::of(item)
    }
}

impl Listener for Contention {
    fn attempted(&self, attempt: &Attempt<'_>) {
        let (conflicts, wait) = match attempt.ended {
            Ended::Committed => (0, None),
            Ended::Conflict { wait } => (1, wait),
        };
        // Until all is counted: an item that lost its name meanwhile would be shown for ever.
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        // A request id's conflict is no item's.
        let label = attempt.item.map_or_else(|| ItemLabel::of(OTHERS), |item| self.label(&mut named, item, conflicts));
        self.attempts.get_or_create(&label).inc();
        if conflicts > 0 {
            self.conflicts.get_or_create(&label).inc_by(conflicts);
        }
        if let Some(wait) = wait {
            self.waits_seconds.observe(wait.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn conflict(contention: &Contention, item: &str) {
        let ended = Ended::Conflict { wait: Some(Duration::from_millis(3)) };
        contention.attempted(&Attempt { item: Some(item), number: 1, ended });
    }

    fn commit(contention: &Contention, item: &str) {
        contention.attempted(&Attempt { item: Some(item), number: 2, ended: Ended::Committed });
    }

    fn shown(contention: &Contention) -> String {
        let mut registry = Registry::default();
        contention.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn an_item_is_named_from_its_first_conflict_on() {
        let contention = Contention::default();
        commit(&contention, "cold");
        conflict(&contention, "hot");
        commit(&contention, "hot");
        let text = shown(&contention);
        for line in [
            r#"attempts_total{item="hot"} 2"#,
            r#"conflicts_total{item="hot"} 1"#,
            r#"attempts_total{item="(others)"} 1"#,
            "retry_wait_seconds_count 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("cold"), "{text}");
    }

    #[test]
    fn however_many_items_conflict_the_hottest_are_named_and_nothing_is_lost_of_the_sums() {
        let contention = Contention::default();
        for number in 0..10 * ITEMS_NAMED_MAX {
            conflict(&contention, "hottest");
            conflict(&contention, &format!("item-{number}"));
            commit(&contention, &format!("item-{number}"));
        }
        let text = shown(&contention);
        let conflicts = text.lines().filter(|line| line.starts_with("conflicts_total{"));
        let counts: HashMap<&str, usize> = conflicts
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, count)| (name, count.parse().unwrap()))
            .collect();
        assert_eq!(counts.len(), ITEMS_NAMED_MAX + 1, "and one for the others");
        assert_eq!(counts[r#"conflicts_total{item="hottest"}"#], 10 * ITEMS_NAMED_MAX);
        assert_eq!(counts.values().sum::<usize>(), 20 * ITEMS_NAMED_MAX);
    }

    #[test]
    fn an_item_that_becomes_hot_is_named_though_all_names_were_taken_and_cold_ones_conflict_in_between() {
        let contention = Contention::default();
        for number in 0..2 * ITEMS_NAMED_MAX {
            conflict(&contention, &format!("yesterday-{}", number / 2));
        }
        for number in 0..4 * ITEMS_NAMED_MAX {
            conflict(&contention, "hot");
            conflict(&contention, &format!("cold-{number}"));
        }
        let text = shown(&contention);
        let hot = text.lines().find_map(|line| line.strip_prefix(r#"conflicts_total{item="hot"} "#));
        let hot: usize = hot.unwrap_or_else(|| panic!("it is not named in\n{text}")).parse().unwrap();
        assert!(hot > 2 * ITEMS_NAMED_MAX, "{hot}");
    }

    #[test]
    fn as_few_are_named_when_many_count_at_once() {
        let contention = Contention::default();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let contention = &contention;
                scope.spawn(move || {
                    for number in 0..5_000 {
                        conflict(contention, &format!("item-{thread}-{number}"));
                    }
                });
            }
        });
        let series = shown(&contention).lines().filter(|line| line.starts_with("conflicts_total{")).count();
        assert!(series <= ITEMS_NAMED_MAX + 1, "{series}");
    }
}
