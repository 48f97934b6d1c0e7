//! The result for people: one line that says it all, then the figures. Pure.

pub(crate) mod figures;
mod orders;

use shared::table::Style;

use crate::faults::{Action, EventReport};
use crate::queues::DepthSample;
use crate::result::Outcome;
use figures::{count, decimal, plural, share, signed, sparkline};

/// The column where a section's figures begin.
const LABEL_COLUMNS: usize = 24;
/// The column where it is said of an invariant what was checked, from its name on.
const INVARIANT_COLUMNS: usize = 28;

/// The whole summary, with a final newline.
pub fn render(outcome: &Outcome, style: Style) -> String {
    let mut page = Page { text: String::new(), style };
    let line = headline(outcome);
    page.line(&if outcome.passed { style.good(&line) } else { style.bad(&line) });
    page.line(&style.dim(&circumstances(outcome)));
    page.invariants(outcome);
    page.verdicts(outcome);
    page.latency(outcome);
    page.throughput(outcome);
    page.queue(outcome);
    page.workers(outcome);
    page.crashes(outcome);
    page.orders(outcome);
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
        self.line(&format!("\n  {title}"));
    }

    fn row(&mut self, label: &str, value: &str) {
        self.line(&format!("    {label:<LABEL_COLUMNS$}{value}"));
    }

    /// A row that begins with a figure.
    fn figure(&mut self, label: &str, figure: &str, more: &str) {
        let more = if more.is_empty() { String::new() } else { format!("  {more}") };
        self.row(label, &format!("{figure:>10}{more}"));
    }

    fn invariants(&mut self, outcome: &Outcome) {
        self.section("INVARIANTS");
        for invariant in &outcome.invariants {
            let (name, style) = (invariant.name.replace('_', " "), self.style);
            let (mark, detail) = match invariant.holds {
                true => (style.good("✓"), style.dim(&invariant.detail)),
                false => (style.bad("✗"), style.bad(&invariant.detail)),
            };
            self.line(&format!("    {mark} {name:<INVARIANT_COLUMNS$}{detail}"));
        }
    }

    fn verdicts(&mut self, outcome: &Outcome) {
        self.section("VERDICTS");
        let buyers = u64::from(outcome.scenario.buyers);
        for (label, number) in endings(outcome) {
            self.figure(label, &count(number), &format!("{:>6}", share(number, buyers)));
        }
        let repeats = [("duplicate replies", outcome.duplicate_replies), ("reconnects", outcome.reconnects.into())];
        for (label, number) in repeats.into_iter().filter(|(_, number)| *number > 0) {
            self.figure(label, &count(number), "");
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
        let names: String = figures.iter().map(|(name, _)| format!("{name:>10}")).collect();
        let values: String = figures.iter().map(|(_, value)| format!("{:>10}", decimal(*value, 1))).collect();
        let names = self.style.dim(&names);
        self.line(&format!("  {names}"));
        self.line(&format!("  {values}"));
    }

    fn throughput(&mut self, outcome: &Outcome) {
        self.section("THROUGHPUT");
        self.figure("purchases per second", &decimal(outcome.purchases_per_second, 0), "");
        if let Some(ceiling) = outcome.ceiling {
            let per_second = decimal(ceiling.purchases_per_second, 0);
            self.figure("without a database", &per_second, &format!("in {:.2} s", ceiling.seconds));
            if let Some(ratio) = ceiling.ratio {
                self.figure("share of that ceiling", &format!("{ratio:.2}"), "");
            }
        }
        if outcome.servers.postgresql.is_some() {
            self.section("CONTENTION");
            self.figure("decisions attempted", &signed(outcome.attempts), "");
            self.figure("version conflicts", &signed(outcome.conflicts), "");
        }
    }

    fn queue(&mut self, outcome: &Outcome) {
        self.section("QUEUE");
        let over_time = |of: fn(&DepthSample) -> u64| {
            sparkline(&outcome.queue_depth.iter().map(|sample| (sample.at_ms, of(sample))).collect::<Vec<_>>())
        };
        self.figure("peak depth", &count(outcome.queue_depth_peak), &over_time(|sample| sample.messages));
        self.figure("most buyers waiting", &count(outcome.waiting_peak), &over_time(|sample| sample.waiting));
    }

    fn workers(&mut self, outcome: &Outcome) {
        self.section("WORKERS");
        let all: u64 = outcome.workers.iter().map(|worker| worker.verdicts).sum();
        for worker in &outcome.workers {
            let memory = worker.rss_mib.map(|mib| format!("  {mib:.1} MiB")).unwrap_or_default();
            let id = if worker.id.is_empty() { "(nameless)" } else { &worker.id };
            let part = format!("{:>6}{memory}", share(worker.verdicts, all));
            self.figure(id, &count(worker.verdicts), &part);
        }
        if !outcome.events.is_empty() {
            self.section("EVENTS");
        }
        for event in &outcome.events {
            self.row(&format!("at {}", event.at), &event_text(event));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
