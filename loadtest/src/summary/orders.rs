//! The sections about the orders: who crashed meanwhile, what became of them, and what was shown.

use super::Page;
use super::figures::{count, decimal, plural};
use crate::life::report::LifeReport;
use crate::result::Outcome;
use crate::stats::Latency;

/// The column where a shown step's result begins, from that of its text on.
const STEP_COLUMNS: usize = 58;
/// The most crashed workers that are named.
const CRASHES_NAMED_MAX: usize = 10;

impl Page {
    pub(super) fn crashes(&mut self, outcome: &Outcome) {
        if outcome.crashes.is_empty() {
            return;
        }
        self.section("CRASHES");
        let named = outcome.crashes.iter().take(CRASHES_NAMED_MAX);
        let mut named: Vec<String> = named.map(|crash| format!("{} at {:.1} s", crash.worker, crash.seconds)).collect();
        named.extend((outcome.crashes.len() > CRASHES_NAMED_MAX).then(|| "…".to_owned()));
        self.figure("killed and replaced", &count(outcome.crashes.len() as u64), &named.join(", "));
    }

    pub(super) fn orders(&mut self, outcome: &Outcome) {
        if let Some(life) = &outcome.life {
            self.states(life);
        }
        if let Some(steps) = &outcome.shown {
            self.section("LIFE (shown after the sale, on an item of its own)");
            for step in steps {
                let seconds = self.style.dim(&format!("{:>6.2} s", step.seconds));
                let came = self.style.good(&step.came);
                self.line(&format!("  {seconds}  {:<STEP_COLUMNS$}{came}", step.what));
            }
        }
    }

    fn states(&mut self, life: &LifeReport) {
        self.section("LIFE");
        let states = [
            ("paid", life.paid),
            ("cancelled", life.cancelled),
            ("expired", life.expired),
            ("held", life.held),
            ("payments declined", life.declined),
        ];
        for (label, number) in states {
            self.figure(label, &count(number), "");
        }
        let (refunds, requests) = (plural(life.refunds, "refund"), count(life.gateway_requests));
        let money = format!("{refunds}; {requests} asked, {} spoilt", count(life.gateway_spoilt));
        self.figure("charges at the gateway", &count(life.charges), &money);
        self.latency_of("payment latency", life.payment_latency_ms);
        self.figure("events", &count(life.events), &format!("{} published again", count(life.duplicate_events)));
        self.latency_of("event lag", life.event_lag_ms);
        if let Some(quiet) = life.quiet {
            let per_second = decimal(quiet.purchases_per_second, 0);
            self.figure("the same without life", &per_second, &format!("in {:.2} s", quiet.seconds));
            self.figure("share of that", &format!("{:.2}", quiet.ratio), "");
        }
    }

    fn latency_of(&mut self, label: &str, latency: Latency) {
        self.figure(label, &decimal(latency.p50, 1), &format!("ms p50, {} ms p99", decimal(latency.p99, 1)));
    }
}
