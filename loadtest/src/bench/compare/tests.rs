//! How repetitions become a row, what breaks a promise, and what tables and sentences say.

use super::*;
use crate::audit::{Audit, Invariant, VerdictCounts};
use crate::fixtures;
use crate::result::Outcome;

fn contender(form: Form) -> Contender {
    Contender::new(100, form, Some(Strategy::Optimistic), 16)
}

fn outcome() -> Outcome {
    let verdicts = VerdictCounts { reserved: 50, sold_out: 40, refused: 5, invalid: 1 };
    let audit = Audit { verdicts, lost: 4, ..Audit::default() };
    Outcome { audit, attempts: 150, conflicts: 25, ..fixtures::outcome() }
}

const COUNTED: Counted =
    Counted { transactions: 0, rollbacks: 10, wal_bytes: 0, connection_ms: Some(250.0), statements: Some(400) };

#[test]
fn figures_are_by_what_was_sold_or_asked_for_and_unknown_where_nobody_counted() {
    let of = |outcome: &Outcome, counted| Row::of_sale(&contender(Form::Batched), outcome, counted).0;
    let row = of(&outcome(), Some(COUNTED));
    assert_eq!((row.sold, row.refused, row.failed), (50, 45, 5));
    assert_eq!(row.failures, BTreeMap::from([("lost".to_owned(), 4), ("invalid".to_owned(), 1)]));
    assert_eq!((row.attempts_per_sale, row.conflicts_per_sale), (Some(3.0), Some(0.5)));
    assert_eq!((row.rollbacks_per_purchase, row.round_trips_per_purchase), (Some(0.1), Some(4.0)));
    assert_eq!(row.connection_ms_per_purchase, Some(2.5));
    let uncounted = of(&outcome(), None);
    assert_eq!((uncounted.rollbacks_per_purchase, uncounted.attempts_per_sale), (None, None));
    let nobody_served = Outcome { audit: Audit::default(), ..outcome() };
    assert_eq!(of(&nobody_served, Some(COUNTED)).attempts_per_sale, None);
}

#[test]
fn repetitions_become_medians_and_what_must_never_happen_is_never_averaged_away() {
    let repetition = |per_second, lost, oversold, counted| {
        let mut outcome = outcome();
        (outcome.audit.lost, outcome.audit.oversold, outcome.timing.purchases_per_second) =
            (lost, oversold, per_second);
        Row::of_sale(&contender(Form::Batched), &outcome, counted).0
    };
    let all =
        [repetition(300.0, 0, 0, Some(COUNTED)), repetition(1.0, 0, 2, Some(COUNTED)), repetition(200.0, 9, 0, None)];
    let row = Row::median(&all).unwrap();
    assert_eq!((row.purchases_per_second, row.runs, row.repetitions), (200.0, vec![300.0, 1.0, 200.0], 3));
    assert_eq!((row.failed, row.failures), (1, BTreeMap::from([("invalid".to_owned(), 1)])));
    assert_eq!((row.oversold, row.attempts_per_sale, row.latency_ms), (2, None, all[0].latency_ms));
    assert_eq!(row.contender, contender(Form::Batched));
}

#[test]
fn order_is_promised_by_whoever_does_not_compete_and_everything_else_by_everybody() {
    let invariant = |name, holds| Invariant { name, holds, detail: "2: a, b".into() };
    let invariants =
        vec![invariant("first_come_first_served", false), invariant("never_oversold", false), invariant("sound", true)];
    let outcome = Outcome { audit: Audit { invariants, ..Audit::default() }, ..outcome() };
    let broken = |form| Row::of_sale(&contender(form), &outcome, None).1;
    assert_eq!(broken(Form::Competing), ["never_oversold: 2: a, b"]);
    for form in [Form::Ceiling, Form::Batched, Form::OneByOne] {
        assert_eq!(broken(form), ["first_come_first_served: 2: a, b", "never_oversold: 2: a, b"]);
    }
}

#[test]
fn a_server_that_sells_too_much_or_loses_a_buyer_breaks_a_promise_and_one_that_fails_buyers_does_not() {
    let broken = |row: &Row, sold_without_order| {
        let result = BaselineResult { row: row.clone(), sold_without_order, ..BaselineResult::default() };
        result.row(&contender(Form::Http), Counted::default()).1
    };
    let sound = Row { sold: 40, refused: 30, ..Row::new(1.0, [("reset", 30)]) };
    assert_eq!(broken(&sound, 0), [""; 0]);
    assert_eq!(broken(&Row { oversold: 1, ..sound.clone() }, 0).len(), 1);
    assert_eq!(broken(&sound, 1).len(), 1);
    assert_eq!(broken(&Row { sold: 39, ..sound }, 0), ["every_buyer_accounted_for: 99 of 100"]);
}

#[test]
fn a_ratio_is_to_the_ceiling_of_as_many_buyers() {
    let row = |form, purchases_per_second| Row { contender: contender(form), purchases_per_second, ..Row::default() };
    let rows = [(Form::Ceiling, 100.0), (Form::Batched, 50.0), (Form::Ceiling, 1_000.0), (Form::Batched, 50.0)];
    let rows = with_ratios(rows.map(|(form, pace)| row(form, pace)).into());
    assert_eq!(rows.iter().map(|row| row.ratio).collect::<Vec<_>>(), [None, Some(0.5), None, Some(0.05)]);
}

/// Of 1,000 buyers, by name.
fn change<'a>(comparison: &'a mut Comparison, name: &str) -> &'a mut Row {
    let of_name = |row: &&mut Row| (row.contender.buyers, row.contender.name.as_str()) == (1_000, name);
    comparison.rows.iter_mut().find(of_name).unwrap()
}

fn assert_says(comparison: &Comparison, sentence: &str) {
    let text = table::render(comparison, Style::Plain);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.lines().any(|line| words(line) == sentence), "{sentence}\n{text}");
}

#[test]
fn every_figure_of_a_row_is_in_the_tables_and_what_was_not_measured_is_a_dash() {
    let mut comparison = fixtures::comparison();
    // The longest.
    change(&mut comparison, "pessimistic, batched").contender.name = "pessimistic, 1,000 a message".into();
    let text = table::render(&comparison, Style::Plain);
    assert!(text.lines().all(|line| line.chars().count() <= 120), "wider than a terminal:\n{text}");
    change(&mut comparison, "atomic, batched").connection_ms_per_purchase = None;
    for line in [
        "1,000 BUYERS AT ONCE FOR 500 UNITS OF 1 ITEM",
        "ceiling - - 0 0.11 9,100 - 57.1 108.8 -",
        "optimistic, batched 500 500 0 0.12 8,281 0.910 62.8 119.6 0",
        "optimistic, HTTP 500 342 158 2.11 473 0.052 1,400.0 9,800.0 111",
        "optimistic, HTTP: 40 conflict, 79 timed out, 39 unavailable",
        "optimistic, batched 0.01 0.00 0.000 0.011 0.080",
        "atomic, batched 0.01 0.00 0.000 0.011 -",
        "optimistic, HTTP 333 250 1,234.5 7 6 5 4 3,000 2,000",
    ] {
        assert_says(&comparison, line);
    }
}

#[test]
fn whoever_beats_batched_optimistic_is_named_with_both_figures() {
    let mut comparison = fixtures::comparison();
    assert_says(&comparison, "Nothing here beats optimistic, batched in pace, p99 or cost.");
    let atomic = change(&mut comparison, "atomic, batched");
    (atomic.purchases_per_second, atomic.runs) = (20_000.0, vec![20_000.0]);
    let text = "atomic, batched is faster than optimistic, batched: 20,000 against 8,281 purchases/s";
    assert_says(&comparison, &format!("{text}."));
    // The slowest of one is no faster than the fastest of the other.
    change(&mut comparison, "atomic, batched").runs.push(8_281.0);
    assert_says(&comparison, &format!("{text}; their repetitions overlap, so this may be chance."));
    change(&mut comparison, "redis, batched").latency_ms.p99 = 98.0;
    assert_says(&comparison, "redis, batched answers sooner (p99) than optimistic, batched: 98.0 against 119.6 ms.");
    // Who fails buyers wins nothing.
    change(&mut comparison, "atomic, batched").failed = 1;
    assert!(!table::render(&comparison, Style::Plain).contains("atomic, batched is faster"));
}

#[test]
fn a_broken_promise_is_shown_and_spoils_the_headline() {
    let broken = vec!["atomic, batched, 1,000 buyers, repetition 1: never_oversold: 1: ticket".to_owned()];
    let text = table::render(&Comparison { passed: false, broken, ..fixtures::comparison() }, Style::Plain);
    assert!(text.contains("PROMISES WERE BROKEN") && text.contains("✗ atomic, batched, 1,000 buyers"), "{text}");
}
