//! The result for people: one line that says it all, then the figures. Pure.

pub(crate) mod figures;

use crate::audit::Invariant;
use crate::faults::{Action, CrashReport, EventReport, FaultKind};
use crate::orders::report::OrdersReport;
use crate::result::{DoorsReport, Outcome, ScenarioReport};
use crate::stats::{Latency, Reference};
use clap::ValueEnum;
use figures::{count, decimal, plural, section, share, signed, titled};
use shared::table::Style;

/// The column where a section's figures begin.
const LABEL_COLUMNS: usize = 24;
/// The column where it is said of an invariant what was checked, from its name on.
const INVARIANT_COLUMNS: usize = 28;
/// The column where a shown step's result begins, from that of its text on.
const STEP_COLUMNS: usize = 58;

/// Of more workers and crashes, the JSON has the rest.
const LINES_SHOWN_MAX: usize = 50;

pub fn render(outcome: &Outcome, style: Style) -> String {
    let line = headline(outcome);
    let line = if outcome.passed { style.good(&line) } else { style.bad(&line) };
    let who = if outcome.doors.is_some() { "DOORS" } else { "WORKERS" };
    let steps = outcome.shown.iter().flatten().map(|step| {
        let seconds = style.dim(&format!("{:>6.2} s", step.seconds));
        format!("{seconds}  {:<STEP_COLUMNS$}{}", step.what, style.good(&step.came))
    });
    let Latency { min, p50, p90, p95, p99, p999, max } = outcome.timing.latency_ms;
    let latencies = [min, p50, p90, p95, p99, p999, max].map(|figure| decimal(figure, 1)).to_vec();
    let percentiles = [">min", ">p50", ">p90", ">p95", ">p99", ">p99.9", ">max"];
    [
        format!("{line}\n{}\n", style.dim(&circumstances(outcome))),
        section("INVARIANTS", outcome.audit.invariants.iter().map(|one| invariant_line(one, style)), style),
        section("VERDICTS", verdict_lines(outcome), style),
        titled("LATENCY (ms, from the intended send to the verdict)", &percentiles, vec![latencies], style),
        section("THROUGHPUT", throughput_lines(outcome), style),
        section(who, worker_lines(outcome).chain(outcome.doors.iter().flat_map(door_lines)), style),
        section("EVENTS", event_lines(outcome), style),
        section("ORDERS", outcome.life.iter().flat_map(order_lines), style),
        section("ORDERS (shown after the sale, on an item of its own)", steps, style),
    ]
    .concat()
}

/// The whole sale in one line, such as `1 sold · 999 sold out · 0 failed — 0.11 s`.
pub(crate) fn headline(outcome: &Outcome) -> String {
    let verdicts = outcome.audit.verdicts;
    let failed = outcome.audit.lost + verdicts.invalid + outcome.audit.conflicting_replies;
    let refused = if verdicts.refused > 0 { format!("{} refused · ", count(verdicts.refused)) } else { String::new() };
    let (sold, sold_out) = (count(verdicts.reserved), count(verdicts.sold_out));
    format!("{sold} sold · {sold_out} sold out · {refused}{} failed — {:.2} s", count(failed), outcome.timing.seconds)
}

/// What was sold to whom, by whom, and on what.
pub(crate) fn circumstances(outcome: &Outcome) -> String {
    let ScenarioReport { sale, workers, strategy, .. } = &outcome.scenario;
    let pace = match sale.rate {
        0.0 => "at once".to_owned(),
        rate if sale.burst_ms > 0 => format!("at {rate} per second, every {} ms", count(sale.burst_ms.into())),
        rate => format!("at {rate} per second"),
    };
    let together = match sale.requests_per_message {
        1 => String::new(),
        most => format!(", up to {} a message", count(most.into())),
    };
    let by_http = if outcome.doors.is_some() { " by HTTP" } else { "" };
    format!(
        "{} {pace}{by_http}{together} · {} of {} · {} · {} · seed {} · {}",
        plural(u64::from(sale.buyers), "buyer"),
        plural(sale.stock, "unit"),
        plural(u64::from(sale.items), "item"),
        plural(u64::from(*workers), "worker"),
        strategy,
        sale.seed,
        outcome.servers
    )
}

/// How the requests ended: each verdict's name and number; the last is of those that have none.
pub(crate) fn endings(outcome: &Outcome) -> [(&'static str, u64); 5] {
    let verdicts = outcome.audit.verdicts;
    let answered = verdicts.reserved + verdicts.sold_out + verdicts.refused + verdicts.invalid;
    [
        ("reserved", verdicts.reserved),
        ("sold out", verdicts.sold_out),
        ("refused", verdicts.refused),
        ("invalid", verdicts.invalid),
        ("none", u64::from(outcome.scenario.sale.buyers).saturating_sub(answered)),
    ]
}

/// What an event did, and for how long the buyers felt it.
pub(crate) fn event_text(event: &EventReport) -> String {
    let what = match event.worker.as_ref().or(event.broker_node.as_ref()) {
        Some(whom) => format!("{whom} {}", event.event.past()),
        None if event.event == Action::KillRedis => format!("Redis {}", event.event.past()),
        None if event.event == Action::KillDoor => "no door was left to be killed".to_owned(),
        None => format!("no worker was left to be {}", event.event.past()),
    };
    let Some(seconds) = event.next_verdict_seconds else { return what };
    let whose = if event.event == Action::Add { "its first verdict" } else { "the next worker's verdicts" };
    format!("{what}; {whose} {} s later", decimal(seconds, 2))
}

/// A row that begins with a figure.
fn figure(label: &str, figure: &str, more: &str) -> String {
    format!("{label:<LABEL_COLUMNS$}{figure:>10}  {more}").trim_end().to_owned()
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
    let buyers = u64::from(outcome.scenario.sale.buyers);
    let ended = |(label, number)| figure(label, &count(number), &format!("{:>6}", share(number, buyers)));
    let repeats = [("duplicate replies", outcome.audit.duplicate_replies), ("reconnects", outcome.reconnects.into())];
    let repeats = repeats.into_iter().filter(|(_, number)| *number > 0);
    let repeats = repeats.map(|(label, number)| figure(label, &count(number), ""));
    endings(outcome).map(ended).into_iter().chain(repeats).collect()
}

fn throughput_lines(outcome: &Outcome) -> Vec<String> {
    let mut lines = vec![figure("purchases per second", &decimal(outcome.timing.purchases_per_second, 0), "")];
    lines.extend(outcome.ceiling.into_iter().flat_map(|ceiling| reference("without a database", ceiling)));
    // Nobody attempts or conflicts where no database took part.
    if outcome.servers.postgresql.is_some() {
        lines.push(figure("decisions attempted", &signed(outcome.attempts), ""));
        lines.push(figure("version conflicts", &signed(outcome.conflicts), ""));
    }
    lines.push(figure("deepest queue", &count(outcome.queue_depth_peak), ""));
    lines.push(figure("most buyers waiting", &count(outcome.waiting_peak), ""));
    lines
}

/// The pace of other sales, and this one's share of it.
fn reference(label: &str, reference: Reference) -> impl Iterator<Item = String> {
    let pace = figure(label, &decimal(reference.purchases_per_second, 0), &format!("in {:.2} s", reference.seconds));
    let share = reference.ratio.map(|ratio| figure("share of that", &format!("{ratio:.2}"), ""));
    std::iter::once(pace).chain(share)
}

fn worker_lines(outcome: &Outcome) -> impl Iterator<Item = String> {
    let all: u64 = outcome.workers.iter().map(|worker| worker.verdicts).sum();
    outcome.workers.iter().take(LINES_SHOWN_MAX).map(move |worker| {
        let memory = worker.rss_mib.map(|mib| format!("  {mib:.1} MiB")).unwrap_or_default();
        figure(&worker.id, &count(worker.verdicts), &format!("{:>6}{memory}", share(worker.verdicts, all)))
    })
}

fn door_lines(doors: &DoorsReport) -> Vec<String> {
    let failures =
        doors.failures.iter().map(|(kind, number)| figure(&kind.replace('_', " "), &count(*number), "asked again"));
    let failed = figure("requests failed", &count(doors.failures.values().sum()), "");
    [failed, figure("not decided yet (202)", &count(doors.not_yet), "")].into_iter().chain(failures).collect()
}

fn event_lines(outcome: &Outcome) -> impl Iterator<Item = String> {
    let events = outcome.events.iter().map(|event| (format!("at {}", event.at), event_text(event)));
    let at_random =
        |crash: &CrashReport| (format!("at {:.1} s", crash.seconds), format!("{} killed and replaced", crash.worker));
    // Of many, their numbers say more.
    let crashes = outcome.crashes.iter().take(LINES_SHOWN_MAX).map(at_random);
    let number = |(kind, number): (&FaultKind, &u32)| {
        let kind = kind.to_possible_value().map_or_else(String::new, |value| value.get_name().replace('-', " "));
        ("at random".to_owned(), format!("{} × {kind}", count((*number).into())))
    };
    let faults = outcome.faults.iter().map(number);
    let hostile = (outcome.hostile_messages > 0)
        .then(|| ("meanwhile".to_owned(), format!("{} hostile messages", count(outcome.hostile_messages))));
    events.chain(crashes).chain(faults).chain(hostile).map(|(at, text)| format!("{at:<LABEL_COLUMNS$}{text}"))
}

fn order_lines(orders: &OrdersReport) -> Vec<String> {
    let plain = |number| (count(number), String::new());
    let latency = |latency: Latency| (decimal(latency.p50, 1), format!("ms p50, {} ms p99", decimal(latency.p99, 1)));
    let (refunds, requests) = (plural(orders.refunds, "refund"), count(orders.gateway_requests));
    let money = format!("{refunds}; {requests} asked, {} spoilt", count(orders.gateway_spoilt));
    let again = format!("{} published again", count(orders.duplicate_events));
    let figures = [
        ("paid", plain(orders.paid)),
        ("cancelled", plain(orders.cancelled)),
        ("expired", plain(orders.expired)),
        ("held", plain(orders.held)),
        ("payments declined", plain(orders.declined)),
        ("charges at the gateway", (count(orders.charges), money)),
        ("payment latency", latency(orders.payment_latency_ms)),
        ("events", (count(orders.events), again)),
        ("event lag", latency(orders.event_lag_ms)),
    ];
    let lines = figures.into_iter().map(|(label, (number, more))| figure(label, &number, &more));
    lines.chain(orders.quiet.into_iter().flat_map(|quiet| reference("the same without this", quiet))).collect()
}

#[cfg(test)]
mod tests {
    //! What the summary says of a sale in which everything happened, and what it says of others.

    use super::*;
    use crate::fixtures::outcome;

    /// Each line without what surrounds its words.
    fn lines(outcome: &Outcome) -> Vec<String> {
        let rendered = render(outcome, Style::Plain);
        rendered.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn every_section_says_its_figures() {
        let lines = lines(&outcome());
        for line in [
            "4,000 sold · 6,000 sold out · 0 failed — 1.25 s",
            "10,000 buyers at once by HTTP, up to 10 a message · 4,000 units of 1 item · 2 workers · optimistic · seed 42 · \
             RabbitMQ 3.10.8, PostgreSQL 15.18",
            "✓ never oversold units reserved: at most 4000",
            "reserved 4,000 40.0 %",
            "purchases per second 8,000",
            "without a database 9,090 in 1.10 s",
            "share of that 0.88",
            "version conflicts 4",
            "worker-1 3,100 31.0 % 41.9 MiB",
            "at 20% worker-3 added; its first verdict 0.25 s later",
            "at 0.8 s payment-1 killed and replaced",
            "at random 12 × in doubt",
            "charges at the gateway 2,001 1 refund; 2,100 asked, 3 spoilt",
            "payment latency 40.0 ms p50, 99.0 ms p99",
            "the same without this 8,900 in 1.00 s",
            "requests failed 7",
            "reset 7 asked again",
            "0.50 s ann pays paid",
        ] {
            assert!(lines.iter().any(|said| said == line), "{line}: {lines:#?}");
        }
        let rendered = |style| render(&outcome(), style);
        assert!(!rendered(Style::Plain).contains('\x1b') && rendered(Style::Coloured).contains("\x1b[32m"));
    }

    #[test]
    fn a_broken_invariant_is_crossed_and_names_its_offenders() {
        let mut outcome = outcome();
        outcome.audit.invariants[0].holds = false;
        outcome.audit.invariants[0].detail = "1: concert by 3".to_owned();
        assert!(lines(&outcome).contains(&"✗ never oversold 1: concert by 3".to_owned()));
    }

    #[test]
    fn an_event_says_whom_it_met_and_for_how_long_the_buyers_felt_it() {
        for (event, worker, node, expected) in [
            (Action::Kill, Some("worker-1"), None, "worker-1 killed; the next worker's verdicts 0.25 s later"),
            (Action::Stop, None, None, "no worker was left to be stopped"),
            (Action::KillBroker, None, Some("node-2"), "node-2 killed"),
            (Action::KillRedis, None, None, "Redis killed and started again"),
        ] {
            let [worker, broker_node] = [worker, node].map(|whom: Option<&str>| whom.map(str::to_owned));
            let (at, next_verdict_seconds) = ("25%".parse().unwrap(), worker.as_ref().map(|_| 0.25));
            let event = EventReport { at, event, worker, broker_node, seconds: 1.5, next_verdict_seconds };
            assert_eq!(event_text(&event), expected);
        }
    }
}
