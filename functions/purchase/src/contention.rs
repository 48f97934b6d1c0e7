//! What is published of attempts: a line in the log for each conflict, and totals as metrics. Which items are hot stands in
//! their rows (`admin conflicts`).

use prometheus_client::{
    metrics::{
        counter::Counter,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use shared::retry::{Attempt, Ended, Listener};

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
}

impl Listener for Metrics {
    fn attempted(&self, attempt: &Attempt<'_>) {
        self.attempts.inc();
        if let Ended::Conflict { wait } = attempt.ended {
            self.conflicts.inc();
            wait.into_iter().for_each(|wait| self.waits_seconds.observe(wait.as_secs_f64()));
        }
    }
}
