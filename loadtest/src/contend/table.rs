//! What contention looks like, for people: the two races side by side, with bars. Pure: text out, nothing else.
//!
//! Invariant: bars of one row are drawn to one scale, the larger of the two being full.

use std::collections::BTreeSet;

use super::{Contention, Figures};
use crate::summary::Style;
use crate::summary::figures::{count, decimal, plural, signed};

/// Above the race with drawn waits.
const WITH: &str = "jitter";
/// Above the race with waits that are not.
const WITHOUT: &str = "no jitter";
/// The width of what a row is about.
const LABEL_COLUMNS: usize = 24;
/// The width of a figure.
const FIGURE_COLUMNS: usize = 10;
/// The length of a full bar.
const BAR_COLUMNS: usize = 24;
/// Of a bar: each of its columns, in eighths.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// The whole result, with a final newline.
#[must_use]
pub(crate) fn render(contention: &Contention, style: Style) -> String {
    let (with, without) = (&contention.with_jitter, &contention.without_jitter);
    let mut lines = head(contention, style);
    lines.extend([String::new(), titled("RACE", style)]);
    let mut row = |label: &str, of: fn(&Figures) -> f64, places: usize| {
        lines.push(bars(label, (of(with), of(without)), places));
    };
    row("succeeded", |race| figure(race.successes), 0);
    row("given up", |race| figure(race.given_up), 0);
    row("conflicts", |race| figure(race.conflicts), 0);
    row("conflicts per success", |race| figure(race.conflicts) / figure(race.successes.max(1)), 2);
    row("slept, all together ms", |race| race.slept.sum_ms, 0);
    row("slept, median ms", |race| race.slept.median_ms, 1);
    row("slept, longest ms", |race| race.slept.max_ms, 1);
    row("seconds", |race| race.seconds, 2);
    row("updates per second", |race| race.updates_per_second, 0);
    lines.extend([String::new(), titled("ATTEMPTS OF AN UPDATE", style)]);
    let numbers: BTreeSet<u32> =
        with.attempts_histogram.keys().chain(without.attempts_histogram.keys()).copied().collect();
    let most = with.attempts_histogram.values().chain(without.attempts_histogram.values()).copied().max();
    for number in numbers {
        let of = |race: &Figures| figure(race.attempts_histogram.get(&number).copied().unwrap_or(0));
        lines.push(bars_of(&count(number.into()), (of(with), of(without)), 0, figure(most.unwrap_or(0))));
    }
    lines.join("\n") + "\n"
}

fn head(contention: &Contention, style: Style) -> Vec<String> {
    let retry = &contention.retry;
    let headline = match contention.passed {
        true => style.good("Every success is an increment of its own"),
        false => style.bad("UPDATES WERE LOST, or are nobody's"),
    };
    let races = format!(
        "2 races of {}, in rounds of {} at once · waits up to {} ms, × {} each time, at most {} ms, {} · PostgreSQL {}",
        plural(contention.updates.into(), "version-checked update"),
        contention.concurrency,
        retry.wait_ms,
        retry.factor,
        retry.wait_ms_max,
        plural(retry.attempts_max.into(), "attempt"),
        contention.postgresql
    );
    let item = &contention.item;
    let state = format!(
        "{} · stock {} · available {} · held {} · sold {} · version {}",
        item.id,
        signed(item.stock),
        signed(item.available),
        signed(item.held),
        signed(item.sold),
        signed(item.version)
    );
    let others = contention.with_jitter.increments_of_others + contention.without_jitter.increments_of_others;
    let beside = (others > 0).then(|| format!("{} of others on the same item meanwhile", signed(others)));
    let mut lines = vec![headline, style.dim(&races), style.dim(&state)];
    lines.extend(beside.map(|beside| style.dim(&beside)));
    lines.extend(contention.broken.iter().map(|broken| format!("    {}", style.bad(&format!("✗ {broken}")))));
    lines
}

fn titled(title: &str, style: Style) -> String {
    let title = style.title(&format!("{title:<LABEL_COLUMNS$}"));
    let columns = FIGURE_COLUMNS + 1 + BAR_COLUMNS;
    format!(
        "  {title}{}{}",
        style.dim(&format!("{WITH:>FIGURE_COLUMNS$}{:gap$}", "", gap = columns - FIGURE_COLUMNS)),
        style.dim(&format!("{WITHOUT:>FIGURE_COLUMNS$}"))
    )
}

fn bars(label: &str, figures: (f64, f64), places: usize) -> String {
    bars_of(label, figures, places, figures.0.max(figures.1))
}

fn bars_of(label: &str, (left, right): (f64, f64), places: usize, full: f64) -> String {
    let cell = |value: f64| format!("{:>FIGURE_COLUMNS$} {}", decimal(value, places), bar(value, full));
    let (left, right) = (cell(left), cell(right));
    format!("    {label:<label_columns$}{left}{right}", label_columns = LABEL_COLUMNS - 2).trim_end().to_owned()
}

/// As wide as a full one, with spaces.
fn bar(value: f64, full: f64) -> String {
    let share = if full > 0.0 { (value / full).clamp(0.0, 1.0) } else { 0.0 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let eighths = (share * (BAR_COLUMNS * EIGHTHS.len()) as f64).ceil() as usize;
    let mut bar = EIGHTHS[EIGHTHS.len() - 1].to_string().repeat(eighths / EIGHTHS.len());
    bar.extend((eighths % EIGHTHS.len()).checked_sub(1).map(|place| EIGHTHS[place]));
    format!("{bar:<BAR_COLUMNS$}")
}

#[allow(clippy::cast_precision_loss)]
fn figure(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::audit::database_state::RecordedItem;
    use crate::contend::{RetryReport, SleptReport};

    fn race(given_up: u64, attempts_histogram: &[(u32, u64)]) -> Figures {
        Figures {
            successes: 1_000,
            given_up,
            version_increments: 1_000,
            increments_of_others: 0,
            attempts: 3_000,
            conflicts: 2_000,
            attempts_histogram: attempts_histogram.iter().copied().collect::<BTreeMap<_, _>>(),
            slept: SleptReport { waits: 2_000, sum_ms: 12_345.6, median_ms: 3.25, max_ms: 99.0 },
            seconds: 1.5,
            updates_per_second: 666.7,
        }
    }

    fn contention(broken: Vec<String>) -> Contention {
        let id = "ticket".to_owned();
        Contention {
            item: RecordedItem { id, stock: 1_000, available: 990, held: 7, sold: 3, version: 42, conflicts: 0 },
            updates: 1_000,
            concurrency: 16,
            retry: RetryReport { wait_ms: 4, factor: 2.0, wait_ms_max: 200, attempts_max: 8 },
            postgresql: "15.18".to_owned(),
            with_jitter: race(0, &[(1, 600), (2, 400)]),
            without_jitter: race(75, &[(1, 200), (8, 800)]),
            passed: broken.is_empty(),
            broken,
        }
    }

    fn words(text: &str) -> Vec<Vec<&str>> {
        text.lines()
            .map(|line| {
                line.split(|c: char| c.is_whitespace() || c >= '\u{2580}').filter(|word| !word.is_empty()).collect()
            })
            .collect()
    }

    #[test]
    fn both_races_are_side_by_side_with_every_figure() {
        let text = render(&contention(vec![]), Style::Plain);
        let words = words(&text);
        for row in [
            &["given", "up", "0", "75"][..],
            &["conflicts", "per", "success", "2.00", "2.00"],
            &["slept,", "all", "together", "ms", "12,346", "12,346"],
            &["1", "600", "200"],
            &["2", "400", "0"],
            &["8", "0", "800"],
        ] {
            assert!(words.contains(&row.to_vec()), "{row:?} is not in\n{text}");
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

    #[test]
    fn a_bar_is_full_for_the_most_and_never_longer_and_never_nothing_for_something() {
        assert_eq!(bar(5.0, 5.0), "█".repeat(BAR_COLUMNS));
        assert_eq!(bar(6.0, 5.0), "█".repeat(BAR_COLUMNS));
        assert_eq!(bar(0.001, 5.0).trim_end(), "▏");
        assert_eq!(bar(0.0, 5.0).trim_end(), "");
        assert_eq!(bar(0.0, 0.0).trim_end(), "");
        assert_eq!(bar(2.5, 5.0).trim_end(), "█".repeat(BAR_COLUMNS / 2));
    }
}
