//! What `cost` found, for people: a table of costs, and one of ages. Pure: text out, nothing else.

use super::figures::Figures;
use super::report::{Age, Cost};
use crate::summary::figures::{count, decimal, plural, signed};
use shared::table::Style;

/// Above the figures of a purchase; their columns are [`COLUMNS`] wide.
const FIGURES: [&str; 10] = [
    "per second",
    "broker µs",
    "workers µs",
    "database µs",
    "buyers µs",
    "msgs/batch",
    "round trips",
    "WAL bytes",
    "deepest",
    "workers MiB",
];
/// The width of a column.
const COLUMNS: usize = 12;

/// The whole result, with a final newline.
#[must_use]
pub fn render(cost: &Cost, style: Style) -> String {
    let headline = match cost.passed {
        true => style.good("What a purchase costs · every promise was kept"),
        false => style.bad("What a purchase costs · PROMISES WERE BROKEN, so these are no costs"),
    };
    let mut lines = vec![headline, style.dim(&on_what(cost))];
    lines.extend(cost.broken.iter().map(|broken| format!("    {}", style.bad(&format!("✗ {broken}")))));
    lines
        .extend(["".to_owned(), format!("  {}", style.title("GROWING SALES (CPU µs and the rest for each purchase)"))]);
    lines.push(style.dim(&row(["buyers", "items", "recorded"].iter().chain(&FIGURES).map(|name| (*name).to_owned()))));
    for step in &cost.steps {
        let what = [count(step.buyers.into()), count(step.items.into()), signed(step.verdicts_before)];
        lines.push(row(what.into_iter().chain(cells(&step.figures))));
    }
    lines.extend(cost.age.iter().flat_map(|age| aged(age, style)));
    if cost.steps.iter().any(|step| step.figures.cpu_us_per_purchase.broker.is_none()) {
        let text =
            "  -  not measured: the process is not known. --broker-pid and --database-pid name it, if it runs here.";
        lines.extend(["".to_owned(), style.dim(text)]);
    }
    lines.join("\n") + "\n"
}

fn on_what(cost: &Cost) -> String {
    let postgresql = cost.servers.postgresql.as_ref().map(|version| format!(", PostgreSQL {version}"));
    format!(
        "{} on {} · seed {} · RabbitMQ {}{}",
        plural(u64::from(cost.workers), "worker"),
        plural(cost.cores as u64, "core"),
        cost.seed,
        cost.servers.rabbitmq,
        postgresql.unwrap_or_default()
    )
}

fn aged(age: &Age, style: Style) -> Vec<String> {
    let (verdicts, items) = (plural(age.verdicts.into(), "old verdict"), plural(age.items.into(), "item"));
    let title = style.title(&format!("EMPTY TABLES AGAINST {verdicts} ON {items}").to_uppercase());
    let names = ["buyers", "items", "tables"].iter().chain(&FIGURES).map(|name| (*name).to_owned());
    let mut lines = vec![String::new(), format!("  {title}"), style.dim(&row(names))];
    for comparison in &age.comparisons {
        let what = [count(comparison.buyers.into()), count(comparison.items.into())];
        for (tables, figures) in [("empty", &comparison.empty), ("full", &comparison.full)] {
            lines.push(row(what.iter().cloned().chain([tables.to_owned()]).chain(cells(figures))));
        }
        let cpu = comparison.cpu_ratio.map(|ratio| format!(", {} × by CPU time", decimal(ratio, 2)));
        let ratio = decimal(comparison.ratio, 2);
        lines.push(format!(
            "{ratio:>width$} × the pace of empty tables{}",
            cpu.unwrap_or_default(),
            width = 4 * COLUMNS
        ));
    }
    lines
}

fn cells(figures: &Figures) -> [String; FIGURES.len()] {
    let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| decimal(value, 1));
    let cpu = &figures.cpu_us_per_purchase;
    [
        decimal(figures.purchases_per_second, 0),
        or_dash(cpu.broker),
        or_dash(cpu.workers),
        or_dash(cpu.database),
        or_dash(cpu.buyers),
        decimal(figures.messages_per_batch, 1),
        decimal(figures.round_trips_per_purchase, 4),
        decimal(figures.wal_bytes_per_purchase, 0),
        count(figures.queue_depth_peak),
        or_dash(figures.workers_rss_mib),
    ]
}

fn row(cells: impl Iterator<Item = String>) -> String {
    cells.map(|cell| format!("{cell:>COLUMNS$}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::figures::CpuFigures;
    use crate::cost::report::{Comparison, Step};
    use crate::result::ServersReport;

    fn figures(broker: Option<f64>) -> Figures {
        let cpu = CpuFigures { broker, workers: Some(30.25), database: Some(9.5), buyers: Some(40.0) };
        Figures {
            purchases_per_second: 12_345.6,
            cpu_us_per_purchase: cpu,
            messages_per_batch: 321.0,
            round_trips_per_purchase: 0.0125,
            wal_bytes_per_purchase: 1_234.0,
            queue_depth_peak: 8_000,
            workers_rss_mib: None,
        }
    }

    fn cost(broker: Option<f64>) -> Cost {
        let (empty, full) = (figures(broker), figures(broker));
        let comparison = Comparison {
            buyers: 50_000,
            items: 1,
            empty_purchases_per_second: vec![1.0],
            full_purchases_per_second: vec![0.97],
            ratio: 0.97,
            cpu_ratio: Some(0.98),
            empty,
            full,
        };
        Cost {
            servers: ServersReport { rabbitmq: "3.10.8".into(), postgresql: Some("15.18".into()), redis: None },
            cores: 2,
            workers: 1,
            batch_max: None,
            seed: 42,
            steps: vec![Step { buyers: 10_000, items: 1, sales: 1, verdicts_before: 5_000, figures: figures(broker) }],
            age: Some(Age { verdicts: 1_000_000, items: 100_000, comparisons: vec![comparison] }),
            broken: vec![],
            passed: true,
        }
    }

    fn words(text: &str) -> Vec<Vec<String>> {
        text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
    }

    #[test]
    fn every_figure_of_a_step_is_in_its_row() {
        let row =
            ["10,000", "1", "5,000", "12,346", "90.0", "30.2", "9.5", "40.0", "321.0", "0.0125", "1,234", "8,000", "-"];
        assert!(words(&render(&cost(Some(90.0)), Style::Plain)).contains(&row.map(str::to_owned).to_vec()));
    }

    #[test]
    fn empty_and_full_tables_stand_below_each_other_with_their_ratio() {
        let text = render(&cost(Some(90.0)), Style::Plain);
        let tables: Vec<String> = words(&text).iter().filter_map(|row| row.get(2).cloned()).collect();
        assert!(tables.ends_with(&["empty".into(), "full".into(), "the".into()]), "{text}");
        assert!(text.contains("0.97 × the pace of empty tables, 0.98 × by CPU time"), "{text}");
    }

    #[test]
    fn whoever_could_not_be_measured_is_said_to_be_so() {
        let text = render(&cost(None), Style::Plain);
        assert!(text.contains("not measured") && text.contains("--broker-pid"), "{text}");
        assert!(!render(&cost(Some(90.0)), Style::Plain).contains("not measured"));
    }

    #[test]
    fn a_broken_promise_is_shown_and_spoils_the_headline() {
        let broken = Cost { passed: false, broken: vec!["nothing_unknown: 1 order".into()], ..cost(None) };
        let text = render(&broken, Style::Plain);
        assert!(text.contains("PROMISES WERE BROKEN") && text.contains("✗ nothing_unknown: 1 order"), "{text}");
    }
}
