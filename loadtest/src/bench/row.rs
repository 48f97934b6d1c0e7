//! A way to sell, and how it went. Pure.

use super::measure::Counted;
use crate::audit::Invariant;
use crate::failure::Failure;
use crate::result::Outcome;
use crate::stats::{Latency, medians, round};
use crate::strategy::Strategy;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The promise that requests which compete do not make: whoever decides many at once, each by itself, gives it up.
const ORDER: &str = "first_come_first_served";

/// How requests reach who decides them, and how many are decided at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// On the queue, answered without a database: the limit of broker, runtime and load generator.
    #[default]
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
    /// The same to the function web, in front of the queue and its batches.
    Web,
}

/// A way to sell to so many buyers, in the keys that its row has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contender {
    pub buyers: u32,
    /// For people, such as `optimistic, batched`.
    pub name: String,
    pub form: Form,
    /// `null` for the ceiling.
    pub strategy: Option<Strategy>,
    /// `null` leaves the workers their own.
    pub batch_max: Option<u32>,
    /// Requests that a worker decides at once, each by itself; `null` where batches are decided, or connections limit them.
    pub in_flight: Option<u32>,
    /// The most that go in one; by HTTP there is but one.
    pub requests_per_message: u32,
}

impl Contender {
    /// Where requests compete, a worker has `competing` of them in flight.
    pub fn new(buyers: u32, form: Form, strategy: Option<Strategy>, competing: u32) -> Self {
        let (words, batch_max, in_flight) = match form {
            Form::Ceiling => ("ceiling", None, None),
            Form::Batched => ("batched", None, None),
            Form::OneByOne => ("one by one", Some(1), Some(1)),
            Form::Competing => ("competing", None, Some(competing)),
            Form::Http => ("HTTP", None, None),
            Form::Web => ("web", None, None),
        };
        let name = strategy.map_or(words.to_owned(), |strategy| format!("{}, {words}", strategy.as_str()));
        Self { buyers, name, form, strategy, batch_max, in_flight, requests_per_message: 1 }
    }

    /// The same, of requests that come in arrays of at most so many.
    pub(super) fn in_arrays(&self, requests_per_message: u32) -> Self {
        let name = format!("{}, {requests_per_message} a message", self.strategy.map_or("ceiling", Strategy::as_str));
        Self { name, requests_per_message, ..self.clone() }
    }
}

/// How one way to sell went: once, or over all repetitions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    #[serde(flatten)]
    pub contender: Contender,
    pub repetitions: u32,
    /// Buyers who got units.
    pub sold: u64,
    /// Buyers who were answered that there are none left for them.
    pub refused: u64,
    /// Buyers who were answered neither, and these by kind, without the kinds that did not occur: by HTTP refused, reset,
    /// timed_out, conflict (409), unavailable (503) and other; on the queue `lost` (no verdict) and `invalid`.
    pub failed: u64,
    pub failures: BTreeMap<String, u64>,
    /// Buyers who were answered, but whose connection took a second or more to be made: a SYN was dropped. `null` where
    /// nobody connects to buy, as the next.
    pub stalled: Option<u64>,
    /// How late the buyers' own processes were at the most: where this is much, the machine was too small for server and
    /// buyers together, and latencies and time-outs are partly the buyers' doing.
    #[serde(rename = "crowd_lag_ms")]
    pub lag_ms: Option<f64>,
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
    /// Decisions that were tried, a batch being one, by buyers who got units; `null` where nobody counts them, as the next.
    pub attempts_per_sale: Option<f64>,
    pub conflicts_per_sale: Option<f64>,
    /// By buyers, as the next: transactions that the database rolled back.
    pub rollbacks_per_purchase: Option<f64>,
    /// Statements that the database was sent, BEGIN and COMMIT among them.
    pub round_trips_per_purchase: Option<f64>,
    /// Time for which connections to the database were at work, or kept by an open transaction.
    pub connection_ms_per_purchase: Option<f64>,
    /// Accepted requests that were sent after a refused one of equal or smaller quantity; by HTTP: buyers with an order who
    /// began to connect after somebody who has none.
    pub order_inversions: u64,
    /// Units sold beyond the stock.
    pub oversold: u64,
    /// `null` on the queue.
    #[serde(rename = "door")]
    pub at_server: Option<AtServer>,
}

/// Where buyers waited at an HTTP server, and what became of some of them. In the keys that results have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct AtServer {
    /// How long requests waited for a connection from the pool, by buyers.
    pub pool_wait_ms_per_purchase: f64,
    /// Requests that got no connection in time.
    pub pool_timeouts: u64,
    /// Requests that waited too long for the row's lock.
    pub lock_timeouts: u64,
    /// Buyers who have an order and do not know it: they had gone when it was made.
    pub untold: u64,
    /// Units that were taken off the item without an order in the end.
    pub zombie_units: u64,
    /// SYNs that this machine dropped meanwhile, as a queue of connections was full (ListenDrops).
    pub syn_drops: u64,
    /// SYNs that were sent again meanwhile (TCPSynRetrans).
    pub syn_retransmits: u64,
}

impl Row {
    /// Once, on the queue; `counted` where a database took part. With it, the promises that it broke.
    pub(super) fn of_sale(contender: &Contender, outcome: &Outcome, counted: Option<Counted>) -> (Self, Vec<String>) {
        let (audit, verdicts) = (&outcome.audit, outcome.audit.verdicts);
        let failures = [("lost", audit.lost), ("invalid", verdicts.invalid)];
        let attempts = (outcome.attempts.unsigned_abs(), outcome.conflicts.unsigned_abs());
        let row = Self {
            sold: verdicts.reserved,
            refused: verdicts.sold_out + verdicts.refused,
            seconds: outcome.timing.seconds,
            latency_ms: outcome.timing.latency_ms,
            order_inversions: audit.order_inversions,
            oversold: audit.oversold,
            ..Self::new(outcome.timing.purchases_per_second, failures)
        };
        let is_promised = |broken: &&Invariant| contender.form != Form::Competing || broken.name != ORDER;
        let broken = audit.broken().filter(is_promised).map(Invariant::to_string).collect();
        (row.counted(contender, counted, attempts), broken)
    }

    /// Of buyers who were served, and failed so often in each way.
    pub(super) fn new(purchases_per_second: f64, failures: impl IntoIterator<Item = (&'static str, u64)>) -> Self {
        let occurred = failures.into_iter().filter(|(_, number)| *number > 0);
        let failures: BTreeMap<String, u64> = occurred.map(|(kind, number)| (kind.to_owned(), number)).collect();
        let (failed, runs) = (failures.values().sum(), vec![round(purchases_per_second, 1e1)]);
        Self { failed, failures, purchases_per_second, runs, ..Self::default() }
    }

    /// As this contender's. `attempts` are decisions that were tried, and those of them that met a conflict.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn counted(self, contender: &Contender, counted: Option<Counted>, attempts: (u64, u64)) -> Self {
        let row = Self { contender: contender.clone(), ..self };
        let Some(counted) = counted else { return row };
        let each = |sum: f64, by: f64| (by > 0.0).then(|| round(sum / by, 1e5));
        let (sold, buyers) = (row.sold as f64, f64::from(contender.buyers));
        Self {
            attempts_per_sale: each(attempts.0 as f64, sold),
            conflicts_per_sale: each(attempts.1 as f64, sold),
            rollbacks_per_purchase: each(counted.rollbacks as f64, buyers),
            round_trips_per_purchase: counted.statements.and_then(|statements| each(statements as f64, buyers)),
            connection_ms_per_purchase: counted.connection_ms.and_then(|ms| each(ms, buyers)),
            ..row
        }
    }

    /// Of all repetitions: medians, but for what must never happen, which is the most of all.
    pub(super) fn median(all: &[Self]) -> Result<Self, Failure> {
        let row = medians(all)?;
        Ok(Self {
            repetitions: u32::try_from(all.len()).unwrap_or(u32::MAX),
            failures: row.failures.into_iter().filter(|(_, number)| *number > 0).collect(),
            runs: all.iter().flat_map(|row| row.runs.iter().copied()).collect(),
            oversold: all.iter().map(|row| row.oversold).max().unwrap_or(0),
            ..row
        })
    }
}
