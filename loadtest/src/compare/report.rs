//! What `compare` found, in exactly the keys that the README documents. Only data: others fill and print it.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::Serialize;

use crate::bench::baseline::AtServer;
use crate::machine::Machine;
use crate::outcome::Latency;
use crate::strategy::Strategy;

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// What was run.
    pub scenario: ComparedScenario,
    /// On which servers.
    pub servers: Versions,
    /// On which machine.
    pub machine: Machine,
    /// What was compared, by the number of buyers; of each number the ceiling comes first.
    pub rows: Vec<Row>,
    /// Promises that were not kept, each with the row that broke it; a pace without them would be none.
    pub broken: Vec<String>,
    /// Whether every promise was kept in every repetition of every row.
    pub passed: bool,
}

/// What was run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComparedScenario {
    /// Buyers at once: each number is a comparison of its own.
    pub buyers: Vec<u32>,
    /// Units on sale; `null` is half as many as there are buyers, so that half of them are refused.
    pub stock: Option<u64>,
    /// Items on sale.
    pub items: u32,
    /// Worker processes of each sale on the queue.
    pub workers: u32,
    /// How often each row was run, in turns with all others.
    pub repetitions: u32,
    /// Requests that one worker has in flight in the competing form.
    pub in_flight: u32,
    /// How long the simulated payment takes, which is part of a request by HTTP.
    pub payment_ms: u64,
    /// What chose who buys what.
    pub seed: u64,
}

/// The servers' versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// The broker's.
    pub rabbitmq: String,
    /// The database's.
    pub postgresql: String,
    /// That of Redis; `null` where nobody needed it.
    pub redis: Option<String>,
}

/// How requests reach who decides them, and how many are decided at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// On the queue, answered without a database: the limit of broker, runtime and load generator.
    #[value(skip)]
    Ceiling,
    /// On the queue, many requests in one transaction.
    Batched,
    /// On the queue, one request, one transaction, one after the other.
    OneByOne,
    /// On the queue, one request, one transaction, many in flight at once: the classic form.
    Competing,
    /// Straight to an HTTP server, one connection for each buyer.
    Http,
}

impl Form {
    /// As tables and sentences have it.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Ceiling => "ceiling",
            Self::Batched => "batched",
            Self::OneByOne => "one by one",
            Self::Competing => "competing",
            Self::Http => "HTTP",
        }
    }
}

/// One way to sell, and how it went. Every figure is the median of the repetitions, each by itself; only what must never
/// happen is the most that happened in any of them ([`Row::oversold`]).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Buyers at once.
    pub buyers: u32,
    /// For people, such as `optimistic, batched`.
    pub name: String,
    /// How requests arrive and are decided.
    pub form: Form,
    /// How stock is kept; `null` for the ceiling, which keeps none.
    pub strategy: Option<Strategy>,
    /// The batch limit that was asked for; `null` leaves the worker its own, or there are no batches.
    pub batch_max: Option<u32>,
    /// Requests in flight at once in each worker; `null` where they are not limited by that.
    pub in_flight: Option<u32>,
    /// How often it was run.
    pub repetitions: u32,
    /// Buyers who got units.
    pub sold: u64,
    /// Buyers who were told that there are none left for them.
    pub refused: u64,
    /// Buyers who were told neither.
    pub failed: u64,
    /// These by kind, without the kinds that did not occur: by HTTP those of [`crate::bench::baseline::BaselineResult`]; on the queue
    /// `lost` (no verdict) and `invalid`.
    pub failures: BTreeMap<&'static str, u64>,
    /// Answers that came only after 1 s or more, as they do when the system sends the first packet of a connection again;
    /// `null` where nobody connects to buy.
    pub stalled: Option<u64>,
    /// How late the buyers' own processes were at the most: where this is much, the machine was too small for server and
    /// buyers together, and latencies and time-outs are partly the buyers' doing. `null` where nobody connects to buy.
    pub crowd_lag_ms: Option<f64>,
    /// From the first intended send to the last answer.
    pub seconds: f64,
    /// Verdicts by seconds; by HTTP: answers.
    pub purchases_per_second: f64,
    /// Its pace by the ceiling's with as many buyers; `null` for the ceiling itself.
    pub ratio: Option<f64>,
    /// The pace of each repetition, in the order in which they were run.
    pub runs: Vec<f64>,
    /// From the intended send to the answer.
    pub latency_ms: Latency,
    /// Decisions that were tried, a batch being one, by buyers who got units; `null` where nobody counts them.
    pub attempts_per_sale: Option<f64>,
    /// Decisions that met a conflict and were made again, by buyers who got units.
    pub conflicts_per_sale: Option<f64>,
    /// Transactions that the database rolled back, by buyers.
    pub rollbacks_per_purchase: Option<f64>,
    /// Statements that the database was sent, BEGIN and COMMIT among them, by buyers.
    pub round_trips_per_purchase: Option<f64>,
    /// Time for which connections to the database were at work, or kept by an open transaction, by buyers.
    pub connection_ms_per_purchase: Option<f64>,
    /// Accepted requests that were sent after a refused one of equal or smaller quantity.
    pub order_inversions: u64,
    /// Units sold beyond the stock.
    pub oversold: u64,
    /// What only an HTTP server can tell; `null` on the queue.
    pub door: Option<AtServer>,
}
