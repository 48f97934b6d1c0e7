//! What the figures of a comparison say, in sentences. Pure.
//!
//! Invariant: whatever beats batched optimistic in a figure that matters is named, whoever it is; and whoever left buyers
//! without a verdict wins nothing.

use super::{Comparison, Form, Row};
use crate::strategy::Strategy;
use crate::summary::figures::{count, decimal, plural};

/// A figure by which rows are compared.
struct Measure {
    /// As `is faster`: what a better one is.
    is_better: &'static str,
    unit: &'static str,
    places: usize,
    of: fn(&Row) -> Option<f64>,
    more_is_better: bool,
}

/// Those that matter to who chooses.
const MEASURES: [Measure; 4] = [
    Measure {
        is_better: "is faster",
        unit: "purchases/s",
        places: 0,
        of: |row| Some(row.purchases_per_second),
        more_is_better: true,
    },
    Measure {
        is_better: "answers sooner (p99)",
        unit: "ms",
        places: 1,
        of: |row| Some(row.latency_ms.p99),
        more_is_better: false,
    },
    Measure {
        is_better: "needs fewer round trips",
        unit: "for each purchase",
        places: 4,
        of: |row| row.round_trips_per_purchase,
        more_is_better: false,
    },
    Measure {
        is_better: "keeps connections for less time",
        unit: "ms for each purchase",
        places: 3,
        of: |row| row.connection_ms_per_purchase,
        more_is_better: false,
    },
];

/// How late buyers may be without a word about it: much less than a packet that is sent again.
const LAG_MS_TOLD_MIN: f64 = 100.0;
/// The forms that are won by somebody.
const FORMS: [Form; 4] = [Form::Batched, Form::OneByOne, Form::Competing, Form::Http];

/// Sentences about the rows of so many buyers.
pub(crate) fn of(comparison: &Comparison, buyers: u32) -> Vec<String> {
    let rows: Vec<&Row> = comparison.rows.iter().filter(|row| row.buyers == buyers).collect();
    let mut notes: Vec<String> = FORMS.iter().filter_map(|form| best(&rows, *form)).collect();
    let reference = find(&rows, Form::Batched, Strategy::Optimistic);
    notes.extend(reference.into_iter().flat_map(|reference| against(&rows, reference)));
    notes
}

/// What is to be known before a row by HTTP is held against one on the queue; nothing where there is none.
pub(super) fn on_http(comparison: &Comparison) -> Vec<String> {
    if !comparison.rows.iter().any(|row| row.form == Form::Http) {
        return Vec::new();
    }
    let payment_ms = comparison.scenario.payment_ms;
    vec![
        "The pace is that of answers, 409 (conflict) and 503 (unavailable) among them.".to_owned(),
        format!(
            "A payment of {payment_ms} ms is part of each request, as in what it stands for; on the queue it comes later."
        ),
        "Who was first is who began to connect first; who goes without an answer after 10 s has failed.".to_owned(),
    ]
}

fn find<'a>(rows: &[&'a Row], form: Form, strategy: Strategy) -> Option<&'a Row> {
    rows.iter().copied().find(|row| row.form == form && row.strategy == Some(strategy))
}

/// Who is the fastest of this form, of those who answered everybody; `None` where there is nobody to be compared with.
fn best(rows: &[&Row], form: Form) -> Option<String> {
    let of_form: Vec<&&Row> = rows.iter().filter(|row| row.form == form).collect();
    let fastest = |rows: &[&&Row]| -> Option<String> {
        let row = rows.iter().max_by(|one, other| one.purchases_per_second.total_cmp(&other.purchases_per_second))?;
        let ratio = row.ratio.map(|ratio| format!(", {} × the ceiling", decimal(ratio, 2))).unwrap_or_default();
        let (strategy, per_second) = (row.strategy.map_or("", Strategy::as_str), decimal(row.purchases_per_second, 0));
        Some(format!("{strategy} is the fastest, {per_second}/s{ratio}"))
    };
    let served: Vec<&&Row> = of_form.iter().copied().filter(|row| row.failed == 0).collect();
    if of_form.len() == 1 && served.len() == 1 {
        return None;
    }
    match fastest(&served) {
        Some(fastest) => Some(format!("{}: {fastest}.", capitalized(form.words()))),
        None => {
            let least = of_form.iter().min_by_key(|row| row.failed)?;
            let failed = plural(least.failed, "buyer");
            Some(format!(
                "{}: nobody served every buyer; {} failed the fewest, {failed}.",
                capitalized(form.words()),
                least.name
            ))
        }
    }
}

/// What batched optimistic is worth against its own other forms, and where it is beaten.
fn against(rows: &[&Row], reference: &Row) -> Vec<String> {
    let mut notes = Vec::new();
    let times = |form: Form| {
        let other = find(rows, form, Strategy::Optimistic).filter(|row| row.purchases_per_second > 0.0)?;
        let times = reference.purchases_per_second / other.purchases_per_second;
        Some(format!("{} × {}", decimal(times, 1), form.words()))
    };
    let times: Vec<String> = [Form::OneByOne, Form::Competing, Form::Http].into_iter().filter_map(times).collect();
    if !times.is_empty() {
        notes.push(format!("{}, by the pace of its other forms: {}.", capitalized(&reference.name), times.join(", ")));
    }
    let rivals = |row: &&&Row| row.form != Form::Ceiling && row.failed == 0 && row.name != reference.name;
    let rivals: Vec<&Row> = rows.iter().filter(rivals).copied().collect();
    if rivals.is_empty() {
        return notes;
    }
    let beaten: Vec<String> = MEASURES.iter().filter_map(|measure| beaten(&rivals, reference, measure)).collect();
    match beaten.is_empty() {
        true => notes.push(format!("Nothing here beats {} in pace, p99 or cost.", reference.name)),
        false => notes.extend(beaten),
    }
    notes
}

/// The one that beats the reference by most in this figure, if anybody does.
fn beaten(rivals: &[&Row], reference: &Row, measure: &Measure) -> Option<String> {
    let mark = (measure.of)(reference)?;
    let sign = if measure.more_is_better { 1.0 } else { -1.0 };
    let figures = rivals.iter().filter_map(|row| Some((*row, (measure.of)(row)?)));
    let (rival, figure) = figures
        .max_by(|(_, one), (_, other)| (sign * one).total_cmp(&(sign * other)))
        .filter(|(_, figure)| sign * figure > sign * mark)?;
    let [figure, mark] = [figure, mark].map(|figure| decimal(figure, measure.places));
    let close = match measure.more_is_better && overlap(&rival.runs, &reference.runs) {
        true => "; their repetitions overlap, so this may be chance",
        false => "",
    };
    Some(format!(
        "{} {} than {}: {figure} against {mark} {}{close}.",
        capitalized(&rival.name),
        measure.is_better,
        reference.name,
        measure.unit
    ))
}

/// Whether the slowest repetition of the faster one is no faster than the fastest of the other.
fn overlap(faster: &[f64], slower: &[f64]) -> bool {
    let least = faster.iter().copied().min_by(f64::total_cmp);
    let most = slower.iter().copied().max_by(f64::total_cmp);
    least.zip(most).is_some_and(|(least, most)| least <= most)
}

/// Who failed, of what, and who had to wait for a second packet: `None` where everybody was answered at once.
pub(super) fn failures(row: &Row) -> Option<String> {
    let mut parts: Vec<String> =
        row.failures.iter().map(|(kind, number)| format!("{} {}", count(*number), kind.replace('_', " "))).collect();
    parts.extend(
        row.stalled.filter(|stalled| *stalled > 0).map(|stalled| format!("{} stalled for 1 s or more", count(stalled))),
    );
    let lag = row.lag_ms.filter(|lag| *lag >= LAG_MS_TOLD_MIN);
    parts.extend(lag.map(|lag| format!("buyers up to {} ms late themselves", decimal(lag, 0))));
    parts.extend((row.oversold > 0).then(|| format!("{} OVERSOLD", plural(row.oversold, "unit"))));
    (!parts.is_empty()).then(|| format!("{}: {}", row.name, parts.join(", ")))
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
