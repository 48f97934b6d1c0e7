//! What a race's updates come to, and how that is shown.

use super::*;
use shared::table::Style;

/// Each with so many attempts, and what it wrote.
fn updates(all: &[(u64, Option<i64>)]) -> Vec<Update> {
    let slept = |attempts| (1..attempts).map(Duration::from_millis).collect();
    all.iter().map(|(attempts, wrote)| Update { slept: slept(*attempts), wrote: *wrote }).collect()
}

#[test]
fn every_update_is_a_success_or_given_up_and_every_other_attempt_a_conflict() {
    let updates = updates(&[(1, Some(11)), (3, Some(12)), (3, None)]);
    let figures = Figures::of(&updates, (10, 15), Duration::from_secs(2));
    assert_eq!((figures.successes, figures.given_up), (2, 1));
    assert_eq!((figures.version_increments, figures.increments_of_others), (5, 3));
    assert_eq!((figures.attempts, figures.conflicts), (7, 5));
    assert_eq!(figures.attempts_histogram, BTreeMap::from([(1, 1), (3, 2)]));
    assert_eq!((figures.seconds, figures.updates_per_second), (2.0, 1.0));
    assert_eq!(figures.slept, SleptReport { waits: 4, sum_ms: 6.0, median_ms: 1.5, max_ms: 2.0 });
    assert_eq!(SleptReport::of(&[]), SleptReport::default());
}

#[test]
fn each_success_is_an_increment_of_its_own_and_what_others_did_is_theirs_where_others_may_be() {
    for (written, after, is_shared, broken) in [
        (&[Some(11), Some(12), None][..], 12, false, ""),
        (&[Some(12)], 14, true, ""),
        (&[Some(11), Some(11)], 12, true, "2 updates succeeded, of which 1 wrote a version of their own"),
        (&[Some(11), Some(12)], 11, true, "2 updates succeeded, of which 1 wrote"),
        (&[Some(99)], 11, true, "1 updates succeeded, of which 0 wrote"),
        (&[Some(11)], 12, false, "1 wrote a version of their own; the version moved by 2"),
    ] {
        let updates = updates(&written.iter().map(|wrote| (1, *wrote)).collect::<Vec<_>>());
        let found = lost(&updates, (10, after), is_shared).unwrap_or_default();
        assert!(found.contains(broken) && found.is_empty() == broken.is_empty(), "{broken}: {found}");
    }
}

#[test]
fn both_races_are_side_by_side_and_what_is_broken_is_said_first() {
    let figures =
        |updates: &[(u64, Option<i64>)]| Figures::of(&self::updates(updates), (41, 42), Duration::from_secs(1));
    let id = "ticket".to_owned();
    let contention = Contention {
        item: RecordedItem { id, stock: 1_000, available: 990, held: 7, sold: 3, version: 42, conflicts: 0 },
        updates: 2,
        concurrency: 16,
        retry: RetryPolicy::default(),
        postgresql: "15.18".to_owned(),
        with_jitter: figures(&[(1, Some(42)), (3, Some(43))]),
        without_jitter: figures(&[(1, Some(42)), (8, None)]),
        passed: true,
        broken: vec![],
    };
    let text = table::render(&contention, Style::Plain);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    for row in [
        "jitter 2 0 2 1.00 3 1.5 2.0 1.00 2",
        "no jitter 1 1 8 8.00 28 4.0 7.0 1.00 1",
        "1 1 1",
        "3 1 0",
        "8 0 1",
        "ticket · stock 1,000 · available 990 · held 7 · sold 3 · version 42",
    ] {
        assert!(text.lines().any(|line| words(line) == row), "{row} is not in\n{text}");
    }
    assert!(text.starts_with("Every success is an increment of its own\n"), "{text}");
    let broken = vec!["with jitter: something".to_owned()];
    let text = table::render(&Contention { broken, passed: false, ..contention }, Style::Plain);
    assert!(text.starts_with("UPDATES WERE LOST") && text.contains("✗ with jitter: something"), "{text}");
}
