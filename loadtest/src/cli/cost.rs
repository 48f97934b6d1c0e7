//! What `cost` takes.

use super::{BATCH_MAX, BenchOptions, WORKERS_MAX};
use crate::schedule::{BUYERS_MAX, ITEMS_MAX, REQUESTS_PER_MESSAGE_MAX, Scenario};
use clap::Args;
use std::collections::BTreeSet;

const VERDICTS_BEFORE_MAX: i64 = 100_000_000;
const VERDICTS_BEFORE_DEFAULT: u32 = 1_000_000;

#[derive(Debug, Clone, Args)]
pub struct CostOptions {
    /// Buyers of a sale; may be given several times.
    #[arg(long, value_name = "N", default_values_t = [1_000, 10_000, 100_000], value_parser = clap::value_parser!(u32).range(1..=i64::from(BUYERS_MAX)))]
    pub buyers: Vec<u32>,
    /// Items on sale; may be given several times: each goes with each number of buyers.
    #[arg(long, value_name = "N", default_values_t = [1, 1_000], value_parser = clap::value_parser!(u32).range(1..=ITEMS_MAX))]
    pub items: Vec<u32>,
    /// The most requests that go in one message; may be given several times: each goes with each sale, and 1 is always there.
    #[arg(long, value_name = "N", default_values_t = [1], value_parser = clap::value_parser!(u32).range(1..=REQUESTS_PER_MESSAGE_MAX))]
    pub requests_per_message: Vec<u32>,
    /// Old verdicts, with their orders, that fill tables to be compared with empty ones; 0 compares nothing. Only private
    /// servers are filled [default: 1000000 there].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=VERDICTS_BEFORE_MAX))]
    pub verdicts_before: Option<u32>,
    /// Items that these verdicts are about.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=ITEMS_MAX))]
    pub items_before: u32,
    /// Worker processes to start.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=WORKERS_MAX))]
    pub workers: u32,
    /// The most requests that a worker decides at once [default: the worker's own].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=BATCH_MAX))]
    pub batch_max: Option<u32>,
    #[command(flatten)]
    pub bench: BenchOptions,
    /// The process of the broker that you gave (its Erlang machine, beam.smp), where it runs on this machine: without it
    /// the broker's CPU is not measured.
    #[arg(long, value_name = "PID", requires = "amqp_url")]
    pub broker_pid: Option<u32>,
    /// The first process of the database that you gave (its postmaster), where it runs on this machine: without it the
    /// database's CPU is not measured.
    #[arg(long, value_name = "PID", requires = "database_url")]
    pub database_pid: Option<u32>,
}

impl CostOptions {
    /// How many old verdicts private servers are filled with, if with any.
    pub(crate) fn fill(&self) -> Option<u32> {
        Some(self.verdicts_before.unwrap_or(VERDICTS_BEFORE_DEFAULT)).filter(|verdicts| *verdicts > 0)
    }

    /// Each number of items with each of buyers, and each of these with each number of requests a message, beside each other.
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        let sizes = self.items.iter().flat_map(|items| self.buyers.iter().map(move |buyers| (*buyers, *items)));
        let each: BTreeSet<u32> = [1].into_iter().chain(self.requests_per_message.iter().copied()).collect();
        let of_size = |(buyers, items)| {
            each.iter().map(move |together| self.scenario(buyers, items, *together)).collect::<Vec<_>>()
        };
        sizes.flat_map(of_size).collect()
    }

    /// A sale of which nobody goes without: every purchase is a reservation, the verdict that costs most.
    pub fn scenario(&self, buyers: u32, items: u32, requests_per_message: u32) -> Scenario {
        let stock = u64::from(buyers) * u64::from(items);
        Scenario { buyers, items, stock, requests_per_message, seed: self.bench.seed, ..Scenario::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use crate::cli::tests::parse;

    fn cost(arguments: &[&str]) -> Result<CostOptions, clap::Error> {
        let Command::Cost(options) = parse("cost", arguments)? else { unreachable!("the subcommand is cost") };
        Ok(options)
    }

    #[test]
    fn growing_sales_of_one_item_and_of_many_unless_others_are_named() {
        let options = cost(&[]).unwrap();
        assert_eq!((&options.buyers[..], &options.items[..]), (&[1_000, 10_000, 100_000][..], &[1, 1_000][..]));
        assert_eq!((options.fill(), cost(&["--verdicts-before=0"]).unwrap().fill()), (Some(1_000_000), None));
        assert_eq!(
            options.scenario(5_000_000, 1_000_000, 1).stock,
            5_000_000_000_000,
            "of every item one for everybody"
        );
        let named =
            ["--buyers", "50", "--buyers=60", "--items=7", "--requests-per-message=9", "--requests-per-message=5"];
        let scenarios = cost(&named).unwrap().scenarios().into_iter();
        let sizes: Vec<_> = scenarios.map(|sale| (sale.buyers, sale.items, sale.requests_per_message)).collect();
        assert_eq!(sizes, [(50, 7, 1), (50, 7, 5), (50, 7, 9), (60, 7, 1), (60, 7, 5), (60, 7, 9)]);
    }

    #[test]
    fn processes_can_be_named_of_given_servers_only() {
        assert!(cost(&["--broker-pid", "1"]).is_err());
        let given = ["--amqp-url=amqp://h", "--database-url=postgres://h/d", "--broker-pid=1", "--database-pid=2"];
        assert_eq!(cost(&given).unwrap().database_pid, Some(2));
    }
}
