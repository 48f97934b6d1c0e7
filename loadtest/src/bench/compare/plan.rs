//! What is compared with what. Pure.

use clap::ValueEnum;
use serde::Serialize;

use crate::audit::Invariant;
use crate::bench::baseline::BaselineStrategy;
use crate::strategy::Strategy;

/// The promise that some rows do not make: see [`Contender::keeps_order`].
const ORDER: &str = "first_come_first_served";

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

/// A way to sell to so many buyers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Contender {
    pub(crate) buyers: u32,
    pub(crate) form: Form,
    /// `None` for the ceiling.
    pub(crate) strategy: Option<Strategy>,
}

/// The rows, in the order in which they are shown: by the number of buyers, the ceiling first, then form by form.
pub(crate) fn rows(sizes: &[u32], forms: &[Form], strategies: &[Strategy]) -> Vec<Contender> {
    let mut rows = Vec::new();
    for &buyers in sizes {
        rows.push(Contender { buyers, form: Form::Ceiling, strategy: None });
        for &form in forms {
            let is_there = |strategy: &&Strategy| form != Form::Http || BaselineStrategy::of(**strategy).is_some();
            let strategies = strategies.iter().filter(is_there);
            rows.extend(strategies.map(|strategy| Contender { buyers, form, strategy: Some(*strategy) }));
        }
    }
    rows
}

impl Contender {
    /// For people, such as `optimistic, batched`.
    pub(super) fn name(&self) -> String {
        match self.strategy {
            None => self.form.words().to_owned(),
            Some(strategy) => format!("{}, {}", strategy.as_str(), self.form.words()),
        }
    }

    /// Who causes the same without a buyer has the same of these.
    pub(super) fn way(&self) -> (bool, Option<Strategy>) {
        (self.form == Form::Http, self.strategy)
    }

    /// The batch limit that its workers are given; `None` leaves them their own.
    pub(super) fn batch_max(&self) -> Option<u32> {
        (self.form == Form::OneByOne).then_some(1)
    }

    /// Requests that a worker decides at once, each by itself, where so many compete; `None` where batches are decided, or
    /// connections are what limits them.
    pub(super) fn in_flight(&self, competing: u32) -> Option<u32> {
        match self.form {
            Form::OneByOne => Some(1),
            Form::Competing => Some(competing),
            Form::Ceiling | Form::Batched | Form::Http => None,
        }
    }

    /// Whether it promises that nobody is preferred to who came before. Who decides many requests at once, each by itself,
    /// gives that up, and so does who has many connections to answer.
    fn keeps_order(&self) -> bool {
        match self.form {
            Form::Ceiling | Form::Batched | Form::OneByOne => true,
            Form::Competing | Form::Http => false,
        }
    }

    /// The promises that it makes, and did not keep.
    pub(super) fn broken(&self, invariants: &[Invariant]) -> Vec<String> {
        let promised = |invariant: &&Invariant| self.keeps_order() || invariant.name != ORDER;
        let broken = invariants.iter().filter(promised).filter(|invariant| !invariant.holds);
        broken.map(|invariant| format!("{}: {}", invariant.name, invariant.detail)).collect()
    }
}
