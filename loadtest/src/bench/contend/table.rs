//! The two races side by side, with bars: those of one row are drawn to one scale, the larger of the two being full.

use std::collections::{BTreeMap, BTreeSet};

use shared::table::{Style, table};

use super::{Contention, Figures};
use crate::summary::figures::{count, cross_out, decimal, plural, signed};

/// The length of a full bar.
const BAR_COLUMNS: usize = 24;
/// Of a bar: each of its columns, in eighths.
const EIGHTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// The whole result, with a final newline.
pub(crate) fn render(contention: &Contention, style: Style) -> String {
    let (with, without) = (&contention.with_jitter, &contention.without_jitter);
    let row = |label: &str, of: fn(&Figures) -> f64, places| {
        row(label, (of(with), of(without)), places, of(with).max(of(without)))
    };
    let race = [
        row("succeeded", |race| number(race.successes), 0),
        row("given up", |race| number(race.given_up), 0),
        row("conflicts", |race| number(race.conflicts), 0),
        row("conflicts per success", |race| number(race.conflicts) / number(race.successes.max(1)), 2),
        row("slept, all together ms", |race| race.slept.sum_ms, 0),
        row("slept, median ms", |race| race.slept.median_ms, 1),
        row("slept, longest ms", |race| race.slept.max_ms, 1),
        row("seconds", |race| race.seconds, 2),
        row("updates per second", |race| race.updates_per_second, 0),
    ];
    let side_by_side = |title, rows| {
        let drawn = table(&[title, ">jitter", "", ">no jitter", ""], rows, style);
        drawn.lines().map(|line| format!("    {line}\n")).collect::<String>()
    };
    let (race, attempts) =
        (side_by_side("RACE", race.into()), side_by_side("ATTEMPTS OF AN UPDATE", attempts(with, without)));
    format!("{}\n{race}\n{attempts}", head(contention, style))
}

fn head(contention: &Contention, style: Style) -> String {
    let (retry, item) = (&contention.retry, &contention.item);
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
    let units = [("stock", item.stock), ("available", item.available), ("held", item.held), ("sold", item.sold)];
    let units: Vec<String> = units.map(|(name, units)| format!("{name} {}", signed(units))).into();
    let state = format!("{} · {} · version {}", item.id, units.join(" · "), signed(item.version));
    let others = contention.with_jitter.increments_of_others + contention.without_jitter.increments_of_others;
    let beside = (others > 0).then(|| format!("{} of others on the same item meanwhile", signed(others)));
    let mut lines = vec![headline, style.dim(&races), style.dim(&state)];
    lines.extend(beside.map(|beside| style.dim(&beside)));
    lines.extend(cross_out(&contention.broken, style));
    lines.join("\n") + "\n"
}

fn attempts(with: &Figures, without: &Figures) -> Vec<Vec<String>> {
    let (with, without) = (&with.attempts_histogram, &without.attempts_histogram);
    let most = with.values().chain(without.values()).copied().max().unwrap_or(0);
    let numbers: BTreeSet<u32> = with.keys().chain(without.keys()).copied().collect();
    let updates = |race: &BTreeMap<u32, u64>, attempts: u32| number(race.get(&attempts).copied().unwrap_or(0));
    let of = |attempts: u32| (updates(with, attempts), updates(without, attempts));
    numbers.into_iter().map(|attempts| row(&count(attempts.into()), of(attempts), 0, number(most))).collect()
}

fn row(label: &str, (left, right): (f64, f64), places: usize, full: f64) -> Vec<String> {
    let cells = |value| [decimal(value, places), bar(value, full)];
    [vec![label.to_owned()], cells(left).into(), cells(right).into()].concat()
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
fn number(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

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
