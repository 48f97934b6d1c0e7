//! What `compare` found, for people: tables, and sentences on who is better. Pure.

use super::{Comparison, Form, Row};
use crate::bench::table::{Column, figures, head, number};
use crate::strategy::Strategy;
use crate::summary::figures::{count, decimal, plural, section};
use shared::table::Style;

/// What came of it.
const CAME: [Column<Row>; 9] = [
    (">sold", 0, |row| of_stock(row, row.sold)),
    (">refused", 0, |row| of_stock(row, row.refused)),
    (">failed", 0, |row| Some(number(row.failed))),
    (">seconds", 2, |row| Some(row.seconds)),
    (">per second", 0, |row| Some(row.purchases_per_second)),
    (">× ceiling", 3, |row| row.ratio),
    (">p50 ms", 1, |row| Some(row.latency_ms.p50)),
    (">p99 ms", 1, |row| Some(row.latency_ms.p99)),
    (">inversions", 0, |row| of_stock(row, row.order_inversions)),
];
/// What it took.
const TOOK: [Column<Row>; 5] = [
    (">attempts/sold", 2, |row| row.attempts_per_sale),
    (">conflicts/sold", 2, |row| row.conflicts_per_sale),
    (">rollbacks each", 3, |row| row.rollbacks_per_purchase),
    (">round trips each", 3, |row| row.round_trips_per_purchase),
    (">connection ms each", 3, |row| row.connection_ms_per_purchase),
];
/// Where buyers waited at HTTP servers, and what became of some.
const WAITED: [Column<Row>; 9] = [
    (">stalled", 0, |row| row.stalled.map(number)),
    (">late by ms", 0, |row| row.lag_ms),
    (">pool ms each", 1, |row| Some(row.at_server?.pool_wait_ms_per_purchase)),
    (">no pool", 0, |row| Some(number(row.at_server?.pool_timeouts))),
    (">no lock", 0, |row| Some(number(row.at_server?.lock_timeouts))),
    (">untold", 0, |row| Some(number(row.at_server?.untold))),
    (">zombies", 0, |row| Some(number(row.at_server?.zombie_units))),
    (">SYN drops", 0, |row| Some(number(row.at_server?.syn_drops))),
    (">again", 0, |row| Some(number(row.at_server?.syn_retransmits))),
];

/// What a better one is, the unit and its places, 1 where more is better and -1 where less is, and the figure.
type Measure = (&'static str, &'static str, usize, f64, fn(&Row) -> Option<f64>);

/// Those that matter to who chooses.
const MEASURES: [Measure; 4] = [
    ("is faster", "purchases/s", 0, 1.0, |row| Some(row.purchases_per_second)),
    ("answers sooner (p99)", "ms", 1, -1.0, |row| Some(row.latency_ms.p99)),
    ("needs fewer round trips", "for each purchase", 4, -1.0, |row| row.round_trips_per_purchase),
    ("keeps connections for less time", "ms for each purchase", 3, -1.0, |row| row.connection_ms_per_purchase),
];

/// The whole result, with a final newline.
pub(super) fn render(comparison: &Comparison, style: Style) -> String {
    let scenario = &comparison.scenario;
    let run = format!(
        "{} on {}, {} in flight where they compete · medians of {} · seed {}",
        plural(scenario.workers.into(), "worker"),
        plural(comparison.machine.cores as u64, "core"),
        scenario.in_flight,
        scenario.bench.repetitions,
        scenario.bench.seed
    );
    let headlines = [
        "Ways to sell, side by side · every promise was kept",
        "Ways to sell, side by side · PROMISES WERE BROKEN, so these are no figures",
    ];
    let sizes = scenario.buyers.iter().map(|buyers| of_size(comparison, *buyers, style));
    head(headlines, &[run, comparison.servers.to_string()], &comparison.broken, style) + &sizes.collect::<String>()
}

fn of_size(comparison: &Comparison, buyers: u32, style: Style) -> String {
    let scenario = comparison.scenario.scenario(buyers, 1);
    let (stock, items) = (plural(scenario.stock, "unit"), plural(scenario.items.into(), "item"));
    let title = format!("{} at once for {stock} of {items}", plural(buyers.into(), "buyer")).to_uppercase();
    let rows = || comparison.rows.iter().filter(move |row| row.contender.buyers == buyers);
    let table = |title: &str, columns: &[Column<Row>]| {
        figures(title, [""], columns, rows().map(|row| ([row.contender.name.clone()], row)), style)
    };
    let payment_ms = comparison.scenario.payment_ms;
    let by_http =
        format!("AT THE HTTP SERVERS (409 and 503 are answers, and each has a payment of {payment_ms} ms in it)");
    [
        table(&title, &CAME),
        section("FAILED", rows().filter_map(failures), style),
        table("WHAT IT TOOK", &TOOK),
        table(&by_http, &WAITED),
        section("WHAT THAT SAYS", notes(comparison, buyers), style),
    ]
    .concat()
}

/// The ceiling says yes to everybody, and keeps no order: there is nothing to run out.
fn of_stock(row: &Row, buyers: u64) -> Option<f64> {
    (row.contender.form != Form::Ceiling).then(|| number(buyers))
}

fn failures(row: &Row) -> Option<String> {
    let kinds = row.failures.iter().map(|(kind, number)| format!("{} {}", count(*number), kind.replace('_', " ")));
    let kinds: Vec<String> = kinds.collect();
    (!kinds.is_empty()).then(|| format!("{}: {}", row.contender.name, kinds.join(", ")))
}

/// Whatever beats batched optimistic in a figure that matters is named, whoever it is; and whoever left buyers without a
/// verdict wins nothing.
pub(super) fn notes(comparison: &Comparison, buyers: u32) -> Vec<String> {
    let rows: Vec<&Row> = comparison.rows.iter().filter(|row| row.contender.buyers == buyers).collect();
    let is_reference =
        |row: &&Row| row.contender.form == Form::Batched && row.contender.strategy == Some(Strategy::Optimistic);
    let Some(reference) = rows.iter().copied().find(is_reference) else { return Vec::new() };
    let is_rival = |row: &&Row| row.contender.form != Form::Ceiling && row.failed == 0 && !is_reference(row);
    let rivals: Vec<&Row> = rows.iter().copied().filter(is_rival).collect();
    let beaten: Vec<String> = MEASURES.iter().filter_map(|measure| beaten(&rivals, reference, measure)).collect();
    match beaten.is_empty() && !rivals.is_empty() {
        true => vec![format!("Nothing here beats {} in pace, p99 or cost.", reference.contender.name)],
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
    let is_close = *sign > 0.0 && rival.runs.iter().any(|run| reference.runs.iter().any(|other| run <= other));
    let chance = if is_close { "; their repetitions overlap, so this may be chance" } else { "" };
    let [figure, mark] = [figure, mark].map(|figure| decimal(figure, *places));
    let (rival, reference) = (&rival.contender.name, &reference.contender.name);
    Some(format!("{rival} {is_better} than {reference}: {figure} against {mark} {unit}{chance}."))
}
