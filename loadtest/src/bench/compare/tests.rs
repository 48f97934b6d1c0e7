//! What is compared with what, how repetitions become a row, and what tables and sentences say of it.

use clap::ValueEnum;

use super::*;
use crate::audit::Invariant;
use crate::bench::baseline::AtServer;
use crate::fixtures;
use crate::stats::Latency;

const OPTIMISTIC: Option<Strategy> = Some(Strategy::Optimistic);

fn contender(form: Form) -> Contender {
    Contender { buyers: 100, form, strategy: OPTIMISTIC }
}

#[test]
fn of_each_number_of_buyers_the_ceiling_comes_first_and_then_each_form_with_each_strategy() {
    let rows = rows(&[10, 20], &[Form::Batched, Form::OneByOne], &[Strategy::Optimistic, Strategy::Atomic]);
    let names: Vec<(u32, String)> = rows.iter().map(|row| (row.buyers, row.name())).collect();
    let of_ten = ["ceiling", "optimistic, batched", "atomic, batched", "optimistic, one by one", "atomic, one by one"];
    assert_eq!(names.len(), 10);
    for (index, name) in of_ten.into_iter().enumerate() {
        assert_eq!((&names[index], &names[index + 5]), (&(10, name.to_owned()), &(20, name.to_owned())));
    }
}

#[test]
fn everything_is_there_unless_it_is_left_out() {
    let all = rows(&[10], Form::value_variants(), Strategy::value_variants());
    let by_http = all.iter().filter(|row| row.form == Form::Http).count();
    assert_eq!((all.len(), by_http), (1 + 3 * Strategy::value_variants().len() + 3, 3));
    assert_eq!(rows(&[10], &[], &[]).len(), 1);
}

fn repetition(purchases_per_second: f64) -> Row {
    let counted = Counted { rollbacks: 10, connection_ms: Some(250.0), statements: Some(400), ..Counted::default() };
    let row = Row { sold: 50, refused: 50, seconds: 0.5, ..Row::new(&contender(Form::Batched), purchases_per_second) };
    row.with_attempts((150, 25)).with_counted(counted)
}

#[test]
fn figures_are_medians_by_what_was_sold_or_asked_for() {
    let row = Row::median(&[repetition(300.0), repetition(1.0), repetition(200.0)]);
    assert_eq!((row.purchases_per_second, row.runs, row.repetitions), (200.0, vec![300.0, 1.0, 200.0], 3));
    assert_eq!((row.attempts_per_sale, row.conflicts_per_sale), (Some(3.0), Some(0.5)));
    assert_eq!((row.rollbacks_per_purchase, row.round_trips_per_purchase), (Some(0.1), Some(4.0)));
    assert_eq!(row.connection_ms_per_purchase, Some(2.5));
    let in_flight = |form| (contender(form).in_flight(16), contender(form).batch_max());
    assert_eq!(in_flight(Form::Competing), (Some(16), None));
    assert_eq!((in_flight(Form::OneByOne), in_flight(Form::Batched)), ((Some(1), Some(1)), (None, None)));
}

#[test]
fn what_was_not_measured_once_or_has_nothing_to_be_shared_by_is_unknown() {
    let unmeasured = Row::new(&contender(Form::Batched), 1.0);
    let unknown = Row::median(&[repetition(1.0), unmeasured.clone()]);
    assert_eq!((unknown.rollbacks_per_purchase, unknown.attempts_per_sale), (None, None));
    assert_eq!(unmeasured.with_attempts((150, 25)).attempts_per_sale, None);
}

#[test]
fn failures_are_told_by_kind_and_what_must_never_happen_is_never_averaged_away() {
    let failing = |refused: u64, oversold| Row {
        failed: refused + 4,
        failures: [("refused", refused), ("reset", 4)].into(),
        stalled: Some(7),
        oversold,
        ..repetition(1.0)
    };
    let row = Row::median(&[failing(1, 0), failing(3, 2), failing(9, 0)]);
    assert_eq!((row.failed, row.failures), (7, [("refused", 3), ("reset", 4)].into()));
    assert_eq!((row.stalled, row.oversold), (Some(7), 2));
}

#[test]
fn of_two_counts_the_median_does_not_hide_one() {
    let whole_median = row::whole_median;
    assert_eq!((whole_median(vec![0, 1]), whole_median(vec![0, 0, 9]), whole_median(vec![])), (1, 0, 0));
}

#[test]
fn order_is_promised_by_whoever_does_not_compete_and_everything_else_by_everybody() {
    let invariant = |name, holds| Invariant { name, holds, detail: "2: a, b".into() };
    let invariants =
        [invariant("first_come_first_served", false), invariant("never_oversold", false), invariant("sound", true)];
    let broken = |form| contender(form).broken(&invariants);
    assert_eq!(broken(Form::Competing), ["never_oversold: 2: a, b"]);
    for form in [Form::Ceiling, Form::Batched, Form::OneByOne] {
        assert_eq!(broken(form), ["first_come_first_served: 2: a, b", "never_oversold: 2: a, b"]);
    }
}

#[test]
fn a_server_that_sells_too_much_or_loses_a_buyer_breaks_a_promise_and_one_that_fails_buyers_does_not() {
    let broken = |result| Row::of_http(&contender(Form::Http), &result, Counted::default()).1;
    let sound =
        BaselineResult { sold: 40, sold_out: 30, failures: [("reset", 30)].into(), ..BaselineResult::default() };
    assert_eq!(broken(sound.clone()), [""; 0]);
    assert_eq!(broken(BaselineResult { oversold: 1, ..sound.clone() }).len(), 1);
    assert_eq!(broken(BaselineResult { sold: 39, ..sound }), ["every_buyer_accounted_for: 99 of 100"]);
}

fn row(form: Form, strategy: Option<Strategy>, per_second: f64) -> Row {
    let measured = strategy.is_some();
    let contender = Contender { buyers: 1_000, form, strategy };
    Row {
        sold: 500,
        refused: 500,
        seconds: 1_000.0 / per_second,
        ratio: measured.then_some(per_second / 10_000.0),
        runs: vec![per_second * 0.9, per_second * 1.1],
        latency_ms: Latency { p50: 50.0, p99: 99.0, ..Latency::default() },
        attempts_per_sale: measured.then_some(3.0),
        conflicts_per_sale: measured.then_some(0.5),
        rollbacks_per_purchase: measured.then_some(0.25),
        connection_ms_per_purchase: measured.then_some(1.5),
        ..Row::new(&contender, per_second)
    }
}

fn comparison(rows: Vec<Row>) -> Comparison {
    let scenario = ComparedScenario { buyers: vec![1_000], ..fixtures::comparison().scenario };
    let settings = [("net.core.somaxconn", "4096".to_owned())].into();
    let processor = Some("Some CPU".to_owned());
    let machine = Machine { processor, cores: 2, memory_mib: Some(2_048), kernel: None, settings };
    Comparison { scenario, machine, rows: with_ratios(rows), ..fixtures::comparison() }
}

fn usual() -> Vec<Row> {
    let at_server = AtServer {
        pool_wait_ms_per_purchase: 1_234.5,
        pool_timeouts: 7,
        lock_timeouts: 6,
        untold: 5,
        zombie_units: 4,
        syn_drops: 3_000,
        syn_retransmits: 2_000,
    };
    let http = Row {
        failed: 450,
        failures: [("conflict", 250), ("timed_out", 200)].into(),
        stalled: Some(37),
        lag_ms: Some(250.0),
        order_inversions: 123,
        at_server: Some(at_server),
        ..row(Form::Http, OPTIMISTIC, 80.0)
    };
    vec![
        row(Form::Ceiling, None, 10_000.0),
        row(Form::Batched, OPTIMISTIC, 9_000.0),
        row(Form::Batched, Some(Strategy::Atomic), 8_000.0),
        row(Form::OneByOne, OPTIMISTIC, 900.0),
        row(Form::Competing, OPTIMISTIC, 300.0),
        http,
    ]
}

fn lines(rows: Vec<Row>) -> Vec<String> {
    let text = render(&comparison(rows), Style::Plain);
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn assert_says(rows: Vec<Row>, sentence: &str) {
    let lines = lines(rows);
    assert!(lines.iter().any(|line| line == sentence), "{sentence}\n{lines:#?}");
}

#[test]
fn every_figure_of_a_row_is_in_the_tables_and_what_was_not_measured_is_a_dash() {
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
        assert_says(usual(), line);
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
    assert_says(usual(), "Batched: optimistic is the fastest, 9,000/s, 0.90 × the ceiling.");
    assert_says(usual(), "HTTP: nobody served every buyer; optimistic, HTTP failed the fewest, 450 buyers.");
    assert!(!lines(usual()).iter().any(|line| line.starts_with("Competing:")), "nobody to be compared with");
    let times =
        "Optimistic, batched, by the pace of its other forms: 10.0 × one by one, 30.0 × competing, 112.5 × HTTP.";
    assert_says(usual(), times);
}

#[test]
fn whoever_beats_batched_optimistic_is_named_with_both_figures() {
    assert_says(usual(), "Nothing here beats optimistic, batched in pace, p99 or cost.");
    let mut rows = usual();
    rows[2] = row(Form::Batched, Some(Strategy::Atomic), 20_000.0);
    let faster = "Atomic, batched is faster than optimistic, batched: 20,000 against 9,000 purchases/s.";
    assert_says(rows.clone(), faster);
    // The slowest of one is no faster than the fastest of the other.
    rows[2] = row(Form::Batched, Some(Strategy::Atomic), 9_500.0);
    let chance = "Atomic, batched is faster than optimistic, batched: 9,500 against 9,000 purchases/s; their repetitions \
                  overlap, so this may be chance.";
    assert_says(rows.clone(), chance);
    rows[2].latency_ms.p99 = 98.0;
    assert_says(rows.clone(), "Atomic, batched answers sooner (p99) than optimistic, batched: 98.0 against 99.0 ms.");
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
        of(10, row(Form::Batched, OPTIMISTIC, 50.0)),
        of(20, row(Form::Ceiling, None, 1_000.0)),
        of(20, row(Form::Batched, OPTIMISTIC, 50.0)),
    ];
    let ratios: Vec<Option<f64>> = with_ratios(rows).iter().map(|row| row.ratio).collect();
    assert_eq!(ratios, [None, Some(0.5), None, Some(0.05)]);
}
