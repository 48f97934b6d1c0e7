//! The sections about the orders' lives: what became of them, what was shown, and who crashed meanwhile.

use super::Page;
use super::figures::{count, decimal, plural};
use crate::orders::report::OrdersReport;
use crate::outcome::{Latency, Outcome};

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
        self.row("killed and replaced", &format!("{:>10}  {}", count(outcome.crashes.len() as u64), named.join(", ")));
    }

    pub(super) fn life(&mut self, outcome: &Outcome) {
        if let Some(life) = &outcome.life {
            self.lived(life);
        }
        if let Some(steps) = &outcome.shown {
            self.section("LIFE (shown after the sale, on an item of its own)");
            for step in steps {
                let seconds = format!("{:>6.2} s", step.seconds);
                let seconds = self.style.dim(&seconds);
                let came = self.style.good(&step.came);
                self.line(&format!("  {seconds}  {:<STEP_COLUMNS$}{came}", step.what));
            }
        }
    }

    fn lived(&mut self, life: &OrdersReport) {
        self.section("LIFE");
        let orders = [
            ("paid", life.paid),
            ("cancelled", life.cancelled),
            ("expired", life.expired),
            ("held", life.held),
            ("payments declined", life.declined),
        ];
        for (label, number) in orders {
            self.row(label, &format!("{:>10}", count(number)));
        }
        let money = format!(
            "{:>10}  {}; {} asked, {} spoilt",
            count(life.charges),
            plural(life.refunds, "refund"),
            count(life.gateway_requests),
            count(life.gateway_spoilt)
        );
        self.row("charges at the gateway", &money);
        self.row("payment latency", &latency(life.payment_latency_ms));
        self.row("events", &format!("{:>10}  {} published again", count(life.events), count(life.duplicate_events)));
        self.row("event lag", &latency(life.event_lag_ms));
        if let Some(quiet) = life.quiet {
            let quiet_figures = format!("{:>10}  in {:.2} s", decimal(quiet.purchases_per_second, 0), quiet.seconds);
            self.row("the same without life", &quiet_figures);
            self.row("share of that", &format!("{:>10.2}", quiet.ratio));
        }
    }
}

fn latency(latency: Latency) -> String {
    format!("{:>10}  ms p50, {} ms p99", decimal(latency.p50, 1), decimal(latency.p99, 1))
}
