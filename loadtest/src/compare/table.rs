//! What `compare` found, for people: tables and sentences. Pure: text out, nothing else.
//!
//! Invariant: every figure is one of the [`Comparison`]'s; what was not measured is a dash, never a zero.

use comfy_table::{CellAlignment, Table, presets::NOTHING};

use super::notes;
use super::report::{Comparison, Form, Row};
use crate::summary::figures::{count, decimal, plural};
use shared::table::Style;

/// What came of it; numbers end at the right.
const CAME: [&str; 10] =
    ["", "sold", "refused", "failed", "seconds", "per second", "× ceiling", "p50 ms", "p99 ms", "out of order"];
/// What it took.
const TOOK: [&str; 6] =
    ["", "attempts/sold", "conflicts/sold", "rollbacks each", "round trips each", "connection ms each"];
/// Where buyers waited at HTTP servers, and what became of some.
const WAITED: [&str; 8] =
    ["", "ms for the pool each", "no connection", "no lock", "not told", "zombie units", "SYNs dropped", "SYNs again"];
/// How wide a page is.
const COLUMNS_MAX: usize = 118;
/// Between two facts of a line.
const SEPARATOR: &str = " · ";
/// Where nothing was measured, or nothing can be.
const NOTHING_KNOWN: &str = "-";

/// The whole result, with a final newline.
#[must_use]
pub fn render(comparison: &Comparison, style: Style) -> String {
    let headline = match comparison.passed {
        true => style.good("Ways to sell, side by side · every promise was kept"),
        false => style.bad("Ways to sell, side by side · PROMISES WERE BROKEN, so these are no figures"),
    };
    let mut lines = vec![headline];
    lines.extend(on_what(comparison).iter().flat_map(|facts| wrapped(facts)).map(|line| style.dim(&line)));
    lines.extend(comparison.broken.iter().map(|broken| format!("    {}", style.bad(&format!("✗ {broken}")))));
    for buyers in &comparison.scenario.buyers {
        lines.extend(of_size(comparison, *buyers, style));
    }
    lines.extend(section("About HTTP", &notes::on_http(comparison), style));
    lines.join("\n") + "\n"
}

/// Facts that belong on a line, of each kind.
fn on_what(comparison: &Comparison) -> [Vec<String>; 3] {
    let (scenario, servers, machine) = (&comparison.scenario, &comparison.servers, &comparison.machine);
    let redis = servers.redis.as_ref().map(|version| format!("Redis {version}"));
    let run = [
        format!(
            "{} on the queue, {} in flight where they compete",
            plural(scenario.workers.into(), "worker"),
            scenario.in_flight
        ),
        format!("medians of {}", plural(scenario.repetitions.into(), "repetition")),
        format!("seed {}", scenario.seed),
        format!("RabbitMQ {}", servers.rabbitmq),
        format!("PostgreSQL {}", servers.postgresql),
    ];
    let cores = Some(plural(machine.cores as u64, "core"));
    let memory = machine.memory_mib.map(|mib| format!("{} MiB", count(mib)));
    let hardware = [machine.processor.clone(), cores, memory, machine.kernel.clone()];
    let settings = machine.settings.iter().map(|(name, value)| format!("{name} {value}"));
    [run.into_iter().chain(redis).collect(), hardware.into_iter().flatten().collect(), settings.collect()]
}

/// Lines of these facts, none longer than a page is wide.
fn wrapped(facts: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for fact in facts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + SEPARATOR.chars().count() + fact.chars().count() <= COLUMNS_MAX => {
                line.push_str(SEPARATOR);
                line.push_str(fact);
            }
            Some(_) | None => lines.push(fact.clone()),
        }
    }
    lines
}

fn of_size(comparison: &Comparison, buyers: u32, style: Style) -> Vec<String> {
    let scenario = &comparison.scenario;
    let stock = scenario.stock.unwrap_or(u64::from(buyers) / 2);
    let (stock, items) = (plural(stock, "unit"), plural(scenario.items.into(), "item"));
    let title = format!("{} at once for {stock} of {items}", plural(buyers.into(), "buyer")).to_uppercase();
    let rows: Vec<&Row> = comparison.rows.iter().filter(|row| row.buyers == buyers).collect();
    let mut lines = vec![String::new(), format!("  {}", style.title(&title))];
    lines.extend(table(&CAME, rows.iter().map(|row| came(row)).collect(), style));
    let failures: Vec<String> = rows.iter().filter_map(|row| notes::failures(row)).collect();
    lines.extend(section("Failed, and stalled", &failures, style));
    lines.extend([String::new(), format!("  {}", style.title("WHAT IT TOOK"))]);
    let at_work: Vec<Vec<String>> = rows.iter().filter(|row| row.form != Form::Ceiling).map(|row| took(row)).collect();
    lines.extend(table(&TOOK, at_work, style));
    let at_doors: Vec<Vec<String>> = rows.iter().filter_map(|row| waited(row)).collect();
    if !at_doors.is_empty() {
        lines.extend([String::new(), format!("  {}", style.title("AT THE DOORS"))]);
        lines.extend(table(&WAITED, at_doors, style));
    }
    lines.extend(section("What that says", &notes::of(comparison, buyers), style));
    lines
}

/// Lines under a title; nothing, where there are none.
fn section(title: &str, texts: &[String], style: Style) -> Vec<String> {
    if texts.is_empty() {
        return Vec::new();
    }
    let title = format!("  {}", style.title(&title.to_uppercase()));
    [String::new(), title].into_iter().chain(texts.iter().map(|text| format!("    {text}"))).collect()
}

fn came(row: &Row) -> Vec<String> {
    // It says yes to everybody, and keeps no order: there is nothing to run out.
    let of_verdicts = |text: String| if row.form == Form::Ceiling { NOTHING_KNOWN.to_owned() } else { text };
    vec![
        row.name.clone(),
        of_verdicts(count(row.sold)),
        of_verdicts(count(row.refused)),
        count(row.failed),
        decimal(row.seconds, 2),
        decimal(row.purchases_per_second, 0),
        or_dash(row.ratio, 3),
        decimal(row.latency_ms.p50, 1),
        decimal(row.latency_ms.p99, 1),
        of_verdicts(count(row.order_inversions)),
    ]
}

fn took(row: &Row) -> Vec<String> {
    vec![
        row.name.clone(),
        or_dash(row.attempts_per_sale, 2),
        or_dash(row.conflicts_per_sale, 2),
        or_dash(row.rollbacks_per_purchase, 3),
        or_dash(row.round_trips_per_purchase, 3),
        or_dash(row.connection_ms_per_purchase, 3),
    ]
}

/// Where buyers waited at an HTTP server; `None` on the queue.
fn waited(row: &Row) -> Option<Vec<String>> {
    let door = row.door?;
    Some(vec![
        row.name.clone(),
        decimal(door.pool_wait_ms_per_purchase, 1),
        count(door.pool_timeouts),
        count(door.lock_timeouts),
        count(door.untold),
        count(door.zombie_units),
        count(door.syn_drops),
        count(door.syn_retransmits),
    ])
}

fn or_dash(figure: Option<f64>, places: usize) -> String {
    figure.map_or_else(|| NOTHING_KNOWN.to_owned(), |figure| decimal(figure, places))
}

/// Lines of a table whose first column is words.
fn table(columns: &[&str], rows: Vec<Vec<String>>, style: Style) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(columns);
    table.add_rows(rows);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        column.set_cell_alignment(if index == 0 { CellAlignment::Left } else { CellAlignment::Right });
    }
    let drawn = table.trim_fmt();
    let lines = drawn.lines().map(|line| format!("    {}", line.trim_end()));
    lines.enumerate().map(|(index, line)| if index == 0 { style.dim(&line) } else { line }).collect()
}
