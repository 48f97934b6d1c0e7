//! Results that nobody measured, with something for every part of a page; the tests of pages include this file, too.

use clap::Parser;
use loadtest::audit::{Audit, Invariant, VerdictCounts};
use loadtest::bench::compare::{AtServer, Comparison, Contender, Form, Row};
use loadtest::cli::{Cli, Command};
use loadtest::faults::{Action, CrashReport, EventReport, FaultKind};
use loadtest::machine::Machine;
use loadtest::orders::demo::DemoStep;
use loadtest::orders::plan::Plan;
use loadtest::orders::report::OrdersReport;
use loadtest::queues::DepthSample;
use loadtest::result::{DoorsReport, Outcome, ScenarioReport, ServersReport, WorkerReport};
use loadtest::schedule::Scenario;
use loadtest::stats::{CurvePoint, Latency, Reference, Timing};
use loadtest::strategy::Strategy;

/// A sale in which everything happened that can.
pub(crate) fn outcome() -> Outcome {
    let invariant = |name, detail: &str| Invariant { name, holds: true, detail: detail.to_owned() };
    let worker = |id: &str, verdicts| WorkerReport { id: id.to_owned(), verdicts, rss_mib: Some(41.9) };
    let event = |at: &str, event, worker: &str, seconds| EventReport {
        at: at.parse().unwrap(),
        event,
        worker: Some(worker.to_owned()),
        seconds,
        next_verdict_seconds: Some(0.25),
        broker_node: None,
    };
    Outcome {
        scenario: scenario(),
        winner: None,
        servers: ServersReport { rabbitmq: "3.10.8".to_owned(), postgresql: Some("15.18".to_owned()), redis: None },
        machine: Machine::here(),
        audit: Audit {
            verdicts: VerdictCounts { reserved: 4_000, sold_out: 6_000, refused: 0, invalid: 0 },
            invariants: vec![
                invariant("never_oversold", "units reserved: at most 4000"),
                invariant("nothing_dead", "0"),
            ],
            ..Audit::default()
        },
        timing: Timing {
            seconds: 1.25,
            purchases_per_second: 8_000.0,
            latency_ms: latency(20.0, 640.0, 1_240.0),
            latency_curve: (0..60).map(|step| f64::from(step) / 5.0).map(curve_point).collect(),
        },
        messages: 1_000,
        attempts: 75,
        conflicts: 4,
        queue_depth_peak: 6_500,
        events: vec![event("20%", Action::Add, "worker-3", 0.25), event("40%", Action::Kill, "worker-1", 0.5)],
        crashes: vec![CrashReport { worker: "payment-1".to_owned(), seconds: 0.8 }],
        faults: [(FaultKind::Kill, 1), (FaultKind::InDoubt, 12)].into(),
        workers: vec![worker("worker-1", 3_100), worker("worker-2", 4_400), worker("worker-3", 2_500)],
        ceiling: Some(Reference { seconds: 1.1, purchases_per_second: 9_090.0, ratio: Some(0.88) }),
        life: Some(life()),
        shown: Some(vec![DemoStep { seconds: 0.5, what: "ann pays".to_owned(), came: "paid".to_owned() }]),
        passed: true,
        waiting_peak: 9_800,
        queue_depth: (1..=50).map(sample).collect(),
        reconnects: 0,
        doors: Some(DoorsReport { not_yet: 3, failures: [("reset", 7)].into() }),
        hostile_messages: 0,
    }
}

fn scenario() -> ScenarioReport {
    let sale = Scenario { buyers: 10_000, stock: 4_000, requests_per_message: 10, ..Scenario::default() };
    ScenarioReport { sale, workers: 2, strategy: "optimistic", batch_max: None }
}

fn sample(number: u64) -> DepthSample {
    let waiting = 9_800 - 9_800 * number / 50;
    DepthSample { at_ms: number * 25, messages: waiting * 2 / 3, waiting, sold: (number * 200).min(4_000) }
}

fn curve_point(halves: f64) -> CurvePoint {
    CurvePoint(100.0 - 100.0 / halves.exp2(), 20.0 + 100.0 * halves)
}

fn latency(min: f64, p50: f64, p99: f64) -> Latency {
    let between = |share: f64| p50 + (p99 - p50) * share;
    Latency { min, p50, p90: between(0.7), p95: between(0.85), p99, p999: p99 * 1.1, max: p99 * 1.2 }
}

fn life() -> OrdersReport {
    OrdersReport {
        plan: Plan { pay_share: "50%".parse().ok(), hold_ms: Some(2_000), gateway_latency_ms: 20, ..Plan::default() },
        paid: 2_000,
        declined: 5,
        cancelled: 400,
        expired: 1_600,
        held: 0,
        charges: 2_001,
        refunds: 1,
        gateway_requests: 2_100,
        gateway_spoilt: 3,
        events: 9_876,
        duplicate_events: 2,
        payment_latency_ms: latency(21.0, 40.0, 99.0),
        event_lag_ms: latency(1.0, 6.0, 21.0),
        quiet: Some(Reference { seconds: 1.0, purchases_per_second: 8_900.0, ratio: Some(0.9) }),
    }
}

/// Every strategy in every form, with three numbers of buyers.
pub(crate) fn comparison() -> Comparison {
    let sizes = ["--buyers=1000", "--buyers=5000", "--buyers=20000"];
    let asked = ["loadtest", "compare", "--repetitions=5", "--requests-per-message=1"].into_iter().chain(sizes);
    let Command::Compare(scenario) = Cli::parse_from(asked).command else { unreachable!("the subcommand is compare") };
    Comparison {
        servers: ServersReport { redis: Some("7.0.15".to_owned()), ..outcome().servers },
        machine: Machine::here(),
        rows: scenario.rows().into_iter().map(row).collect(),
        scenario,
        broken: vec![],
        passed: true,
    }
}

/// Share of the ceiling, and conflicts for each sale.
fn figures(form: Form, strategy: Option<Strategy>) -> (f64, f64) {
    let place = strategy.map_or(0, |strategy| strategy as usize);
    match form {
        Form::Ceiling => (1.0, 0.0),
        Form::Batched => ([0.91, 0.88, 0.9, 0.87][place], 0.0),
        Form::OneByOne => ([0.055, 0.05, 0.066, 0.052][place], 0.0),
        Form::Competing => ([0.021, 0.06, 0.08, 0.07][place], if place == 0 { 3.1 } else { 0.0 }),
        Form::Http => ([0.052, 0.071, 0.12][place], 1.4),
        Form::Web => (0.8, 0.0),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn row(contender: Contender) -> Row {
    let Contender { buyers, form, strategy, .. } = contender;
    let (ratio, conflicts) = figures(form, strategy);
    let pace = ((9_050.0 + f64::from(buyers) / 20.0) * ratio).round();
    let seconds = f64::from(buyers) / pace;
    let (sold, is_batched) = (u64::from(buyers / 2), form == Form::Batched);
    let measured = |figure: f64| strategy.map(|_| figure);
    let row = Row {
        contender,
        repetitions: 5,
        sold,
        refused: u64::from(buyers) - sold,
        seconds,
        purchases_per_second: pace,
        ratio: measured(ratio),
        runs: [0.97, 1.0, 1.02, 0.99, 1.01].map(|share| (pace * share).round()).into(),
        latency_ms: latency(12.0, seconds * 520.0, seconds * 990.0),
        attempts_per_sale: measured(if is_batched { 0.006 } else { 2.0 + conflicts }),
        conflicts_per_sale: measured(conflicts),
        rollbacks_per_purchase: measured(conflicts / 2.0),
        round_trips_per_purchase: measured(if is_batched { 0.011 } else { 3.0 + conflicts * 2.0 }),
        connection_ms_per_purchase: measured(if is_batched { 0.08 } else { 1.7 * (1.0 + conflicts * 4.0) }),
        order_inversions: if form == Form::Competing { u64::from(buyers / 40) } else { 0 },
        ..Row::default()
    };
    if form == Form::Http { by_http(row) } else { row }
}

/// With buyers who got no verdict.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn by_http(row: Row) -> Row {
    let Contender { buyers, strategy, .. } = row.contender;
    let (failing, last) = match strategy {
        Some(Strategy::Optimistic) => (0.71, "conflict"),
        Some(Strategy::Pessimistic) => (0.42, "reset"),
        Some(Strategy::Atomic | Strategy::Redis) | None => (0.31, "reset"),
    };
    let failed = (f64::from(buyers) * failing * (f64::from(buyers) / 20_000.0).sqrt()) as u64;
    let kinds = [("timed_out", failed / 2), ("unavailable", failed / 4), (last, failed - failed / 2 - failed / 4)];
    let answered = u64::from(buyers) - failed;
    Row {
        failed,
        failures: kinds.map(|(kind, number)| (kind.to_owned(), number)).into(),
        stalled: Some(u64::from(buyers / 3)),
        lag_ms: Some(250.0),
        sold: answered.min(u64::from(buyers / 2)),
        refused: answered.saturating_sub(u64::from(buyers / 2)),
        latency_ms: latency(25.0, 1_400.0, 9_800.0),
        order_inversions: u64::from(buyers / 9),
        at_server: Some(AtServer {
            pool_wait_ms_per_purchase: 1_234.5,
            pool_timeouts: 7,
            lock_timeouts: 6,
            untold: 5,
            zombie_units: 4,
            syn_drops: 3_000,
            syn_retransmits: 2_000,
        }),
        ..row
    }
}
