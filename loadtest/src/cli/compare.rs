//! What `compare` takes.

use super::{BenchOptions, WORKERS_MAX};
use crate::bench::compare::{Contender, Form, rows};
use crate::schedule::{BUYERS_MAX, ITEMS_MAX, REQUESTS_PER_MESSAGE_MAX, STOCK_MAX, Scenario};
use crate::servers::RedisUrl;
use crate::strategy::Strategy;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// The fewest requests in flight that compete, and the most that a worker takes on.
const IN_FLIGHT: RangeInclusive<i64> = 2..=100;
/// The most connections to the database of all workers together; PostgreSQL takes 100 by default, and a private one 200.
const CONNECTIONS_MAX: u32 = 180;
pub(super) const PAYMENT_MS_MAX: u64 = 10_000;

/// In JSON the scenario of the result, without how and where it was to be had.
#[derive(Debug, Clone, Args, Serialize)]
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
    /// The most requests that go in one message, in further rows of the batched form; may be given several times, and 1 is
    /// always there.
    #[arg(long, value_name = "N", default_values_t = [10, 100], value_parser = clap::value_parser!(u32).range(1..=REQUESTS_PER_MESSAGE_MAX))]
    pub requests_per_message: Vec<u32>,
    /// Only this strategy; may be given several times.
    #[arg(long, value_enum, value_name = "STRATEGY")]
    #[serde(skip)]
    pub strategy: Vec<Strategy>,
    /// Only this form; may be given several times. The ceiling is always run.
    #[arg(long, value_enum, value_name = "FORM")]
    #[serde(skip)]
    pub form: Vec<Form>,
    /// How long the simulated payment of the HTTP servers takes, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=PAYMENT_MS_MAX))]
    pub payment_ms: u64,
    /// Write the result as a page with charts, all in one file, to show or to keep.
    #[arg(long, value_name = "FILE.html")]
    #[serde(skip)]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub bench: BenchOptions,
    #[command(flatten)]
    #[serde(skip)]
    pub redis: RedisUrl,
}

impl CompareOptions {
    pub(super) fn conflict(&self) -> Option<String> {
        if self.rows().len() == self.buyers.len() {
            return Some("nothing is left to compare: HTTP is not there for the only --strategy".to_owned());
        }
        let has = |form| chosen(&self.form).contains(&form);
        if self.items > 1 && has(Form::Http) {
            return Some("by HTTP one item is sold: with more --items, name the other forms with --form".to_owned());
        }
        let connections = self.workers * self.in_flight;
        (connections > CONNECTIONS_MAX && has(Form::Competing)).then(|| {
            format!(
                "{} workers with {} requests in flight take {connections} connections to the database, and \
                 {CONNECTIONS_MAX} is the most: lower --workers or --in-flight",
                self.workers, self.in_flight
            )
        })
    }

    /// What is compared, in the order in which it is shown.
    pub fn rows(&self) -> Vec<Contender> {
        let (forms, strategies) = (chosen(&self.form), chosen(&self.strategy));
        rows(&self.buyers, &forms, &strategies, &self.requests_per_message, self.in_flight)
    }

    /// Half as many units as buyers, unless there is to be another number.
    pub fn scenario(&self, buyers: u32, requests_per_message: u32) -> Scenario {
        let stock = self.stock.unwrap_or(u64::from(buyers) / 2);
        let (items, seed) = (self.items, self.bench.seed);
        Scenario { buyers, items, stock, seed, requests_per_message, ..Scenario::default() }
    }
}

/// All that there are, or those that were named.
fn chosen<T: ValueEnum + PartialEq + Copy>(named: &[T]) -> Vec<T> {
    T::value_variants().iter().copied().filter(|variant| named.is_empty() || named.contains(variant)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use crate::cli::tests::parse;

    fn compare(arguments: &[&str]) -> Result<CompareOptions, clap::Error> {
        let Command::Compare(options) = parse("compare", arguments)? else { unreachable!("the subcommand is compare") };
        Ok(options)
    }

    #[test]
    fn of_each_number_of_buyers_the_ceiling_comes_first_and_then_each_form_with_each_strategy() {
        let named = [
            "--requests-per-message=1",
            "--buyers=10",
            "--buyers=20",
            "--form=competing",
            "--form=batched",
            "--strategy=atomic",
        ];
        let rows = compare(&[&named[..], &["--strategy", "optimistic"]].concat()).unwrap().rows();
        let of_ten =
            ["ceiling", "optimistic, batched", "atomic, batched", "optimistic, competing", "atomic, competing"];
        let names: Vec<(u32, &str)> = rows.iter().map(|row| (row.buyers, row.name.as_str())).collect();
        assert_eq!(names, [10, 20].map(|buyers| of_ten.map(|name| (buyers, name))).concat());
    }

    #[test]
    fn everything_is_there_unless_it_is_left_out() {
        let options = compare(&[]).unwrap();
        let rows = options.rows();
        let of = |form| rows.iter().filter(|row| row.form == form).collect::<Vec<_>>();
        assert_eq!((options.scenario(1_000, 1).stock, rows.len()), (500, 1 + 4 + 4 + 4 + 3 + 1 + 2 * 4));
        let arrays = ["optimistic, 10 a message", "pessimistic, 10 a message", "atomic, 10 a message"];
        assert_eq!(rows[5..8].iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), arrays);
        assert_eq!(rows.iter().map(|row| row.requests_per_message).sum::<u32>(), 17 + 4 * 10 + 4 * 100);
        assert_eq!(of(Form::Web).iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["optimistic, web"]);
        let how = |form| of(form).iter().map(|row| (row.in_flight, row.batch_max)).collect::<Vec<_>>();
        assert_eq!((how(Form::Batched), how(Form::OneByOne)), (vec![(None, None); 12], vec![(Some(1), Some(1)); 4]));
        assert_eq!((how(Form::Competing), how(Form::Http)), (vec![(Some(16), None); 4], vec![(None, None); 3]));
    }

    #[test]
    fn what_leaves_nothing_or_cannot_be_carried_is_wrong_usage() {
        for (wrong, reason) in [
            (&["--items=2"][..], "one item is sold"),
            (&["--strategy=redis", "--form=http", "--buyers=1", "--buyers=2"], "nothing is left to compare"),
            (&["--workers=4", "--in-flight=64"], "256 connections"),
            (&["--form=ceiling"], "possible values"),
            (&["--in-flight=1"], "--in-flight"),
            (&["--in-flight=101"], "--in-flight"),
            (&["--repetitions=0"], "--repetitions"),
            (&["--buyers=0"], "--buyers"),
        ] {
            let error = compare(wrong).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains(reason), "{error}");
        }
        assert!(compare(&["--items=2", "--form=batched"]).is_ok());
        assert!(compare(&["--workers=4", "--in-flight=64", "--form=batched"]).is_ok());
    }
}
