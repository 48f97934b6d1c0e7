//! What the tables and sentences say of a comparison.

use std::collections::BTreeMap;

use super::*;
use crate::machine::Machine;
use crate::outcome::Latency;
use crate::strategy::Strategy;
use crate::summary::Style;

fn row(form: Form, strategy: Option<Strategy>, per_second: f64) -> Row {
    let contender = plan::Contender { buyers: 1_000, form, strategy };
    let measured = strategy.is_some();
    Row {
        buyers: 1_000,
        name: contender.name(),
        form,
        strategy,
        batch_max: None,
        in_flight: None,
        repetitions: 2,
        sold: 500,
        refused: 500,
        failed: 0,
        failures: BTreeMap::new(),
        stalled: None,
        crowd_lag_ms: None,
        seconds: 1_000.0 / per_second,
        purchases_per_second: per_second,
        ratio: measured.then_some(per_second / 10_000.0),
        runs: vec![per_second * 0.9, per_second * 1.1],
        latency_ms: Latency { p50: 50.0, p99: 99.0, ..Latency::default() },
        attempts_per_sale: measured.then_some(3.0),
        conflicts_per_sale: measured.then_some(0.5),
        rollbacks_per_purchase: measured.then_some(0.25),
        round_trips_per_purchase: None,
        connection_ms_per_purchase: measured.then_some(1.5),
        order_inversions: 0,
        oversold: 0,
        door: None,
    }
}

fn comparison(rows: Vec<Row>) -> Comparison {
    let scenario = ComparedScenario {
        buyers: vec![1_000],
        stock: None,
        items: 1,
        workers: 1,
        repetitions: 2,
        in_flight: 16,
        payment_ms: 20,
        seed: 42,
    };
    let servers = Versions { rabbitmq: "3.10.8".into(), postgresql: "15.18".into(), redis: None };
    let processor = Some("Some CPU".to_owned());
    let settings = [("net.core.somaxconn", "4096".to_owned())].into();
    let machine = Machine { processor, cores: 2, memory_mib: Some(2_048), kernel: None, settings };
    Comparison { scenario, servers, machine, rows: with_ratios(rows), broken: vec![], passed: true }
}

fn usual() -> Vec<Row> {
    let http = Row {
        failed: 450,
        failures: [("conflict", 250), ("timed_out", 200)].into(),
        stalled: Some(37),
        crowd_lag_ms: Some(250.0),
        order_inversions: 123,
        door: Some(crate::bench::baseline::AtServer {
            pool_wait_ms_per_purchase: 1_234.5,
            pool_timeouts: 7,
            lock_timeouts: 6,
            untold: 5,
            zombie_units: 4,
            syn_drops: 3_000,
            syn_retransmits: 2_000,
        }),
        ..row(Form::Http, Some(Strategy::Optimistic), 80.0)
    };
    vec![
        row(Form::Ceiling, None, 10_000.0),
        row(Form::Batched, Some(Strategy::Optimistic), 9_000.0),
        row(Form::Batched, Some(Strategy::Atomic), 8_000.0),
        row(Form::OneByOne, Some(Strategy::Optimistic), 900.0),
        row(Form::Competing, Some(Strategy::Optimistic), 300.0),
        http,
    ]
}

fn lines(rows: Vec<Row>) -> Vec<String> {
    let text = render(&comparison(rows), Style::Plain);
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn says(rows: Vec<Row>, sentence: &str) -> bool {
    lines(rows).iter().any(|line| line == sentence)
}

#[test]
fn every_figure_of_a_row_is_in_the_tables_and_what_was_not_measured_is_a_dash() {
    let lines = lines(usual());
    for line in [
        "1,000 BUYERS AT ONCE FOR 500 UNITS OF 1 ITEM",
        "ceiling - - 0 0.10 10,000 - 50.0 99.0 -",
        "optimistic, batched 500 500 0 0.11 9,000 0.900 50.0 99.0 0",
        "optimistic, HTTP 500 500 450 12.50 80 0.008 50.0 99.0 123",
        "optimistic, HTTP: 250 conflict, 200 timed out, 37 stalled for 1 s or more, buyers up to 250 ms late themselves",
        "optimistic, batched 3.00 0.50 0.250 - 1.500",
        "optimistic, HTTP 1,234.5 7 6 5 4 3,000 2,000",
        "Some CPU · 2 cores · 2,048 MiB",
        "net.core.somaxconn 4096",
    ] {
        assert!(lines.iter().any(|shown| shown == line), "{line}\n{lines:#?}");
    }
}

#[test]
fn no_line_is_wider_than_a_terminal() {
    let text = render(&comparison(usual()), Style::Plain);
    let widest = text.lines().map(|line| line.chars().count()).max();
    assert!(widest.is_some_and(|columns| columns <= 120), "{widest:?}\n{text}");
}

#[test]
fn the_best_of_each_form_is_named_and_whoever_failed_somebody_is_not_it() {
    assert!(says(usual(), "Batched: optimistic is the fastest, 9,000/s, 0.90 × the ceiling."));
    assert!(says(usual(), "HTTP: nobody served every buyer; optimistic, HTTP failed the fewest, 450 buyers."));
    assert!(!lines(usual()).iter().any(|line| line.starts_with("Competing:")), "nobody to be compared with");
    assert!(says(
        usual(),
        "Optimistic, batched, by the pace of its other forms: 10.0 × one by one, 30.0 × competing, 112.5 × HTTP."
    ));
}

#[test]
fn whoever_beats_batched_optimistic_is_named_with_both_figures() {
    assert!(says(usual(), "Nothing here beats optimistic, batched in pace, p99 or cost."));
    let mut rows = usual();
    rows[2] = row(Form::Batched, Some(Strategy::Atomic), 20_000.0);
    assert!(says(
        rows.clone(),
        "Atomic, batched is faster than optimistic, batched: 20,000 against 9,000 purchases/s."
    ));
    // The slowest of one is no faster than the fastest of the other.
    rows[2] = row(Form::Batched, Some(Strategy::Atomic), 9_500.0);
    let chance = "Atomic, batched is faster than optimistic, batched: 9,500 against 9,000 purchases/s; their repetitions \
                  overlap, so this may be chance.";
    assert!(says(rows.clone(), chance));
    rows[2].latency_ms.p99 = 98.0;
    assert!(says(rows.clone(), "Atomic, batched answers sooner (p99) than optimistic, batched: 98.0 against 99.0 ms."));
    // Who fails buyers wins nothing.
    rows[2].failed = 1;
    assert!(!lines(rows).iter().any(|line| line.starts_with("Atomic, batched")));
}

#[test]
fn a_broken_promise_is_shown_and_spoils_the_headline() {
    let broken = vec!["atomic, batched, 1,000 buyers, repetition 1: never_oversold: 1: ticket".to_owned()];
    let text = render(&Comparison { passed: false, broken, ..comparison(usual()) }, Style::Plain);
    assert!(text.contains("PROMISES WERE BROKEN") && text.contains("✗ atomic, batched, 1,000 buyers"), "{text}");
}

#[test]
fn a_ratio_is_to_the_ceiling_of_as_many_buyers() {
    let of = |buyers, row: Row| Row { buyers, ratio: None, ..row };
    let rows = vec![
        of(10, row(Form::Ceiling, None, 100.0)),
        of(10, row(Form::Batched, Some(Strategy::Optimistic), 50.0)),
        of(20, row(Form::Ceiling, None, 1_000.0)),
        of(20, row(Form::Batched, Some(Strategy::Optimistic), 50.0)),
    ];
    let ratios: Vec<Option<f64>> = with_ratios(rows).iter().map(|row| row.ratio).collect();
    assert_eq!(ratios, [None, Some(0.5), None, Some(0.05)]);
}
