//! Results that nobody measured, with something for every part of a page; the tests of pages include this file, too.

use loadtest::{
    audit::{Invariant, VerdictCounts},
    bench::compare::{ComparedScenario, Comparison, Form, Row},
    faults::{Action, CrashReport, EventReport},
    machine::Machine,
    orders::report::{DemoStep, OrdersReport, QuietReport},
    queues::DepthSample,
    result::{CeilingReport, Outcome, ScenarioReport, ServersReport, WorkerReport},
    stats::{CurvePoint, Latency},
    strategy::Strategy,
};
use std::collections::BTreeMap;

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
        servers: ServersReport { rabbitmq: "3.10.8".to_owned(), postgresql: Some("15.18".to_owned()), redis: None },
        machine: Machine::here(),
        verdicts: VerdictCounts { reserved: 4_000, sold_out: 6_000, refused: 0, invalid: 0 },
        lost: 0,
        duplicate_replies: 0,
        conflicting_replies: 0,
        oversold: 0,
        order_inversions: 0,
        seconds: 1.25,
        purchases_per_second: 8_000.0,
        latency_ms: latency(20.0, 640.0, 1_240.0),
        latency_curve: (0..60).map(|step| f64::from(step) / 5.0).map(curve_point).collect(),
        attempts: 75,
        conflicts: 4,
        queue_depth_peak: 6_500,
        events: vec![event("20%", Action::Add, "worker-3", 0.25), event("40%", Action::Kill, "worker-1", 0.5)],
        crashes: vec![CrashReport { worker: "payment-1".to_owned(), seconds: 0.8 }],
        workers: vec![worker("worker-1", 3_100), worker("worker-2", 4_400), worker("worker-3", 2_500)],
        ceiling: Some(CeilingReport { seconds: 1.1, purchases_per_second: 9_090.0, ratio: Some(0.88) }),
        life: Some(life()),
        shown: Some(vec![DemoStep { seconds: 0.5, what: "ann pays".to_owned(), came: "paid".to_owned() }]),
        invariants: vec![invariant("never_oversold", "units reserved: at most 4000"), invariant("nothing_dead", "0")],
        passed: true,
        waiting_peak: 9_800,
        queue_depth: (1..=50).map(sample).collect(),
        reconnects: 0,
    }
}

fn scenario() -> ScenarioReport {
    ScenarioReport {
        buyers: 10_000,
        stock: 4_000,
        items: 1,
        workers: 2,
        strategy: "optimistic",
        batch_max: None,
        rate: 0.0,
        seed: 42,
    }
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
        pay_share: "50%".parse().unwrap(),
        cancel_share: "10%".parse().unwrap(),
        hold_ms: Some(2_000),
        decline_share: "0%".parse().unwrap(),
        gateway_failure_share: "0%".parse().unwrap(),
        gateway_latency_ms: 20,
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
        quiet: Some(QuietReport { seconds: 1.0, purchases_per_second: 8_900.0, ratio: 0.9 }),
    }
}

/// Every strategy in every form, with three numbers of buyers.
pub(crate) fn comparison() -> Comparison {
    let buyers = [1_000, 5_000, 20_000];
    let rows = buyers.into_iter().flat_map(|buyers| {
        let ceiling = 9_050.0 + f64::from(buyers) / 20.0;
        let ways = WAYS.into_iter().map(move |way| on_the_queue(buyers, ceiling, way));
        ways.chain(HTTP_SERVERS.into_iter().map(move |server| by_http(buyers, ceiling, server)))
    });
    Comparison {
        scenario: ComparedScenario {
            buyers: buyers.into(),
            stock: None,
            items: 1,
            workers: 1,
            repetitions: 5,
            in_flight: 16,
            payment_ms: 20,
            seed: 42,
        },
        servers: ServersReport {
            rabbitmq: "3.10.8".to_owned(),
            postgresql: Some("15.18".to_owned()),
            redis: Some("7.0.15".to_owned()),
        },
        machine: Machine::here(),
        rows: rows.collect(),
        broken: vec![],
        passed: true,
    }
}

type Way<'a> = (&'a str, Form, Option<Strategy>, f64, f64);

/// Name, form, strategy, share of the ceiling, conflicts for each sale.
const WAYS: [Way<'static>; 13] = [
    ("ceiling", Form::Ceiling, None, 1.0, 0.0),
    ("optimistic, batched", Form::Batched, Some(Strategy::Optimistic), 0.91, 0.0),
    ("pessimistic, batched", Form::Batched, Some(Strategy::Pessimistic), 0.88, 0.0),
    ("atomic, batched", Form::Batched, Some(Strategy::Atomic), 0.9, 0.0),
    ("redis, batched", Form::Batched, Some(Strategy::Redis), 0.87, 0.0),
    ("optimistic, one by one", Form::OneByOne, Some(Strategy::Optimistic), 0.055, 0.0),
    ("pessimistic, one by one", Form::OneByOne, Some(Strategy::Pessimistic), 0.05, 0.0),
    ("atomic, one by one", Form::OneByOne, Some(Strategy::Atomic), 0.066, 0.0),
    ("redis, one by one", Form::OneByOne, Some(Strategy::Redis), 0.052, 0.0),
    ("optimistic, competing", Form::Competing, Some(Strategy::Optimistic), 0.021, 3.1),
    ("pessimistic, competing", Form::Competing, Some(Strategy::Pessimistic), 0.06, 0.0),
    ("atomic, competing", Form::Competing, Some(Strategy::Atomic), 0.08, 0.0),
    ("redis, competing", Form::Competing, Some(Strategy::Redis), 0.07, 0.0),
];
/// Name, strategy, share of the ceiling, share of the buyers who got no verdict of 20,000.
const HTTP_SERVERS: [(&str, Strategy, f64, f64); 3] = [
    ("optimistic, HTTP", Strategy::Optimistic, 0.052, 0.71),
    ("pessimistic, HTTP", Strategy::Pessimistic, 0.071, 0.42),
    ("atomic, HTTP", Strategy::Atomic, 0.12, 0.31),
];

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn on_the_queue(buyers: u32, ceiling: f64, (name, form, strategy, ratio, conflicts): Way<'_>) -> Row {
    let pace = (ceiling * ratio).round();
    let seconds = f64::from(buyers) / pace;
    let (sold, is_batched) = (u64::from(buyers / 2), form == Form::Batched);
    let measured = |figure: f64| strategy.map(|_| figure);
    Row {
        buyers,
        name: name.to_owned(),
        form,
        strategy,
        batch_max: (form == Form::OneByOne).then_some(1),
        in_flight: (form == Form::Competing).then_some(16),
        repetitions: 5,
        sold,
        refused: u64::from(buyers) - sold,
        failed: 0,
        failures: BTreeMap::new(),
        stalled: None,
        lag_ms: None,
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
        oversold: 0,
        at_server: None,
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn by_http(buyers: u32, ceiling: f64, (name, strategy, ratio, failing): (&str, Strategy, f64, f64)) -> Row {
    let share = failing * (f64::from(buyers) / 20_000.0).sqrt();
    let failed = (f64::from(buyers) * share) as u64;
    let kinds = [("timed_out", failed / 2), ("unavailable", failed / 4)];
    let rest = failed - failed / 2 - failed / 4;
    let last = if strategy == Strategy::Optimistic { "conflict" } else { "reset" };
    let answered = u64::from(buyers) - failed;
    Row {
        failed,
        failures: kinds.into_iter().chain([(last, rest)]).collect(),
        stalled: Some(u64::from(buyers / 3)),
        sold: answered.min(u64::from(buyers / 2)),
        refused: answered.saturating_sub(u64::from(buyers / 2)),
        latency_ms: latency(25.0, 1_400.0, 9_800.0),
        order_inversions: u64::from(buyers / 9),
        ..on_the_queue(buyers, ceiling, (name, Form::Http, Some(strategy), ratio, 1.4))
    }
}
