//! What is published of attempts: totals as metrics, and a line in the log for each conflict. Which items are hot stands in
//! their rows (`admin conflicts`).

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    attempts: Counter,
    conflicts: Counter,
    waits_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // 1 ms to 2 s: what waits are configured to be.
        let waits_seconds = Histogram::new(exponential_buckets(0.001, 2.0, 12));
        Self { attempts: Counter::default(), conflicts: Counter::default(), waits_seconds }
    }
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("attempts", "Decisions tried on an item", self.attempts.clone());
        let conflicts = "Decisions made again because the item's version had moved on";
        registry.register("conflicts", conflicts, self.conflicts.clone());
        let waits = "Waits between attempts";
        registry.register_with_unit("retry_wait", waits, Unit::Seconds, self.waits_seconds.clone());
    }

    pub(crate) fn committed(&self, items: usize) {
        self.attempts.inc_by(items as u64);
    }

    /// Of attempt `number`, from 1, on an item, or a request id where there is none. `wait`: how long it is until the next one;
    /// `None`: there is none of its kind.
    pub(crate) fn conflicted(&self, item: Option<&str>, number: u32, wait: Option<Duration>) {
        self.attempts.inc();
        self.conflicts.inc();
        wait.into_iter().for_each(|wait| self.waits_seconds.observe(wait.as_secs_f64()));
        let wait_ms = wait.map(|wait| wait.as_millis());
        match item {
            Some(item) => tracing::info!(item, attempt = number, wait_ms, "version conflict; deciding again"),
            None => {
                let text = "a request id was recorded meanwhile, or a deadlock undone; deciding again";
                tracing::info!(attempt = number, wait_ms, "{text}");
            }
        }
    }
}
