//! From what sales took to what a purchase costs, and the tables of it. Pure.
//!
//! A cost is a sum over all sales by their purchases, so that a long sale weighs more than a short one; only the pace is a
//! median, for it is what a busy machine disturbs most.

use super::{Age, Cost};
use crate::bench::cpu::CpuTimes;
use crate::bench::measure::Counted;
use crate::bench::table::{Column, figures, head, number};
use crate::stats::{median, round};
use crate::summary::figures::{count, decimal, plural, signed};
use serde::Serialize;
use shared::table::Style;

/// What one sale took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Taken {
    pub(super) purchases: u32,
    pub(super) purchases_per_second: f64,
    pub(super) cpu: CpuTimes,
    /// Transactions that recorded verdicts.
    pub(super) batches: i64,
    pub(super) counted: Counted,
    /// Messages ready, at the most.
    pub(super) queue_depth_peak: u64,
    /// Of all workers together, at their peaks.
    pub(super) workers_rss_mib: Option<f64>,
}

/// What a purchase costs.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Figures {
    /// The median of the sales.
    purchases_per_second: f64,
    cpu_us_per_purchase: CpuTimes,
    /// Purchases that one commit recorded.
    messages_per_batch: f64,
    /// Statements that the workers sent to the database, and waited for.
    round_trips_per_purchase: f64,
    /// Bytes of write-ahead log.
    wal_bytes_per_purchase: f64,
    /// The most messages, arrays or not, that were ready in all partitions together, as sampled: how long the queue was.
    queue_depth_peak: u64,
    /// Resident memory of all workers together, at its peak; `null` where it cannot be read.
    workers_rss_mib: Option<f64>,
}

impl Figures {
    /// What a purchase costs, over all of these sales.
    pub(super) fn of(sales: &[Taken]) -> Self {
        let purchases: f64 = sales.iter().map(|sale| f64::from(sale.purchases)).sum();
        let each = |sum: f64, parts| if purchases > 0.0 { round(sum / purchases, parts) } else { 0.0 };
        let sum = |of: fn(&Taken) -> i64| sales.iter().map(of).sum::<i64>() as f64;
        let cpu = sales.iter().map(|sale| sale.cpu).reduce(|one, other| one.zip(other, |one, other| one + other));
        let cpu = cpu.unwrap_or_default();
        let batches = sum(|sale| sale.batches);
        let rss_mib = sales.iter().filter_map(|sale| sale.workers_rss_mib).max_by(f64::total_cmp);
        let paces: Vec<f64> = sales.iter().map(|sale| sale.purchases_per_second).collect();
        Self {
            purchases_per_second: round(median(&paces), 1e1),
            cpu_us_per_purchase: cpu.zip(cpu, |us, _same| each(us, 1e1)),
            messages_per_batch: if batches > 0.0 { round(purchases / batches, 1e1) } else { 0.0 },
            round_trips_per_purchase: each(sum(|sale| sale.counted.transactions), 1e5),
            wal_bytes_per_purchase: each(sum(|sale| sale.counted.wal_bytes), 1e0),
            queue_depth_peak: sales.iter().map(|sale| sale.queue_depth_peak).max().unwrap_or(0),
            workers_rss_mib: rss_mib.map(|mib| round(mib, 1e1)),
        }
    }

    /// What this purchase costs broker, workers and database, by another; `None` where one of them is not known, or nothing.
    pub(super) fn cpu_ratio(&self, by: &Self) -> Option<f64> {
        let sum = |figures: &Self| {
            let CpuTimes { broker, workers, database, .. } = figures.cpu_us_per_purchase;
            Some(broker? + workers? + database?)
        };
        let by = sum(by).filter(|by| *by > 0.0)?;
        Some(round(sum(self)? / by, 1e3))
    }
}

const COLUMNS: [Column<Figures>; 10] = [
    (">per second", 0, |figures| Some(figures.purchases_per_second)),
    (">broker µs", 1, |figures| figures.cpu_us_per_purchase.broker),
    (">workers µs", 1, |figures| figures.cpu_us_per_purchase.workers),
    (">database µs", 1, |figures| figures.cpu_us_per_purchase.database),
    (">buyers µs", 1, |figures| figures.cpu_us_per_purchase.buyers),
    (">each batch", 1, |figures| Some(figures.messages_per_batch)),
    (">round trips", 4, |figures| Some(figures.round_trips_per_purchase)),
    (">WAL bytes", 0, |figures| Some(figures.wal_bytes_per_purchase)),
    (">deepest", 0, |figures| Some(number(figures.queue_depth_peak))),
    (">workers MiB", 1, |figures| figures.workers_rss_mib),
];

/// The whole result, with a final newline.
pub(super) fn render(cost: &Cost, style: Style) -> String {
    let headlines = [
        "What a purchase costs · every promise was kept",
        "What a purchase costs · PROMISES WERE BROKEN, so these are no costs",
    ];
    let (workers, cores) = (plural(u64::from(cost.workers), "worker"), plural(cost.cores as u64, "core"));
    let on_what = format!("{workers} on {cores} · seed {} · {}", cost.seed, cost.servers);
    let steps = cost.steps.iter().map(|step| {
        let [buyers, items, together] = [step.buyers, step.items, step.requests_per_message].map(|it| count(it.into()));
        ([buyers, items, together, signed(step.verdicts_before)], &step.figures)
    });
    let title = "GROWING SALES (CPU µs and the rest for each purchase)";
    let steps = figures(title, [">buyers", ">items", ">a message", ">recorded"], &COLUMNS, steps, style);
    let ages: String = cost.age.iter().map(|age| aged(age, style)).collect();
    let is_unknown = cost.steps.iter().any(|step| step.figures.cpu_us_per_purchase.broker.is_none());
    let text = "  -  not measured: the process is not known. --broker-pid and --database-pid name it, if it runs here.";
    let unknown = if is_unknown { format!("\n{}\n", style.dim(text)) } else { String::new() };
    head(headlines, &[on_what], &cost.broken, style) + &steps + &ages + &unknown
}

fn aged(age: &Age, style: Style) -> String {
    let (verdicts, items) = (plural(age.verdicts.into(), "old verdict"), plural(age.items.into(), "item"));
    let title = format!("EMPTY TABLES AGAINST {verdicts} ON {items}").to_uppercase();
    let rows = age.comparisons.iter().flat_map(|comparison| {
        let (buyers, items) = (count(comparison.buyers.into()), count(comparison.items.into()));
        [("empty", &comparison.empty), ("full", &comparison.full)]
            .map(|(tables, figures)| ([buyers.clone(), items.clone(), tables.to_owned()], figures))
    });
    let table = figures(&title, [">buyers", ">items", "tables"], &COLUMNS, rows, style);
    let ratios = age.comparisons.iter().map(|comparison| {
        let cpu = comparison.cpu_ratio.map(|ratio| format!(", {} × by CPU time", decimal(ratio, 2)));
        let (items, ratio) = (plural(comparison.items.into(), "item"), decimal(comparison.ratio, 2));
        format!("    {items}: {ratio} × the pace of empty tables{}\n", cpu.unwrap_or_default())
    });
    table + &ratios.collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::cost::{Comparison, Step};
    use crate::bench::table::cells;
    use crate::result::ServersReport;

    fn taken() -> Taken {
        let cpu = CpuTimes { broker: Some(1e5), workers: Some(5e4), database: None, buyers: Some(1e4) };
        Taken {
            purchases: 1_000,
            purchases_per_second: 5_000.0,
            cpu,
            batches: 4,
            counted: Counted { transactions: 12, wal_bytes: 900_000, ..Counted::default() },
            queue_depth_peak: 700,
            workers_rss_mib: Some(30.0),
        }
    }

    fn shown(sales: &[Taken]) -> Vec<String> {
        cells(&COLUMNS, &Figures::of(sales)).collect()
    }

    #[test]
    fn a_cost_is_what_was_taken_by_the_purchases_it_was_taken_for() {
        let cells = ["5,000", "100.0", "50.0", "-", "10.0", "250.0", "0.0120", "900", "700", "30.0"];
        assert_eq!(shown(&[taken()]), cells);
        // A long sale weighs more, the pace is the median, and whoever was not seen once is not in the sum.
        let counted = |wal_bytes| Counted { transactions: 0, wal_bytes, ..Counted::default() };
        let long = Taken { purchases: 9_000, batches: 6, counted: counted(100_000), ..taken() };
        let disturbed = Taken { purchases_per_second: 1.0, cpu: CpuTimes::default(), ..Taken::default() };
        let long = Taken { purchases_per_second: 9_000.0, ..long };
        let cells = ["5,000", "-", "-", "-", "-", "1,000.0", "0.0012", "100", "700", "30.0"];
        assert_eq!(shown(&[taken(), long, disturbed]), cells);
    }

    #[test]
    fn one_cost_by_another_is_without_the_buyers_and_needs_everybody_else() {
        let figures = |broker, buyers| {
            let cpu = CpuTimes { broker, workers: Some(20.0), database: Some(30.0), buyers };
            Figures { cpu_us_per_purchase: cpu, ..Figures::default() }
        };
        assert_eq!(figures(Some(40.0), Some(1.0)).cpu_ratio(&figures(Some(50.0), None)), Some(0.9));
        assert_eq!(figures(None, None).cpu_ratio(&figures(Some(50.0), None)), None);
        assert_eq!(figures(Some(1.0), None).cpu_ratio(&figures(None, None)), None);
    }

    #[test]
    fn empty_and_full_tables_stand_below_each_other_and_what_was_not_measured_or_broke_is_said() {
        let figures = Figures::of(&[taken()]);
        let comparison = Comparison {
            buyers: 50_000,
            items: 1,
            requests_per_message: 100,
            empty_purchases_per_second: vec![1.0],
            full_purchases_per_second: vec![0.97],
            ratio: 0.97,
            cpu_ratio: Some(0.98),
            empty: figures.clone(),
            full: Figures::default(),
        };
        let cost = Cost {
            servers: ServersReport { rabbitmq: "3.10.8".into(), postgresql: Some("15.18".into()), redis: None },
            cores: 2,
            workers: 1,
            batch_max: None,
            seed: 42,
            steps: vec![Step {
                buyers: 10_000,
                items: 1,
                requests_per_message: 100,
                sales: 1,
                verdicts_before: 5_000,
                figures: Figures::default(),
            }],
            age: Some(Age { verdicts: 1_000_000, items: 100_000, comparisons: vec![comparison] }),
            broken: vec!["nothing_unknown: 1 order".into()],
            passed: false,
        };
        let text = render(&cost, Style::Plain);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        for line in [
            "✗ nothing_unknown: 1 order",
            "10,000 1 100 5,000 0 - - - - 0.0 0.0000 0 0 -",
            "50,000 1 empty 5,000 100.0 50.0 - 10.0 250.0 0.0120 900 700 30.0",
            "1 item: 0.97 × the pace of empty tables, 0.98 × by CPU time",
        ] {
            assert!(words.iter().any(|words| words.join(" ") == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("PROMISES WERE BROKEN") && text.contains("not measured"), "{text}");
    }
}
