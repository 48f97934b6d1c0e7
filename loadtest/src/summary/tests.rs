//! What the summary says of a sale that went well, and of others.

use super::*;
use crate::audit::{Invariant, VerdictCounts};
use crate::faults::CrashReport;
use crate::machine::Machine;
use crate::orders::report::{DemoStep, OrdersReport, QuietReport};
use crate::result::{CeilingReport, ScenarioReport, ServersReport, WorkerReport};
use crate::stats::Latency;

pub(crate) fn outcome() -> Outcome {
    let kept = Invariant { name: "never_oversold", holds: true, detail: "at most 1 unit reserved".into() };
    let worker = WorkerReport { id: "worker-1".into(), verdicts: 12_345, rss_mib: Some(21.5) };
    Outcome {
        scenario: ScenarioReport {
            buyers: 12_345,
            stock: 1,
            items: 1,
            workers: 1,
            strategy: "optimistic",
            batch_max: None,
            rate: 0.0,
            seed: 42,
        },
        servers: ServersReport { rabbitmq: "3.10.8".into(), postgresql: Some("15.18".into()), redis: None },
        machine: Machine::here(),
        verdicts: VerdictCounts { reserved: 1, sold_out: 12_344, refused: 0, invalid: 0 },
        lost: 0,
        duplicate_replies: 0,
        conflicting_replies: 0,
        oversold: 0,
        order_inversions: 0,
        seconds: 1.234_567,
        purchases_per_second: 9_999.6,
        latency_ms: Latency { min: 1.0, p50: 2.0, p90: 3.0, p95: 4.0, p99: 5.0, p999: 6.0, max: 1_234.56 },
        latency_curve: vec![],
        attempts: 26,
        conflicts: 0,
        queue_depth_peak: 7_000,
        events: vec![],
        crashes: vec![],
        workers: vec![worker],
        ceiling: None,
        life: None,
        shown: None,
        invariants: vec![kept],
        passed: true,
        waiting_peak: 12_000,
        queue_depth: vec![
            DepthSample { at_ms: 10, messages: 7_000, waiting: 12_000, sold: 0 },
            DepthSample { at_ms: 20, messages: 0, waiting: 0, sold: 1 },
        ],
        reconnects: 0,
    }
}

fn lines(outcome: &Outcome) -> Vec<String> {
    render(outcome, Style::Plain).lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn the_first_line_says_it_all() {
    assert_eq!(lines(&outcome())[0], "1 sold · 12,344 sold out · 0 failed — 1.23 s");
}

#[test]
fn every_section_is_there_in_order() {
    let lines = lines(&outcome());
    let titles: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .filter(|line| line.chars().take(5).all(|letter| letter.is_ascii_uppercase()) && !line.is_empty())
        .map(|line| line.split(' ').next().unwrap_or(line))
        .collect();
    assert_eq!(
        titles,
        ["INVARIANTS", "VERDICTS", "LATENCY", "THROUGHPUT", "CONTENTION", "QUEUE", "WORKERS"],
        "{lines:#?}"
    );
}

#[test]
fn a_broken_invariant_is_crossed_and_names_its_offenders() {
    let mut broken = outcome();
    broken.passed = false;
    broken.invariants[0] = Invariant { name: "never_oversold", holds: false, detail: "1: concert by 3".into() };
    let text = render(&broken, Style::Plain);
    assert!(text.contains("✗ never oversold"), "{text}");
    assert!(text.contains("1: concert by 3") && !text.contains('✓'), "{text}");
}

#[test]
fn the_ceiling_is_shown_with_its_ratio() {
    let ceiling = CeilingReport { seconds: 1.0, purchases_per_second: 12_345.0, ratio: Some(0.81) };
    let text = render(&Outcome { ceiling: Some(ceiling), ..outcome() }, Style::Plain);
    assert!(text.contains("12,345  in 1.00 s") && text.contains("0.81"), "{text}");
}

#[test]
fn events_are_listed_with_their_points_and_workers_where_there_were_any() {
    let at = "25%".parse().unwrap();
    let event = |event, worker: Option<&str>, node: Option<&str>| {
        let [worker, broker_node] = [worker, node].map(|whom| whom.map(str::to_owned));
        let next_verdict_seconds = worker.as_ref().map(|_| 0.25);
        EventReport { at, event, worker, broker_node, seconds: 1.5, next_verdict_seconds }
    };
    let events = vec![
        event(Action::Kill, Some("worker-1"), None),
        event(Action::Stop, None, None),
        event(Action::KillBroker, None, Some("node-2")),
        event(Action::KillRedis, None, None),
    ];
    let lines = lines(&Outcome { events, ..outcome() });
    let section: Vec<&str> = lines.iter().map(String::as_str).skip_while(|line| *line != "EVENTS").collect();
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let section: Vec<String> = section.into_iter().map(words).collect();
    let expected = [
        "at 25% worker-1 killed; the next worker's verdicts 0.25 s later",
        "at 25% no worker was left to be stopped",
        "at 25% node-2 killed",
        "at 25% Redis killed and started again",
    ];
    assert_eq!((section[0].as_str(), &section[1..]), ("EVENTS", &expected.map(str::to_owned)[..]));
}

#[test]
fn what_became_of_the_orders_is_told_with_the_money_and_the_events() {
    let life = OrdersReport {
        pay_share: "50%".parse().unwrap(),
        cancel_share: "10%".parse().unwrap(),
        hold_ms: Some(2_000),
        decline_share: "0%".parse().unwrap(),
        gateway_failure_share: "0%".parse().unwrap(),
        gateway_latency_ms: 20,
        paid: 1_234,
        declined: 5,
        cancelled: 6,
        expired: 7,
        held: 0,
        charges: 1_235,
        refunds: 1,
        gateway_requests: 2_000,
        gateway_spoilt: 3,
        events: 9_876,
        duplicate_events: 2,
        payment_latency_ms: Latency { p50: 40.25, p99: 99.0, ..Latency::default() },
        event_lag_ms: Latency::default(),
        quiet: Some(QuietReport { seconds: 1.0, purchases_per_second: 5_000.0, ratio: 0.8 }),
    };
    let crash = CrashReport { worker: "payment-1".into(), seconds: 1.25 };
    let lines = lines(&Outcome { life: Some(life), crashes: vec![crash], ..outcome() });
    let section: Vec<String> = lines
        .iter()
        .skip_while(|line| *line != "CRASHES")
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let expected = [
        "CRASHES",
        "killed and replaced 1 payment-1 at 1.2 s",
        "",
        "LIFE",
        "paid 1,234",
        "cancelled 6",
        "expired 7",
        "held 0",
        "payments declined 5",
        "charges at the gateway 1,235 1 refund; 2,000 asked, 3 spoilt",
        "payment latency 40.2 ms p50, 99.0 ms p99",
        "events 9,876 2 published again",
        "event lag 0.0 ms p50, 0.0 ms p99",
        "the same without life 5,000 in 1.00 s",
        "share of that 0.80",
    ];
    assert_eq!(section, expected);
}

#[test]
fn what_was_shown_is_told_step_by_step() {
    let step = DemoStep { seconds: 0.5, what: "ann pays".into(), came: "paid".into() };
    let lines = lines(&Outcome { shown: Some(vec![step]), ..outcome() });
    let last = lines.last().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    assert_eq!(last.as_deref(), Some("0.50 s ann pays paid"));
}

#[test]
fn without_colours_there_is_no_escape_and_with_them_there_is() {
    assert!(!render(&outcome(), Style::Plain).contains('\x1b'));
    assert!(render(&outcome(), Style::Coloured).contains("\x1b[32m"));
}
