//! Results that nobody measured, with something for every part of a page; the tests of pages include this file, too.

use clap::ValueEnum;
use loadtest::{
    audit::{Audit, Invariant, VerdictCounts},
    bench::compare::{ComparedScenario, Comparison, Form, Row},
    faults::{Action, CrashReport, EventReport},
    machine::Machine,
    orders::{demo::DemoStep, plan::Plan, report::OrdersReport},
    queues::DepthSample,
    result::{Outcome, ScenarioReport, ServersReport, WorkerReport},
    schedule::Scenario,
    stats::{CurvePoint, Latency, Reference, Timing},
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
        attempts: 75,
        conflicts: 4,
        queue_depth_peak: 6_500,
        events: vec![event("20%", Action::Add, "worker-3", 0.25), event("40%", Action::Kill, "worker-1", 0.5)],
        crashes: vec![CrashReport { worker: "payment-1".to_owned(), seconds: 0.8 }],
        workers: vec![worker("worker-1", 3_100), worker("worker-2", 4_400), worker("worker-3", 2_500)],
        ceiling: Some(Reference { seconds: 1.1, purchases_per_second: 9_090.0, ratio: Some(0.88) }),
        life: Some(life()),
        shown: Some(vec![DemoStep { seconds: 0.5, what: "ann pays".to_owned(), came: "paid".to_owned() }]),
        passed: true,
        waiting_peak: 9_800,
        queue_depth: (1..=50).map(sample).collect(),
        reconnects: 0,
    }
}

fn scenario() -> ScenarioReport {
    let sale = Scenario { buyers: 10_000, stock: 4_000, ..Scenario::default() };
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
    let buyers = [1_000, 5_000, 20_000];
    // Of the ceiling.
    let paces = [(Form::Batched, "batched", 0.91), (Form::OneByOne, "one by one", 0.06)];
    let paces = paces.into_iter().chain([(Form::Competing, "competing", 0.08), (Form::Http, "HTTP", 0.12)]);
    let ways = paces.flat_map(|(form, name, ratio)| {
        let strategies = Strategy::value_variants().iter().zip([1.0, 0.97, 0.98, 0.95]);
        strategies
            .map(move |(strategy, share)| (form, format!("{}, {name}", strategy.as_str()), *strategy, ratio * share))
    });
    let ways: Vec<_> =
        ways.filter(|(form, _, strategy, _)| (*form, *strategy) != (Form::Http, Strategy::Redis)).collect();
    let rows = buyers.into_iter().flat_map(|buyers| {
        let ways =
            ways.iter().map(move |(form, name, strategy, ratio)| row(buyers, *form, name, Some(*strategy), *ratio));
        [row(buyers, Form::Ceiling, "ceiling", None, 1.0)].into_iter().chain(ways)
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
        servers: ServersReport { redis: Some("7.0.15".to_owned()), ..outcome().servers },
        machine: Machine::here(),
        rows: rows.collect(),
        broken: vec![],
        passed: true,
    }
}

fn row(buyers: u32, form: Form, name: &str, strategy: Option<Strategy>, ratio: f64) -> Row {
    let pace = ((9_050.0 + f64::from(buyers) / 20.0) * ratio).round();
    let (half, is_http) = (u64::from(buyers / 2), form == Form::Http);
    let failures = [("timed_out", half / 2), ("unavailable", half / 4)].into_iter().filter(|_| is_http);
    let failures: BTreeMap<&str, u64> = failures.collect();
    let failed = failures.values().sum();
    let measured = |figure: f64| strategy.map(|_| figure);
    Row {
        buyers,
        name: name.to_owned(),
        form,
        strategy,
        batch_max: (form == Form::OneByOne).then_some(1),
        in_flight: (form == Form::Competing).then_some(16),
        repetitions: 5,
        sold: half,
        refused: half - failed,
        failed,
        failures,
        stalled: is_http.then_some(half / 2),
        lag_ms: None,
        seconds: f64::from(buyers) / pace,
        purchases_per_second: pace,
        ratio: measured(ratio),
        runs: [0.97, 1.0, 1.02, 0.99, 1.01].map(|share| (pace * share).round()).into(),
        latency_ms: latency(12.0, 500.0 / ratio, 990.0 / ratio),
        attempts_per_sale: measured(0.1 / ratio),
        conflicts_per_sale: measured(0.05 / ratio),
        rollbacks_per_purchase: measured(0.02 / ratio),
        round_trips_per_purchase: measured(0.3 / ratio),
        connection_ms_per_purchase: measured(0.2 / ratio),
        order_inversions: if matches!(form, Form::Competing | Form::Http) { half / 20 } else { 0 },
        oversold: 0,
        at_server: None,
    }
}
