//! What the figures of a comparison say, in sentences. Pure.
//!
//! Whatever beats batched optimistic in a figure that matters is named, whoever it is; and whoever left buyers without a
//! verdict wins nothing.

use super::{Comparison, Form, Row};
use crate::strategy::Strategy;
use crate::summary::figures::{count, decimal, plural};

/// What a better one is, the unit and its places, 1 where more is better and -1 where less is, and the figure.
type Measure = (&'static str, &'static str, usize, f64, fn(&Row) -> Option<f64>);

/// Those that matter to who chooses.
const MEASURES: [Measure; 4] = [
    ("is faster", "purchases/s", 0, 1.0, |row| Some(row.purchases_per_second)),
    ("answers sooner (p99)", "ms", 1, -1.0, |row| Some(row.latency_ms.p99)),
    ("needs fewer round trips", "for each purchase", 4, -1.0, |row| row.round_trips_per_purchase),
    ("keeps connections for less time", "ms for each purchase", 3, -1.0, |row| row.connection_ms_per_purchase),
];
/// How late buyers may be without a word about it: much less than a packet that is sent again.
const LAG_MS_NOTED_MIN: f64 = 100.0;
/// The forms that are won by somebody.
const FORMS: [Form; 4] = [Form::Batched, Form::OneByOne, Form::Competing, Form::Http];

/// Sentences about the rows of so many buyers.
pub(super) fn of(comparison: &Comparison, buyers: u32) -> Vec<String> {
    let rows: Vec<&Row> = comparison.rows.iter().filter(|row| row.buyers == buyers).collect();
    let mut notes: Vec<String> = FORMS.iter().filter_map(|form| best(&rows, *form)).collect();
    if let Some(reference) = find(&rows, Form::Batched) {
        notes.extend(by_its_forms(&rows, reference));
        notes.extend(against(&rows, reference));
    }
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

/// Who failed, of what, and who had to wait for a second packet: `None` where everybody was answered at once.
pub(super) fn failures(row: &Row) -> Option<String> {
    let kinds = row.failures.iter().map(|(kind, number)| format!("{} {}", count(*number), kind.replace('_', " ")));
    let mut parts: Vec<String> = kinds.collect();
    let stalled = row.stalled.filter(|stalled| *stalled > 0);
    parts.extend(stalled.map(|stalled| format!("{} stalled for 1 s or more", count(stalled))));
    let lag = row.lag_ms.filter(|lag| *lag >= LAG_MS_NOTED_MIN);
    parts.extend(lag.map(|lag| format!("buyers up to {} ms late themselves", decimal(lag, 0))));
    parts.extend((row.oversold > 0).then(|| format!("{} OVERSOLD", plural(row.oversold, "unit"))));
    (!parts.is_empty()).then(|| format!("{}: {}", row.name, parts.join(", ")))
}

/// The optimistic row of this form.
fn find<'a>(rows: &[&'a Row], form: Form) -> Option<&'a Row> {
    rows.iter().copied().find(|row| row.form == form && row.strategy == Some(Strategy::Optimistic))
}

/// Who is the fastest of this form, of those who answered everybody; `None` where there is nobody to be compared with.
fn best(rows: &[&Row], form: Form) -> Option<String> {
    let of_form: Vec<&Row> = rows.iter().copied().filter(|row| row.form == form).collect();
    let served = of_form.iter().filter(|row| row.failed == 0);
    let fastest = served.max_by(|one, other| one.purchases_per_second.total_cmp(&other.purchases_per_second));
    let form = capitalized(form.words());
    let Some(row) = fastest else {
        let least = of_form.iter().min_by_key(|row| row.failed)?;
        let (name, failed) = (&least.name, plural(least.failed, "buyer"));
        return Some(format!("{form}: nobody served every buyer; {name} failed the fewest, {failed}."));
    };
    let ratio = row.ratio.map(|ratio| format!(", {} × the ceiling", decimal(ratio, 2))).unwrap_or_default();
    let (strategy, per_second) = (row.strategy.map_or("", Strategy::as_str), decimal(row.purchases_per_second, 0));
    (of_form.len() > 1).then(|| format!("{form}: {strategy} is the fastest, {per_second}/s{ratio}."))
}

/// What batched optimistic is worth against its own other forms.
fn by_its_forms(rows: &[&Row], reference: &Row) -> Option<String> {
    let times = |form: Form| {
        let other = find(rows, form).filter(|row| row.purchases_per_second > 0.0)?;
        let times = reference.purchases_per_second / other.purchases_per_second;
        Some(format!("{} × {}", decimal(times, 1), form.words()))
    };
    let times: Vec<String> = FORMS[1..].iter().filter_map(|form| times(*form)).collect();
    let name = capitalized(&reference.name);
    (!times.is_empty()).then(|| format!("{name}, by the pace of its other forms: {}.", times.join(", ")))
}

/// Where it is beaten.
fn against(rows: &[&Row], reference: &Row) -> Vec<String> {
    let is_rival = |row: &&Row| row.form != Form::Ceiling && row.failed == 0 && row.name != reference.name;
    let rivals: Vec<&Row> = rows.iter().copied().filter(is_rival).collect();
    let beaten: Vec<String> = MEASURES.iter().filter_map(|measure| beaten(&rivals, reference, measure)).collect();
    match beaten.is_empty() && !rivals.is_empty() {
        true => vec![format!("Nothing here beats {} in pace, p99 or cost.", reference.name)],
        false => beaten,
    }
}

/// The one that beats the reference by most in this figure, if anybody does.
fn beaten(rivals: &[&Row], reference: &Row, (is_better, unit, places, sign, of): &Measure) -> Option<String> {
    let mark = of(reference)?;
    let figures = rivals.iter().filter_map(|row| Some((*row, of(row)?)));
    let (rival, figure) = figures
        .max_by(|(_, one), (_, other)| (sign * one).total_cmp(&(sign * other)))
        .filter(|(_, figure)| sign * figure > sign * mark)?;
    let chance = match *sign > 0.0 && overlap(&rival.runs, &reference.runs) {
        true => "; their repetitions overlap, so this may be chance",
        false => "",
    };
    let [figure, mark] = [figure, mark].map(|figure| decimal(figure, *places));
    let (rival, reference) = (capitalized(&rival.name), &reference.name);
    Some(format!("{rival} {is_better} than {reference}: {figure} against {mark} {unit}{chance}."))
}

/// Whether the slowest repetition of the faster one is no faster than the fastest of the other.
fn overlap(faster: &[f64], slower: &[f64]) -> bool {
    let least = faster.iter().copied().min_by(f64::total_cmp);
    let most = slower.iter().copied().max_by(f64::total_cmp);
    least.zip(most).is_some_and(|(least, most)| least <= most)
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
