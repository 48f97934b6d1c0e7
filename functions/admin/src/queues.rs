//! `queues`: every queue's depth and consumers, and the active worker of each partition.
//!
//! The broker does not tell over AMQP which consumer of a partition is the active one; the workers do, in the hellos by
//! which they count each other. A worker knows it by what is delivered to it; so that something is, where nobody buys, each
//! of them puts a message that means nothing into every partition whenever it sees another come or leave. Until that has
//! come round, and with workers of an older version, nobody can tell.

use crate::{
    NAME,
    failure::Failure,
    options::BrokerOptions,
    report::{Column, Report, Shape, table},
};
use clap::Args;
use serde::Serialize;
use shared::{
    amqp::{self, Nodes, QueueState, Worker},
    topology::Topology,
};
use std::{collections::BTreeMap, time::Duration};

/// What the exchanges are called by which the workers of a function count each other.
const WORKERS_SUFFIX: &str = ".workers";
/// What the names of workers begin with.
const WORKER_PREFIX: &str = "turnstile-";

/// What `queues` takes.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How long to listen for the workers, in milliseconds. They say hello every half second; where there are more than
    /// eight, 16 a second together, so 100 workers want 7,000.
    #[arg(long, default_value_t = 2_000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub listen_ms: u64,
    /// The broker.
    #[command(flatten)]
    pub broker: BrokerOptions,
}

/// The document of `queues --json`.
#[derive(Debug, Serialize)]
pub struct Queues {
    /// In the order of rabbitmq/definitions.json.
    pub queues: Vec<Queue>,
    /// The workers that were heard, of functions that have partitions.
    pub workers: Vec<HeardWorker>,
}

/// A queue.
#[derive(Debug, Serialize)]
pub struct Queue {
    /// Its name.
    pub queue: String,
    /// Whether the broker has it; a function that starts declares all of them.
    pub exists: bool,
    /// Messages that wait; those under way to a worker are not counted.
    pub waiting: u32,
    /// Consumers.
    pub consumers: u32,
    /// Of a partition: the workers that say that they are active on it. More than one for a moment, while it is handed
    /// over. `null`: it is no partition.
    pub active: Option<Vec<String>>,
}

/// A worker.
#[derive(Debug, Serialize)]
pub struct HeardWorker {
    /// The function.
    pub function: String,
    /// What the worker is called.
    pub worker_id: String,
    /// Tells it from others of the same name.
    pub process: String,
    /// The partitions on which it is active, as far as it knows; `null`: it is of a version that does not say so.
    pub active: Option<Vec<String>>,
}

/// Runs the command.
///
/// # Errors
/// The broker's.
pub async fn run(options: Options, shape: Shape) -> Result<Report, Failure> {
    let nodes = Nodes::read(&options.broker.amqp_url)?;
    let topology = Topology::read();
    let names: Vec<String> = topology.queues.iter().map(|queue| queue.name.clone()).collect();
    let states = amqp::queue_states(&nodes, NAME, &names).await?;
    let mut workers = Vec::new();
    let mut partitions = BTreeMap::new();
    for function in topology.exchanges.iter().filter_map(|exchange| exchange.name.strip_suffix(WORKERS_SUFFIX)) {
        let of_function = topology.queues_of(function);
        // Where no worker has ever declared the exchange, there is nobody to listen to.
        if names.iter().zip(&states).any(|(name, state)| of_function.contains(name) && state.is_some()) {
            let exchange = format!("{function}{WORKERS_SUFFIX}");
            let time = Duration::from_millis(options.listen_ms);
            workers.extend(told(function, &of_function, amqp::listen(&nodes, NAME, &exchange, time).await?));
        }
        partitions.extend(of_function.into_iter().map(|queue| (queue, function)));
    }
    let queue = |(queue, state): (String, Option<QueueState>)| {
        let active = partitions.contains_key(&queue).then(|| claimants(&workers, &queue));
        let exists = state.is_some();
        let QueueState { waiting, consumers } = state.unwrap_or(QueueState { waiting: 0, consumers: 0 });
        Queue { queue, exists, waiting, consumers, active }
    };
    let queues = names.into_iter().zip(states).map(queue).collect();
    let document = Queues { queues, workers };
    Ok(Report::of(shape, &document, |_| text(&document)))
}

fn told(function: &str, partitions: &[String], heard: Vec<Worker>) -> Vec<HeardWorker> {
    let prefix = format!("{WORKER_PREFIX}{function} ");
    let named =
        |numbers: Vec<usize>| numbers.into_iter().filter_map(|number| partitions.get(number).cloned()).collect();
    let told = heard.into_iter().map(|worker| HeardWorker {
        function: function.to_owned(),
        worker_id: worker.name.strip_prefix(&prefix).unwrap_or(&worker.name).to_owned(),
        process: worker.process,
        active: worker.active.map(named),
    });
    told.collect()
}

/// The workers that say that they are active on this partition.
fn claimants(workers: &[HeardWorker], partition: &str) -> Vec<String> {
    let claims = |worker: &&HeardWorker| worker.active.iter().flatten().any(|claimed| claimed == partition);
    workers.iter().filter(claims).map(|worker| worker.worker_id.clone()).collect()
}

fn text(document: &Queues) -> String {
    let columns = [
        Column::Words("QUEUE"),
        Column::Number("WAITING"),
        Column::Number("CONSUMERS"),
        Column::Words("ACTIVE WORKER"),
    ];
    let row = |of: &Queue| {
        let active = match &of.active {
            _ if !of.exists => "no such queue".to_owned(),
            None => String::new(),
            Some(claimants) if claimants.is_empty() && of.consumers == 0 => "nobody".to_owned(),
            Some(claimants) if claimants.is_empty() => "not known yet".to_owned(),
            Some(claimants) => claimants.join(", "),
        };
        vec![of.queue.clone(), of.waiting.to_string(), of.consumers.to_string(), active]
    };
    let queues = table(&columns, document.queues.iter().map(row).collect(), "No queues.");
    let columns =
        [Column::Words("FUNCTION"), Column::Words("WORKER"), Column::Number("PARTITIONS"), Column::Words("PROCESS")];
    let row = |of: &HeardWorker| {
        let partitions = of.active.as_ref().map_or_else(|| "?".to_owned(), |active| active.len().to_string());
        vec![of.function.clone(), of.worker_id.clone(), partitions, of.process.clone()]
    };
    queues
        + "\n"
        + &table(
            &columns,
            document.workers.iter().map(row).collect(),
            "No worker of a function with partitions says hello.",
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_claims_a_partition_is_named_beside_it() {
        let worker = |name: &str, active| Worker { name: name.into(), process: "p".into(), active };
        let heard = vec![
            worker("turnstile-purchase a", Some(vec![0, 9])),
            worker("turnstile-purchase b", Some(vec![1, 0])),
            worker("turnstile-purchase old", None),
        ];
        let workers = told("purchase", &["purchase.0".into(), "purchase.1".into(), "purchase.2".into()], heard);
        assert_eq!(claimants(&workers, "purchase.0"), ["a", "b"], "one hands it over");
        assert_eq!(claimants(&workers, "purchase.1"), ["b"]);
        assert!(claimants(&workers, "purchase.2").is_empty());
        assert_eq!((workers[2].worker_id.as_str(), &workers[2].active), ("old", &None));
    }
}
