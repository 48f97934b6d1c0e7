//! What is compared with what. Pure.

use std::iter;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::bench::baseline::BaselineStrategy;
use crate::strategy::Strategy;

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
        };
        let name = strategy.map_or(words.to_owned(), |strategy| format!("{}, {words}", strategy.as_str()));
        Self { buyers, name, form, strategy, batch_max, in_flight }
    }
}

/// The rows, in the order in which they are shown: by the number of buyers, the ceiling first, then form by form.
pub(crate) fn rows(sizes: &[u32], forms: &[Form], strategies: &[Strategy], competing: u32) -> Vec<Contender> {
    let all = forms.iter().flat_map(|form| strategies.iter().map(|strategy| (*form, *strategy)));
    let ways: Vec<(Form, Strategy)> =
        all.filter(|(form, strategy)| *form != Form::Http || BaselineStrategy::of(*strategy).is_some()).collect();
    let of_size = |&buyers: &u32| {
        let ways = ways.iter().map(move |(form, strategy)| Contender::new(buyers, *form, Some(*strategy), competing));
        iter::once(Contender::new(buyers, Form::Ceiling, None, competing)).chain(ways)
    };
    sizes.iter().flat_map(of_size).collect()
}
