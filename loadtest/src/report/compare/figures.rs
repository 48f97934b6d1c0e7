//! Every figure of a comparison, as tables.

use super::Crowd;
use crate::compare::{Form, Row};
use crate::report::html::Html;
use crate::report::parts::{Cell, Column, Tone, folded, section, table};
use crate::summary::figures::{count, decimal};

/// What is shown where nothing was measured.
const NOTHING: &str = "–";

/// How each way did, the ceiling first.
pub(super) fn table_of_all(html: &mut Html, crowds: &[Crowd<'_>]) {
    let lead = "Failed: told neither yes nor no. Stalled: answered only after 1 s or more, as when the system sends the first \
                packet of a connection again. Out of order: preferred to somebody who had asked before.";
    section(html, "Does each way answer everybody, and in order of arrival?", lead, |html| {
        let columns = [
            Column::Text("way"),
            Column::Figure("sold"),
            Column::Figure("refused"),
            Column::Figure("failed"),
            Column::Figure("stalled"),
            Column::Figure("out of order"),
            Column::Figure("oversold"),
            Column::Figure("seconds"),
            Column::Figure("per second"),
            Column::Figure("× ceiling"),
            Column::Figure("p50 ms"),
            Column::Figure("p99 ms"),
        ];
        for crowd in crowds {
            let rows: Vec<Vec<Cell>> = crowd.ceiling.iter().chain(&crowd.ways).map(|row| cells(row)).collect();
            table(html, &crowd.title(), &columns, &rows);
        }
    });
}

fn cells(row: &Row) -> Vec<Cell> {
    // The ceiling sells nothing: it says yes to everybody.
    let of_stock = |cell: Cell| if row.form == Form::Ceiling { NOTHING.into() } else { cell };
    vec![
        row.name.clone().into(),
        of_stock(count(row.sold).into()),
        of_stock(count(row.refused).into()),
        fault(row.failed),
        row.stalled.map_or_else(|| NOTHING.into(), fault),
        of_stock(fault(row.order_inversions)),
        of_stock(fault(row.oversold)),
        format!("{:.2}", row.seconds).into(),
        decimal(row.purchases_per_second, 0).into(),
        optional(row.ratio, 2),
        decimal(row.latency_ms.p50, 1).into(),
        decimal(row.latency_ms.p99, 1).into(),
    ]
}

/// A number of what should not be.
fn fault(number: u64) -> Cell {
    Cell(count(number), if number > 0 { Tone::Bad } else { Tone::Plain })
}

fn optional(figure: Option<f64>, places: usize) -> Cell {
    figure.map_or_else(|| NOTHING.into(), |figure| decimal(figure, places).into())
}

/// What each way takes of the database.
pub(super) fn cost(html: &mut Html, crowds: &[Crowd<'_>]) {
    let lead = "Attempts and conflicts for each buyer who got units; the rest for each buyer. A decision is about a whole \
                batch, so a batched way attempts less than once for each.";
    section(html, "What does a purchase take of the database?", lead, |html| {
        let columns = [
            Column::Text("way"),
            Column::Figure("attempts"),
            Column::Figure("conflicts"),
            Column::Figure("rolled back"),
            Column::Figure("round trips"),
            Column::Figure("connection ms"),
        ];
        for crowd in crowds {
            let row = |row: &&Row| {
                vec![
                    row.name.clone().into(),
                    optional(row.attempts_per_sale, 3),
                    optional(row.conflicts_per_sale, 3),
                    optional(row.rollbacks_per_purchase, 3),
                    optional(row.round_trips_per_purchase, 3),
                    optional(row.connection_ms_per_purchase, 3),
                ]
            };
            table(html, &crowd.title(), &columns, &crowd.ways.iter().map(row).collect::<Vec<_>>());
        }
    });
}

/// Each repetition's pace, and each kind of failure, folded away.
pub(super) fn repetitions(html: &mut Html, crowds: &[Crowd<'_>]) {
    section(html, "How steady is it?", "Each repetition by itself, and every failure by its kind.", |html| {
        folded(html, "Figures", |html| {
            let columns =
                [Column::Text("way"), Column::Text("purchases per second, run by run"), Column::Text("failures")];
            for crowd in crowds {
                let row = |row: &&Row| {
                    let runs: Vec<String> = row.runs.iter().map(|pace| decimal(*pace, 0)).collect();
                    let kinds = row
                        .failures
                        .iter()
                        .map(|(kind, number)| format!("{} {}", count(*number), kind.replace('_', " ")));
                    let kinds: Vec<String> = kinds.collect();
                    let kinds = if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") };
                    vec![row.name.clone().into(), runs.join(" · ").into(), kinds.into()]
                };
                let rows: Vec<Vec<Cell>> = crowd.ceiling.iter().chain(&crowd.ways).map(row).collect();
                table(html, &crowd.title(), &columns, &rows);
            }
        });
    });
}
