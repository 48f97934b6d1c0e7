//! What `compare` found, for people: tables and sentences. What was not measured is a dash, never a zero.

use shared::table::Style;

use super::{Comparison, Form, Row, notes};
use crate::summary::figures::{count, cross_out, decimal, plural, section, titled};

/// What came of it.
const CAME: [&str; 10] = [
    "",
    ">sold",
    ">refused",
    ">failed",
    ">seconds",
    ">per second",
    ">× ceiling",
    ">p50 ms",
    ">p99 ms",
    ">out of order",
];
/// What it took.
const TOOK: [&str; 6] =
    ["", ">attempts/sold", ">conflicts/sold", ">rollbacks each", ">round trips each", ">connection ms each"];
/// Where buyers waited at HTTP servers, and what became of some.
const WAITED: [&str; 8] = [
    "",
    ">ms for the pool each",
    ">no connection",
    ">no lock",
    ">not answered",
    ">zombie units",
    ">SYNs dropped",
    ">SYNs again",
];
/// How wide a page is.
const COLUMNS_MAX: usize = 118;
/// Where nothing was measured, or nothing can be.
const NOTHING_KNOWN: &str = "-";

/// The whole result, with a final newline.
pub fn render(comparison: &Comparison, style: Style) -> String {
    let headline = match comparison.passed {
        true => style.good("Ways to sell, side by side · every promise was kept"),
        false => style.bad("Ways to sell, side by side · PROMISES WERE BROKEN, so these are no figures"),
    };
    let mut head = vec![headline];
    head.extend(on_what(comparison).iter().flat_map(|facts| wrapped(facts)).map(|line| style.dim(&line)));
    head.extend(cross_out(&comparison.broken, style));
    let sizes = comparison.scenario.buyers.iter().map(|buyers| of_size(comparison, *buyers, style));
    let about_http = section("ABOUT HTTP", notes::on_http(comparison), style);
    format!("{}\n{}{about_http}", head.join("\n"), sizes.collect::<String>())
}

/// Facts that belong on a line, of each kind.
fn on_what(comparison: &Comparison) -> [Vec<String>; 3] {
    let (scenario, servers, machine) = (&comparison.scenario, &comparison.servers, &comparison.machine);
    let run = [
        format!(
            "{} on the queue, {} in flight where they compete",
            plural(scenario.workers.into(), "worker"),
            scenario.in_flight
        ),
        format!("medians of {}", plural(scenario.repetitions.into(), "repetition")),
        format!("seed {}", scenario.seed),
        format!("RabbitMQ {}", servers.rabbitmq),
    ];
    let postgresql = servers.postgresql.as_ref().map(|version| format!("PostgreSQL {version}"));
    let redis = servers.redis.as_ref().map(|version| format!("Redis {version}"));
    let cores = Some(plural(machine.cores as u64, "core"));
    let memory = machine.memory_mib.map(|mib| format!("{} MiB", count(mib)));
    let hardware = [machine.processor.clone(), cores, memory, machine.kernel.clone()];
    let settings = machine.settings.iter().map(|(name, value)| format!("{name} {value}"));
    [
        run.into_iter().chain(postgresql).chain(redis).collect(),
        hardware.into_iter().flatten().collect(),
        settings.collect(),
    ]
}

/// Lines of these facts, none longer than a page is wide.
fn wrapped(facts: &[String]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for fact in facts {
        match lines.last_mut() {
            Some(line) if line.chars().count() + fact.chars().count() + 3 <= COLUMNS_MAX => {
                line.push_str(" · ");
                line.push_str(fact);
            }
            Some(_) | None => lines.push(fact.clone()),
        }
    }
    lines
}

fn of_size(comparison: &Comparison, buyers: u32, style: Style) -> String {
    let scenario = &comparison.scenario;
    let stock = scenario.stock.unwrap_or(u64::from(buyers) / 2);
    let (stock, items) = (plural(stock, "unit"), plural(scenario.items.into(), "item"));
    let title = format!("{} at once for {stock} of {items}", plural(buyers.into(), "buyer")).to_uppercase();
    let rows: Vec<&Row> = comparison.rows.iter().filter(|row| row.buyers == buyers).collect();
    let failures: Vec<String> = rows.iter().filter_map(|row| notes::failures(row)).collect();
    let at_work = rows.iter().filter(|row| row.form != Form::Ceiling).map(|row| took(row));
    let by_http: Vec<Vec<String>> = rows.iter().filter_map(|row| waited(row)).collect();
    let mut parts = vec![
        titled(&title, &CAME, rows.iter().map(|row| came(row)).collect(), style),
        section("FAILED, AND STALLED", failures, style),
        titled("WHAT IT TOOK", &TOOK, at_work.collect(), style),
    ];
    if !by_http.is_empty() {
        parts.push(titled("AT THE HTTP SERVERS", &WAITED, by_http, style));
    }
    parts.push(section("WHAT THAT SAYS", notes::of(comparison, buyers), style));
    parts.concat()
}

fn came(row: &Row) -> Vec<String> {
    // The ceiling says yes to everybody, and keeps no order: there is nothing to run out.
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

/// `None` on the queue.
fn waited(row: &Row) -> Option<Vec<String>> {
    let server = row.at_server?;
    let counts = [server.pool_timeouts, server.lock_timeouts, server.untold, server.zombie_units];
    let counts = counts.into_iter().chain([server.syn_drops, server.syn_retransmits]).map(count);
    Some([row.name.clone(), decimal(server.pool_wait_ms_per_purchase, 1)].into_iter().chain(counts).collect())
}

fn or_dash(figure: Option<f64>, places: usize) -> String {
    figure.map_or_else(|| NOTHING_KNOWN.to_owned(), |figure| decimal(figure, places))
}
