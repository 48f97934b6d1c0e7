//! What `compare` takes.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{BenchOptions, WORKERS_MAX};
use crate::bench::compare::{Form, rows};
use crate::schedule::{BUYERS_MAX, ITEMS_MAX, STOCK_MAX, Scenario};
use crate::servers::RedisUrl;
use crate::strategy::Strategy;

/// The fewest requests in flight that compete, and the most that a worker takes on.
const IN_FLIGHT: RangeInclusive<i64> = 2..=100;
/// The most connections to the database of all workers together; PostgreSQL takes 100 by default, and a private one 200.
const CONNECTIONS_MAX: u32 = 180;
const PAYMENT_MS_MAX: u64 = 10_000;

#[derive(Debug, Clone, Args)]
pub struct CompareOptions {
    /// Buyers, all at once; may be given several times: each number is a comparison of its own.
    #[arg(long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=i64::from(BUYERS_MAX)))]
    pub buyers: Vec<u32>,
    /// Units on sale over all items [default: half as many as there are buyers, so that both verdicts occur].
    #[arg(long, value_name = "UNITS", value_parser = clap::value_parser!(u64).range(0..=STOCK_MAX))]
    pub stock: Option<u64>,
    /// Items on sale; each buyer picks one. By HTTP one item is sold.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=ITEMS_MAX))]
    pub items: u32,
    /// Worker processes of each sale on the queue.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=WORKERS_MAX))]
    pub workers: u32,
    /// Requests that each worker decides at once in the competing form.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(IN_FLIGHT))]
    pub in_flight: u32,
    /// Only this strategy; may be given several times.
    #[arg(long, value_enum, value_name = "STRATEGY")]
    pub strategy: Vec<Strategy>,
    /// Only this form; may be given several times. The ceiling is always run.
    #[arg(long, value_enum, value_name = "FORM")]
    pub form: Vec<Form>,
    /// How long the simulated payment of the HTTP servers takes, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=PAYMENT_MS_MAX))]
    pub payment_ms: u64,
    /// Write the result as a page with charts, all in one file, to show or to keep.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub bench: BenchOptions,
    #[command(flatten)]
    pub redis: RedisUrl,
}

impl CompareOptions {
    pub(super) fn conflict(&self) -> Option<String> {
        let (forms, strategies) = (self.forms(), self.strategies());
        let rows = rows(&[1], &forms, &strategies);
        if rows.len() == 1 {
            return Some("nothing is left to compare: HTTP is not there for the only --strategy".to_owned());
        }
        if self.items > 1 && forms.contains(&Form::Http) {
            return Some("by HTTP one item is sold: with more --items, name the other forms with --form".to_owned());
        }
        let connections = self.workers * self.in_flight;
        if forms.contains(&Form::Competing) && connections > CONNECTIONS_MAX {
            return Some(format!(
                "{} workers with {} requests in flight take {connections} connections to the database, and \
                 {CONNECTIONS_MAX} is the most: lower --workers or --in-flight",
                self.workers, self.in_flight
            ));
        }
        None
    }

    /// Whether a row is decided by Redis.
    pub fn needs_redis(&self) -> bool {
        self.strategies().contains(&Strategy::Redis) && self.forms().iter().any(|form| *form != Form::Http)
    }

    /// The numbers of buyers, each once, in their order.
    pub fn sizes(&self) -> Vec<u32> {
        let is_first = |(index, buyers): &(usize, &u32)| !self.buyers[..*index].contains(buyers);
        self.buyers.iter().enumerate().filter(is_first).map(|(_, buyers)| *buyers).collect()
    }

    /// What is compared, in the order in which it is shown.
    pub fn forms(&self) -> Vec<Form> {
        chosen(&self.form)
    }

    pub fn strategies(&self) -> Vec<Strategy> {
        chosen(&self.strategy)
    }

    pub fn stock(&self, buyers: u32) -> u64 {
        self.stock.unwrap_or(u64::from(buyers) / 2)
    }

    pub fn scenario(&self, buyers: u32) -> Scenario {
        let stock = self.stock(buyers);
        Scenario { buyers, items: self.items, stock, quantities: 1..=1, rate: 0.0, seed: self.bench.seed }
    }
}

/// All that there are, or those that were named.
fn chosen<T: ValueEnum + PartialEq + Copy>(named: &[T]) -> Vec<T> {
    T::value_variants().iter().copied().filter(|variant| named.is_empty() || named.contains(variant)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, tests::parse};

    fn compare(arguments: &[&str]) -> Result<CompareOptions, clap::Error> {
        let Command::Compare(options) = parse("compare", arguments)? else { unreachable!("the subcommand is compare") };
        Ok(options)
    }

    #[test]
    fn by_default_a_thousand_buyers_come_for_half_as_many_units_in_every_form() {
        let options = compare(&[]).unwrap();
        assert_eq!((options.sizes(), options.stock(1_000)), (vec![1_000], 500));
        assert_eq!(options.forms(), [Form::Batched, Form::OneByOne, Form::Competing, Form::Http]);
        assert_eq!(options.strategies(), Strategy::value_variants());
    }

    #[test]
    fn forms_and_strategies_that_are_named_are_the_only_ones_and_keep_their_order() {
        let named = ["--form=competing", "--form=batched", "--strategy=atomic", "--strategy", "optimistic"];
        let options = compare(&named).unwrap();
        assert_eq!(options.forms(), [Form::Batched, Form::Competing]);
        assert_eq!(options.strategies(), [Strategy::Optimistic, Strategy::Atomic]);
        assert!(compare(&["--form=ceiling"]).is_err() && compare(&["--strategy=hope"]).is_err());
    }

    #[test]
    fn what_leaves_nothing_or_cannot_be_carried_is_wrong_usage() {
        for (wrong, reason) in
            [(&["--items=2"][..], "one item is sold"), (&["--workers=4", "--in-flight=64"], "256 connections")]
        {
            let error = compare(wrong).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(reason), "{error}");
        }
        for wrong in ["--in-flight=1", "--in-flight=101", "--repetitions=0", "--buyers=0", "--workers=0"] {
            assert_eq!(compare(&[wrong]).unwrap_err().exit_code(), 2, "{wrong}");
        }
        assert!(compare(&["--items=2", "--form=batched"]).is_ok());
        assert!(compare(&["--workers=4", "--in-flight=64", "--form=batched"]).is_ok());
    }

    #[test]
    fn a_number_of_buyers_counts_once() {
        assert_eq!(compare(&["--buyers=9", "--buyers=5", "--buyers=9"]).unwrap().sizes(), [9, 5]);
    }
}
