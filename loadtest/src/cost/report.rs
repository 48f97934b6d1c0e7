//! What `cost` found, in exactly the keys that the README documents. Only data: others fill and print it.

use serde::Serialize;

use super::figures::Figures;
use crate::result::ServersReport;

/// The result.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// On what.
    pub servers: ServersReport,
    /// Cores of this machine that this program may use: workers, buyers and private servers share them.
    pub cores: usize,
    /// Worker processes of each sale.
    pub workers: u32,
    /// The batch limit that was asked for; `null` leaves the worker its own.
    pub batch_max: Option<u32>,
    /// What chose who buys what.
    pub seed: u64,
    /// Growing sales, on the same servers and tables, in the order in which they were run.
    pub steps: Vec<Step>,
    /// Empty tables against full ones; `null` where none were filled.
    pub age: Option<Age>,
    /// Promises that a sale did not keep; a cost without them would be none.
    pub broken: Vec<String>,
    /// Whether every promise of every sale was kept.
    pub passed: bool,
}

/// Sales of one size.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Buyers of each sale.
    pub buyers: u32,
    /// Items of each sale.
    pub items: u32,
    /// Sales: small ones are repeated, as CPU time is counted in hundredths of a second.
    pub sales: usize,
    /// Verdicts that were on record before the first of them.
    pub verdicts_before: i64,
    /// What a purchase cost.
    #[serde(flatten)]
    pub figures: Figures,
}

/// What the age of the tables costs.
#[derive(Debug, Clone, Serialize)]
pub struct Age {
    /// Old verdicts in the full tables.
    pub verdicts: u32,
    /// Items that they are about.
    pub items: u32,
    /// The same sale on empty and on full tables.
    pub comparisons: Vec<Comparison>,
}

/// The same sale on empty and on full tables, in turns.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// Buyers of each sale.
    pub buyers: u32,
    /// Items of each sale.
    pub items: u32,
    /// The pace of each sale on empty tables.
    pub empty_purchases_per_second: Vec<f64>,
    /// The pace of each sale on full tables, each after the one on empty tables in the same place.
    pub full_purchases_per_second: Vec<f64>,
    /// Full by empty: the median of the pairs' ratios.
    pub ratio: f64,
    /// What a purchase costs broker, workers and database together on empty tables, by what it costs on full ones: on a
    /// busy machine the sturdier of the two ratios. `null` where a process could not be measured.
    pub cpu_ratio: Option<f64>,
    /// What a purchase cost on empty tables.
    pub empty: Figures,
    /// What a purchase cost on full tables.
    pub full: Figures,
}
