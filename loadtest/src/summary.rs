//! The result for people: one line that says it all, then the figures. Pure: text out, nothing else.
//!
//! Invariant: every number is one of the [`Outcome`]'s; figures are ASCII with separated thousands.

pub(crate) mod figures;
mod life;

use std::fmt::Write;

use crate::faults::{Action, EventReport};
use crate::queues::DepthSample;
use crate::result::Outcome;
use figures::{count, decimal, plural, share, signed, sparkline};
use shared::table::Style;

/// The column where a section's figures begin.
const LABEL_COLUMNS: usize = 24;
/// The column where it is said of an invariant what was checked, from its name on.
const INVARIANT_COLUMNS: usize = 28;

/// The whole summary, with a final newline.
#[must_use]
pub fn render(outcome: &Outcome, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    page.headline(outcome);
    page.invariants(outcome);
    page.verdicts(outcome);
    page.latency(outcome);
    page.throughput(outcome);
    page.contention(outcome);
    page.queue(outcome);
    page.workers(outcome);
    page.events(outcome);
    page.crashes(outcome);
    page.life(outcome);
    page.text
}

/// The whole sale in one line, such as `1 sold · 999 sold out · 0 failed — 0.11 s`.
pub(crate) fn headline(outcome: &Outcome) -> String {
    let verdicts = outcome.verdicts;
    let failed = outcome.lost + verdicts.invalid + outcome.conflicting_replies;
    let mut parts =
        vec![format!("{} sold", count(verdicts.reserved)), format!("{} sold out", count(verdicts.sold_out))];
    if verdicts.refused > 0 {
        parts.push(format!("{} refused", count(verdicts.refused)));
    }
    parts.push(format!("{} failed", count(failed)));
    format!("{} — {:.2} s", parts.join(" · "), outcome.seconds)
}

/// What was sold to whom, by whom, and on what.
pub(crate) fn circumstances(outcome: &Outcome) -> String {
    let scenario = &outcome.scenario;
    let pace = match scenario.rate {
        0.0 => "at once".to_owned(),
        rate => format!("at {rate} per second"),
    };
    let mut on = vec![format!("RabbitMQ {}", outcome.servers.rabbitmq)];
    on.extend(outcome.servers.postgresql.iter().map(|version| format!("PostgreSQL {version}")));
    on.extend(outcome.servers.redis.iter().map(|version| format!("Redis {version}")));
    format!(
        "{} {pace} · {} of {} · {} · {} · seed {} · {}",
        plural(u64::from(scenario.buyers), "buyer"),
        plural(scenario.stock, "unit"),
        plural(u64::from(scenario.items), "item"),
        plural(u64::from(scenario.workers), "worker"),
        scenario.strategy,
        scenario.seed,
        on.join(", ")
    )
}

/// How the requests ended: each verdict's name and number; the last is of those that have none.
pub(crate) fn endings(outcome: &Outcome) -> [(&'static str, u64); 5] {
    let verdicts = outcome.verdicts;
    let answered = verdicts.reserved + verdicts.sold_out + verdicts.refused + verdicts.invalid;
    [
        ("reserved", verdicts.reserved),
        ("sold out", verdicts.sold_out),
        ("refused", verdicts.refused),
        ("invalid", verdicts.invalid),
        ("none", u64::from(outcome.scenario.buyers).saturating_sub(answered)),
    ]
}

/// What an event did, and for how long the buyers felt it.
pub(crate) fn event_text(event: &EventReport) -> String {
    let what = match event.worker.as_ref().or(event.broker_node.as_ref()) {
        Some(whom) => format!("{whom} {}", event.event.past()),
        None if event.event == Action::KillRedis => format!("Redis {}", event.event.past()),
        None => format!("no worker was left to be {}", event.event.past()),
    };
    let next = event.next_verdict_seconds.map(|seconds| {
        let whose = if event.event == Action::Add { "its first verdict" } else { "the next worker's verdicts" };
        format!("; {whose} {} s later", decimal(seconds, 2))
    });
    format!("{what}{}", next.unwrap_or_default())
}

struct Page {
    text: String,
    style: Style,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn section(&mut self, title: &str) {
        let title = self.style.title(title);
        self.line("");
        self.line(&format!("  {title}"));
    }

    fn row(&mut self, label: &str, value: &str) {
        self.line(&format!("    {label:<LABEL_COLUMNS$}{value}"));
    }

    fn headline(&mut self, outcome: &Outcome) {
        let line = headline(outcome);
        let line = if outcome.passed { self.style.good(&line) } else { self.style.bad(&line) };
        self.line(&line);
        let what = self.style.dim(&circumstances(outcome));
        self.line(&what);
    }

    fn invariants(&mut self, outcome: &Outcome) {
        self.section("INVARIANTS");
        for invariant in &outcome.invariants {
            let name = invariant.name.replace('_', " ");
            let line = match invariant.holds {
                true => {
                    format!("{} {name:<INVARIANT_COLUMNS$}{}", self.style.good("✓"), self.style.dim(&invariant.detail))
                }
                false => {
                    format!("{} {name:<INVARIANT_COLUMNS$}{}", self.style.bad("✗"), self.style.bad(&invariant.detail))
                }
            };
            self.line(&format!("    {line}"));
        }
    }

    fn verdicts(&mut self, outcome: &Outcome) {
        self.section("VERDICTS");
        let buyers = u64::from(outcome.scenario.buyers);
        for (label, number) in endings(outcome) {
            self.row(label, &format!("{:>10}  {:>6}", count(number), share(number, buyers)));
        }
        for (label, number) in
            [("duplicate replies", outcome.duplicate_replies), ("reconnects", outcome.reconnects.into())]
        {
            if number > 0 {
                self.row(label, &format!("{:>10}", count(number)));
            }
        }
    }

    fn latency(&mut self, outcome: &Outcome) {
        self.section("LATENCY (ms, from the intended send to the verdict)");
        let latency = outcome.latency_ms;
        let figures = [
            ("min", latency.min),
            ("p50", latency.p50),
            ("p90", latency.p90),
            ("p95", latency.p95),
            ("p99", latency.p99),
            ("p99.9", latency.p999),
            ("max", latency.max),
        ];
        let (mut names, mut values) = (String::new(), String::new());
        for (name, value) in figures {
            // Writing to a String cannot fail.
            let _ = write!(names, "{name:>10}");
            let _ = write!(values, "{:>10}", decimal(value, 1));
        }
        let names = self.style.dim(&names);
        self.line(&format!("  {names}"));
        self.line(&format!("  {values}"));
    }

    fn throughput(&mut self, outcome: &Outcome) {
        self.section("THROUGHPUT");
        self.row("purchases per second", &format!("{:>10}", decimal(outcome.purchases_per_second, 0)));
        if let Some(ceiling) = outcome.ceiling {
            let seconds = format!("{:>10}  in {:.2} s", decimal(ceiling.purchases_per_second, 0), ceiling.seconds);
            self.row("without a database", &seconds);
            if let Some(ratio) = ceiling.ratio {
                self.row("share of that ceiling", &format!("{ratio:>10.2}"));
            }
        }
    }

    fn contention(&mut self, outcome: &Outcome) {
        if outcome.servers.postgresql.is_some() {
            self.section("CONTENTION");
            self.row("decisions attempted", &format!("{:>10}", signed(outcome.attempts)));
            self.row("version conflicts", &format!("{:>10}", signed(outcome.conflicts)));
        }
    }

    fn queue(&mut self, outcome: &Outcome) {
        self.section("QUEUE");
        let over_time = |of: fn(&DepthSample) -> u64| {
            sparkline(&outcome.queue_depth.iter().map(|sample| (sample.at_ms, of(sample))).collect::<Vec<_>>())
        };
        let (ready, waiting) = (over_time(|sample| sample.messages), over_time(|sample| sample.waiting));
        self.row("peak depth", &format!("{:>10}  {ready}", count(outcome.queue_depth_peak)));
        self.row("most buyers waiting", &format!("{:>10}  {waiting}", count(outcome.waiting_peak)));
    }

    fn workers(&mut self, outcome: &Outcome) {
        self.section("WORKERS");
        let all: u64 = outcome.workers.iter().map(|worker| worker.verdicts).sum();
        for worker in &outcome.workers {
            let memory = worker.rss_mib.map(|mib| format!("  {mib:.1} MiB")).unwrap_or_default();
            let id = if worker.id.is_empty() { "(nameless)" } else { &worker.id };
            self.row(id, &format!("{:>10}  {:>6}{memory}", count(worker.verdicts), share(worker.verdicts, all)));
        }
    }

    fn events(&mut self, outcome: &Outcome) {
        if outcome.events.is_empty() {
            return;
        }
        self.section("EVENTS");
        for event in &outcome.events {
            let at = event.at.to_string();
            self.row(&format!("at {at}"), &event_text(event));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
