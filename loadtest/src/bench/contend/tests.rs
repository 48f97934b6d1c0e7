//! What a race's updates come to, and how that is shown.

use shared::table::Style;

use super::race::Update;
use super::*;

fn race(written: &[(u32, Option<i64>)], after: i64, is_shared: bool) -> Race {
    let updates = written.iter().map(|(attempts, wrote)| Update { attempts: *attempts, wrote: *wrote }).collect();
    let slept = [7, 1, 2, 30].map(Duration::from_millis).to_vec();
    Race { run: Run { updates, slept, took: Duration::from_secs(2) }, before: 10, after, is_shared }
}

#[test]
fn every_update_is_a_success_or_given_up_and_every_other_attempt_a_conflict() {
    let figures = race(&[(1, Some(11)), (3, Some(12)), (3, None)], 12, false).figures();
    assert_eq!((figures.successes, figures.given_up, figures.version_increments), (2, 1, 2));
    assert_eq!((figures.attempts, figures.conflicts), (7, 5));
    assert_eq!(figures.attempts_histogram, BTreeMap::from([(1, 1), (3, 2)]));
    assert_eq!((figures.seconds, figures.updates_per_second), (2.0, 1.0));
    assert_eq!(figures.slept, SleptReport { waits: 4, sum_ms: 40.0, median_ms: 2.0, max_ms: 30.0 });
    assert_eq!(SleptReport::of(&[]), SleptReport::default());
}

#[test]
fn a_race_is_sound_where_each_success_is_an_increment_of_its_own() {
    let sound = [(1, Some(11)), (2, Some(12)), (8, None)];
    assert_eq!(race(&sound, 12, false).broken(), Vec::<String>::new());
    // What others did beside it is theirs, where others may be.
    let beside = race(&[(1, Some(12))], 14, true);
    assert_eq!((beside.broken().len(), beside.figures().increments_of_others), (0, 3));
}

#[test]
fn what_cannot_be_is_broken() {
    for (race, found) in [
        (race(&[(1, Some(11)), (1, Some(11))], 11, true), "wrote a version that another one wrote"),
        (race(&[(1, Some(11)), (1, Some(12))], 11, true), "2 updates succeeded, and the version moved by 1"),
        (race(&[(1, Some(11))], 12, false), "1 updates succeeded, and the version moved by 2"),
        (race(&[(1, Some(99))], 11, true), "version 99, not between 10 and 11"),
    ] {
        assert!(race.broken().concat().contains(found), "{found}: {:?}", race.broken());
    }
}

fn contention(broken: Vec<String>) -> Contention {
    let figures = |given_up, attempts_histogram: [(u32, u64); 2]| Figures {
        successes: 1_000,
        given_up,
        version_increments: 1_000,
        increments_of_others: 0,
        attempts: 3_000,
        conflicts: 2_000,
        attempts_histogram: attempts_histogram.into(),
        slept: SleptReport { waits: 2_000, sum_ms: 12_345.6, median_ms: 3.25, max_ms: 99.0 },
        seconds: 1.5,
        updates_per_second: 666.7,
    };
    let id = "ticket".to_owned();
    Contention {
        item: RecordedItem { id, stock: 1_000, available: 990, held: 7, sold: 3, version: 42, conflicts: 0 },
        updates: 1_000,
        concurrency: 16,
        retry: RetryPolicy::default(),
        postgresql: "15.18".to_owned(),
        with_jitter: figures(0, [(1, 600), (2, 400)]),
        without_jitter: figures(75, [(1, 200), (8, 800)]),
        passed: broken.is_empty(),
        broken,
    }
}

#[test]
fn both_races_are_side_by_side_with_every_figure() {
    let text = render(&contention(vec![]), Style::Plain);
    let is_between = |letter: char| letter.is_whitespace() || letter >= '\u{2580}';
    let words = |line: &str| line.split(is_between).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = text.lines().map(words).collect();
    for row in [
        "given up 0 75",
        "conflicts per success 2.00 2.00",
        "slept, all together ms 12,346 12,346",
        "1 600 200",
        "2 400 0",
        "8 0 800",
    ] {
        assert!(lines.iter().any(|line| line == row), "{row} is not in\n{text}");
    }
    assert!(text.contains("stock 1,000 · available 990 · held 7 · sold 3 · version 42"), "{text}");
    assert!(text.starts_with("Every success is an increment of its own\n"), "{text}");
}

#[test]
fn what_is_broken_is_said_first() {
    let text = render(&contention(vec!["with jitter: something".to_owned()]), Style::Plain);
    assert!(text.starts_with("UPDATES WERE LOST"), "{text}");
    assert!(text.contains("✗ with jitter: something"), "{text}");
}
