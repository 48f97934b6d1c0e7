//! The result for people: one line that says it all, then the figures. Pure.

pub(crate) mod figures;

use shared::table::Style;

use crate::audit::Invariant;
use crate::faults::{Action, EventReport};
use crate::orders::demo::DemoStep;
use crate::orders::report::OrdersReport;
use crate::queues::DepthSample;
use crate::result::{Outcome, WorkerReport};
use crate::stats::Latency;
use figures::{count, decimal, plural, section, share, signed, sparkline, titled};

/// The column where a section's figures begin.
const LABEL_COLUMNS: usize = 24;
/// The column where it is said of an invariant what was checked, from its name on.
const INVARIANT_COLUMNS: usize = 28;
/// The column where a shown step's result begins, from that of its text on.
const STEP_COLUMNS: usize = 58;
/// The most crashed workers that are named.
const CRASHES_NAMED_MAX: usize = 10;

pub fn render(outcome: &Outcome, style: Style) -> String {
    let line = headline(outcome);
    let line = if outcome.passed { style.good(&line) } else { style.bad(&line) };
    let invariants = outcome.invariants.iter().map(|invariant| invariant_line(invariant, style));
    let verdicts: u64 = outcome.workers.iter().map(|worker| worker.verdicts).sum();
    let workers = outcome.workers.iter().map(|worker| worker_line(worker, verdicts));
    let events = outcome.events.iter().map(|event| row(&format!("at {}", event.at), &event_text(event)));
    let steps = outcome.shown.iter().flatten().map(|step| step_line(step, style));
    [
        format!("{line}\n{}\n", style.dim(&circumstances(outcome))),
        section("INVARIANTS", invariants, style),
        section("VERDICTS", verdict_lines(outcome), style),
        latencies(outcome.latency_ms, style),
        section("THROUGHPUT", throughput_lines(outcome), style),
        section("CONTENTION", contention_lines(outcome), style),
        section("QUEUE", queue_lines(outcome), style),
        section("WORKERS", workers, style),
        section("EVENTS", events, style),
        section("CRASHES", crash_line(outcome), style),
        section("ORDERS", outcome.life.iter().flat_map(order_lines), style),
        section("LIVES OF TWO ORDERS (shown after the sale, on an item of its own)", steps, style),
    ]
    .concat()
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

fn row(label: &str, value: &str) -> String {
    format!("{label:<LABEL_COLUMNS$}{value}")
}

/// A row that begins with a figure.
fn figure(label: &str, figure: &str, more: &str) -> String {
    row(label, &format!("{figure:>10}  {more}")).trim_end().to_owned()
}

fn invariant_line(invariant: &Invariant, style: Style) -> String {
    let name = invariant.name.replace('_', " ");
    let (mark, detail) = match invariant.holds {
        true => (style.good("✓"), style.dim(&invariant.detail)),
        false => (style.bad("✗"), style.bad(&invariant.detail)),
    };
    format!("{mark} {name:<INVARIANT_COLUMNS$}{detail}")
}

fn verdict_lines(outcome: &Outcome) -> Vec<String> {
    let buyers = u64::from(outcome.scenario.buyers);
    let ended = |(label, number)| figure(label, &count(number), &format!("{:>6}", share(number, buyers)));
    let repeats = [("duplicate replies", outcome.duplicate_replies), ("reconnects", outcome.reconnects.into())];
    let repeats = repeats.into_iter().filter(|(_, number)| *number > 0);
    endings(outcome)
        .map(ended)
        .into_iter()
        .chain(repeats.map(|(label, number)| figure(label, &count(number), "")))
        .collect()
}

fn latencies(latency: Latency, style: Style) -> String {
    let Latency { min, p50, p90, p95, p99, p999, max } = latency;
    let figures = [min, p50, p90, p95, p99, p999, max].map(|figure| decimal(figure, 1)).to_vec();
    let headings = [">min", ">p50", ">p90", ">p95", ">p99", ">p99.9", ">max"];
    titled("LATENCY (ms, from the intended send to the verdict)", &headings, vec![figures], style)
}

fn throughput_lines(outcome: &Outcome) -> Vec<String> {
    let mut lines = vec![figure("purchases per second", &decimal(outcome.purchases_per_second, 0), "")];
    if let Some(ceiling) = outcome.ceiling {
        let seconds = format!("in {:.2} s", ceiling.seconds);
        lines.push(figure("without a database", &decimal(ceiling.purchases_per_second, 0), &seconds));
        lines.extend(ceiling.ratio.map(|ratio| figure("share of that ceiling", &format!("{ratio:.2}"), "")));
    }
    lines
}

/// Nothing, where no database took part.
fn contention_lines(outcome: &Outcome) -> Vec<String> {
    let figures = [("decisions attempted", outcome.attempts), ("version conflicts", outcome.conflicts)];
    let figures = figures.into_iter().filter(|_| outcome.servers.postgresql.is_some());
    figures.map(|(label, number)| figure(label, &signed(number), "")).collect()
}

fn queue_lines(outcome: &Outcome) -> [String; 2] {
    let over_time = |of: fn(&DepthSample) -> u64| {
        sparkline(&outcome.queue_depth.iter().map(|sample| (sample.at_ms, of(sample))).collect::<Vec<_>>())
    };
    [
        figure("peak depth", &count(outcome.queue_depth_peak), &over_time(|sample| sample.messages)),
        figure("most buyers waiting", &count(outcome.waiting_peak), &over_time(|sample| sample.waiting)),
    ]
}

fn worker_line(worker: &WorkerReport, all: u64) -> String {
    let memory = worker.rss_mib.map(|mib| format!("  {mib:.1} MiB")).unwrap_or_default();
    let id = if worker.id.is_empty() { "(nameless)" } else { &worker.id };
    figure(id, &count(worker.verdicts), &format!("{:>6}{memory}", share(worker.verdicts, all)))
}

fn crash_line(outcome: &Outcome) -> Option<String> {
    let named = outcome.crashes.iter().take(CRASHES_NAMED_MAX);
    let mut named: Vec<String> = named.map(|crash| format!("{} at {:.1} s", crash.worker, crash.seconds)).collect();
    named.extend((outcome.crashes.len() > CRASHES_NAMED_MAX).then(|| "…".to_owned()));
    let crashes = outcome.crashes.len() as u64;
    (crashes > 0).then(|| figure("killed and replaced", &count(crashes), &named.join(", ")))
}

fn order_lines(orders: &OrdersReport) -> Vec<String> {
    let states = [
        ("paid", orders.paid),
        ("cancelled", orders.cancelled),
        ("expired", orders.expired),
        ("held", orders.held),
        ("payments declined", orders.declined),
    ];
    let (refunds, requests) = (plural(orders.refunds, "refund"), count(orders.gateway_requests));
    let money = format!("{refunds}; {requests} asked, {} spoilt", count(orders.gateway_spoilt));
    let latency = |label, latency: Latency| {
        figure(label, &decimal(latency.p50, 1), &format!("ms p50, {} ms p99", decimal(latency.p99, 1)))
    };
    let mut lines: Vec<String> = states.map(|(label, number)| figure(label, &count(number), "")).into();
    lines.extend([
        figure("charges at the gateway", &count(orders.charges), &money),
        latency("payment latency", orders.payment_latency_ms),
        figure("events", &count(orders.events), &format!("{} published again", count(orders.duplicate_events))),
        latency("event lag", orders.event_lag_ms),
    ]);
    if let Some(quiet) = orders.quiet {
        let seconds = format!("in {:.2} s", quiet.seconds);
        lines.push(figure("the same without this", &decimal(quiet.purchases_per_second, 0), &seconds));
        lines.push(figure("share of that", &format!("{:.2}", quiet.ratio), ""));
    }
    lines
}

fn step_line(step: &DemoStep, style: Style) -> String {
    let seconds = style.dim(&format!("{:>6.2} s", step.seconds));
    format!("{seconds}  {:<STEP_COLUMNS$}{}", step.what, style.good(&step.came))
}

#[cfg(test)]
mod tests;
