//! The two races side by side. Pure.

use super::{Contention, Figures};
use crate::bench::table::{Column, figures, head, number};
use crate::summary::figures::{count, plural, signed};
use shared::table::Style;
use std::collections::BTreeSet;

const RACE: [Column<Figures>; 9] = [
    (">succeeded", 0, |race| Some(number(race.successes))),
    (">given up", 0, |race| Some(number(race.given_up))),
    (">conflicts", 0, |race| Some(number(race.conflicts))),
    (">per success", 2, |race| Some(number(race.conflicts) / number(race.successes.max(1)))),
    (">slept ms", 0, |race| Some(race.slept.sum_ms)),
    (">median ms", 1, |race| Some(race.slept.median_ms)),
    (">longest ms", 1, |race| Some(race.slept.max_ms)),
    (">seconds", 2, |race| Some(race.seconds)),
    (">per second", 0, |race| Some(race.updates_per_second)),
];
/// How many updates took so many attempts, with jitter and without.
const ATTEMPTS: [Column<[u64; 2]>; 2] =
    [(">jitter", 0, |updates| Some(number(updates[0]))), (">no jitter", 0, |updates| Some(number(updates[1])))];

/// The whole result, with a final newline.
pub(super) fn render(contention: &Contention, style: Style) -> String {
    let races = [&contention.with_jitter, &contention.without_jitter];
    let histograms = races.map(|race| &race.attempts_histogram);
    let taken: BTreeSet<u64> = histograms.iter().flat_map(|histogram| histogram.keys().copied()).collect();
    let updates = |attempts| histograms.map(|histogram| histogram.get(&attempts).copied().unwrap_or(0));
    let attempts: Vec<_> = taken.into_iter().map(|attempts| (count(attempts), updates(attempts))).collect();
    let attempts = attempts.iter().map(|(attempts, updates)| ([attempts.clone()], updates));
    let named = ["jitter", "no jitter"].map(|name| [name.to_owned()]).into_iter().zip(races);
    let headlines = ["Every success is an increment of its own", "UPDATES WERE LOST, or are nobody's"];
    head(headlines, &setting(contention), &contention.broken, style)
        + &figures("RACE", [""], &RACE, named, style)
        + &figures("ATTEMPTS OF AN UPDATE", [""], &ATTEMPTS, attempts, style)
}

fn setting(contention: &Contention) -> Vec<String> {
    let (retry, item) = (&contention.retry, &contention.item);
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
    let figures = [
        ("stock", item.stock),
        ("available", item.available),
        ("held", item.held),
        ("sold", item.sold),
        ("version", item.version),
    ];
    let state = item.id.clone() + &figures.map(|(name, figure)| format!(" · {name} {}", signed(figure))).concat();
    let others = contention.with_jitter.increments_of_others + contention.without_jitter.increments_of_others;
    let beside = (others > 0).then(|| format!("{} of others on the same item meanwhile", signed(others)));
    [races, state].into_iter().chain(beside).collect()
}
