//! What `cost` found, for people: a table of costs, and one of ages.

use shared::table::Style;

use super::{Age, Cost, Figures};
use crate::summary::figures::{count, cross_out, decimal, plural, signed, titled};

/// Above the figures of a purchase.
const FIGURES: [&str; 10] = [
    ">per second",
    ">broker µs",
    ">workers µs",
    ">database µs",
    ">buyers µs",
    ">msgs/batch",
    ">round trips",
    ">WAL bytes",
    ">deepest",
    ">workers MiB",
];

/// The whole result, with a final newline.
pub fn render(cost: &Cost, style: Style) -> String {
    let headline = match cost.passed {
        true => style.good("What a purchase costs · every promise was kept"),
        false => style.bad("What a purchase costs · PROMISES WERE BROKEN, so these are no costs"),
    };
    let mut head = vec![headline, style.dim(&on_what(cost))];
    head.extend(cross_out(&cost.broken, style));
    let rows = cost.steps.iter().map(|step| {
        let what = [count(step.buyers.into()), count(step.items.into()), signed(step.verdicts_before)];
        what.into_iter().chain(cells(&step.figures)).collect()
    });
    let headings = [&[">buyers", ">items", ">recorded"], &FIGURES[..]].concat();
    let steps = titled("GROWING SALES (CPU µs and the rest for each purchase)", &headings, rows.collect(), style);
    let ages: String = cost.age.iter().map(|age| aged(age, style)).collect();
    let is_unknown = cost.steps.iter().any(|step| step.figures.cpu_us_per_purchase.broker.is_none());
    let text = "  -  not measured: the process is not known. --broker-pid and --database-pid name it, if it runs here.";
    let unknown = if is_unknown { format!("\n{}\n", style.dim(text)) } else { String::new() };
    format!("{}\n{steps}{ages}{unknown}", head.join("\n"))
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

fn aged(age: &Age, style: Style) -> String {
    let (verdicts, items) = (plural(age.verdicts.into(), "old verdict"), plural(age.items.into(), "item"));
    let title = format!("EMPTY TABLES AGAINST {verdicts} ON {items}").to_uppercase();
    let rows = age.comparisons.iter().flat_map(|comparison| {
        let tables = [("empty", &comparison.empty), ("full", &comparison.full)];
        tables.map(|(tables, figures)| {
            let what = [count(comparison.buyers.into()), count(comparison.items.into()), tables.to_owned()];
            what.into_iter().chain(cells(figures)).collect()
        })
    });
    let headings = [&[">buyers", ">items", "tables"], &FIGURES[..]].concat();
    let table = titled(&title, &headings, rows.collect(), style);
    let ratios = age.comparisons.iter().map(|comparison| {
        let cpu = comparison.cpu_ratio.map(|ratio| format!(", {} × by CPU time", decimal(ratio, 2)));
        let (items, ratio) = (plural(comparison.items.into(), "item"), decimal(comparison.ratio, 2));
        format!("    {items}: {ratio} × the pace of empty tables{}\n", cpu.unwrap_or_default())
    });
    table + &ratios.collect::<String>()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cost::{Comparison, CpuFigures, Step};
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
        let comparison = Comparison {
            buyers: 50_000,
            items: 1,
            empty_purchases_per_second: vec![1.0],
            full_purchases_per_second: vec![0.97],
            ratio: 0.97,
            cpu_ratio: Some(0.98),
            empty: figures(broker),
            full: figures(broker),
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

    #[test]
    fn every_figure_is_there_and_empty_and_full_tables_stand_below_each_other_with_their_ratio() {
        let text = render(&cost(Some(90.0)), Style::Plain);
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let figures = "12,346 90.0 30.2 9.5 40.0 321.0 0.0125 1,234 8,000 -";
        for line in [
            format!("10,000 1 5,000 {figures}"),
            format!("50,000 1 empty {figures}"),
            format!("50,000 1 full {figures}"),
            "1 item: 0.97 × the pace of empty tables, 0.98 × by CPU time".to_owned(),
        ] {
            assert!(lines.contains(&line), "{line} is not in\n{text}");
        }
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
