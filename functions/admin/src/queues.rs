//! `queues`: every queue's depth and consumers, and the active worker of each partition.
//!
//! The broker does not tell over AMQP which consumer of a partition is the active one; the workers do, in their
//! heartbeats. A worker knows it by what is delivered to it, padding where nobody buys. Until that has come round, and with
//! workers of an older version, nobody can tell.

use crate::NAME;
use crate::failure::Failure;
use crate::report::{Drawn, Layout};
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use shared::amqp::{self, Nodes, QueueState, Worker};
use shared::config::BrokerOptions;
use shared::topology::Topology;
use std::time::Duration;

/// How the names of the exchanges end by which the workers of a function count each other.
const WORKERS_SUFFIX: &str = ".workers";

#[derive(Debug, Args)]
pub struct Options {
    /// How long to listen for the workers, in milliseconds. They send a heartbeat every half second; where there are more than
    /// eight, 16 a second together, so 100 workers want 7,000.
    #[arg(long, default_value_t = 2_000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u64).range(100..=60_000))]
    listen_ms: u64,
    #[command(flatten)]
    broker: BrokerOptions,
}

#[derive(Serialize)]
struct HeardWorker {
    function: String,
    worker_id: String,
    /// Tells it from others of the same name.
    process: String,
    /// The broker's user that says all this; `null`: nobody vouches for it. Workers count those of their own user alone.
    user: Option<String>,
    /// The partitions on which it is active, as far as it knows; `null`: its version does not say so.
    active: Option<Vec<String>>,
}

pub(crate) async fn run(options: Options) -> Result<Drawn, Failure> {
    let nodes = Nodes::of(&options.broker)?;
    let topology = Topology::read();
    let names: Vec<String> = topology.queues.iter().map(|queue| queue.name.clone()).collect();
    let states = amqp::queue_states(&nodes, NAME, &names).await?;
    let states: Vec<(String, Option<QueueState>)> = names.into_iter().zip(states).collect();
    let (mut workers, mut partitions) = (Vec::new(), Vec::new());
    for function in topology.exchanges.iter().filter_map(|exchange| exchange.name.strip_suffix(WORKERS_SUFFIX)) {
        let of_function = topology.queues_of(function);
        // Where no worker has ever declared the exchange, there is nobody to listen to.
        if states.iter().any(|(name, state)| of_function.contains(name) && state.is_some()) {
            let exchange = format!("{function}{WORKERS_SUFFIX}");
            let time = Duration::from_millis(options.listen_ms);
            workers.extend(named(function, &of_function, amqp::listen(&nodes, NAME, &exchange, time).await?));
        }
        partitions.extend(of_function);
    }
    let queue = |(queue, state): (String, Option<QueueState>)| {
        // Two for a moment, while a partition is handed over; `null`: it is no partition.
        let active = partitions.contains(&queue).then(|| claimants(&workers, &queue));
        let (waiting, consumers) = state.map_or((0, 0), |state| (state.waiting, state.consumers));
        json!({ "queue": queue, "exists": state.is_some(), "waiting": waiting, "consumers": consumers, "active": active })
    };
    Ok(drawn(json!({ "queues": states.into_iter().map(queue).collect::<Vec<_>>(), "workers": workers })))
}

fn drawn(document: Value) -> Drawn {
    let tables = &[
        ("queues", "No queues.", "queue waiting consumers active_worker"),
        ("workers", "No worker of a function with partitions was heard.", "function worker_id partitions user process"),
    ];
    let mut drawn = Layout { lines: "", tables }.of(document);
    for queue in drawn.shown["queues"].as_array_mut().into_iter().flatten() {
        queue["active_worker"] = active_worker(queue);
    }
    for worker in drawn.shown["workers"].as_array_mut().into_iter().flatten() {
        let partitions = worker["active"].as_array().map(Vec::len);
        worker["partitions"] = partitions.map_or(json!("?"), |partitions| json!(partitions));
    }
    drawn
}

/// Who is active on a queue, or why nobody is named. `null`: it is no partition.
fn active_worker(queue: &Value) -> Value {
    if queue["exists"] == false {
        return json!("no such queue");
    }
    match queue["active"].as_array() {
        Some(claimants) if !claimants.is_empty() => json!(claimants),
        Some(_) if queue["consumers"] == 0 => json!("nobody"),
        Some(_) => json!("not known yet"),
        None => Value::Null,
    }
}

/// The workers of a function by their ids, with the names of the partitions that they know by number.
fn named(function: &str, partitions: &[String], heard: Vec<Worker>) -> Vec<HeardWorker> {
    let prefix = format!("turnstile-{function} ");
    let queues =
        |numbers: Vec<usize>| numbers.into_iter().filter_map(|number| partitions.get(number).cloned()).collect();
    let worker = |worker: Worker| HeardWorker {
        function: function.to_owned(),
        worker_id: worker.name.strip_prefix(&prefix).unwrap_or(&worker.name).to_owned(),
        process: worker.process,
        user: worker.user,
        active: worker.active.map(queues),
    };
    heard.into_iter().map(worker).collect()
}

/// The workers that say that they are active on this partition.
fn claimants(workers: &[HeardWorker], partition: &str) -> Vec<String> {
    let claims = |worker: &&HeardWorker| worker.active.iter().flatten().any(|claimed| claimed == partition);
    workers.iter().filter(claims).map(|worker| worker.worker_id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Document;
    use shared::table::Style;

    #[test]
    fn who_claims_a_partition_is_named_beside_it() {
        let worker = |name: &str, active| Worker {
            name: name.into(),
            process: "p".into(),
            user: None,
            active,
            verdicts: Default::default(),
        };
        let heard = vec![
            worker("turnstile-purchase a", Some(vec![0, 9])),
            worker("turnstile-purchase b", Some(vec![1, 0])),
            worker("turnstile-purchase old", None),
        ];
        let workers = named("purchase", &["purchase.0".into(), "purchase.1".into(), "purchase.2".into()], heard);
        assert_eq!(claimants(&workers, "purchase.0"), ["a", "b"], "one hands it over");
        assert_eq!(claimants(&workers, "purchase.1"), ["b"]);
        assert!(claimants(&workers, "purchase.2").is_empty());
        assert_eq!((workers[2].worker_id.as_str(), &workers[2].active), ("old", &None));
    }

    #[test]
    fn people_are_told_why_no_worker_is_named() {
        let document = json!({
            "queues": [
                {"queue": "purchase.0", "exists": false, "waiting": 0, "consumers": 0, "active": []},
                {"queue": "purchase.1", "exists": true, "waiting": 7, "consumers": 0, "active": []},
                {"queue": "purchase.2", "exists": true, "waiting": 0, "consumers": 2, "active": []},
                {"queue": "purchase.3", "exists": true, "waiting": 0, "consumers": 2, "active": ["a", "b"]},
                {"queue": "release", "exists": true, "waiting": 0, "consumers": 1, "active": null},
            ],
            "workers": [
                {"function": "purchase", "worker_id": "a", "process": "p", "user": "u", "active": ["purchase.3"]},
                {"function": "purchase", "worker_id": "old", "process": "q", "user": null, "active": null},
            ],
        });
        let expected = "QUEUE       WAITING  CONSUMERS  ACTIVE WORKER\n\
                        purchase.0        0          0  no such queue\n\
                        purchase.1        7          0  nobody\n\
                        purchase.2        0          2  not known yet\n\
                        purchase.3        0          2  a, b\n\
                        release           0          1  –\n\n\
                        FUNCTION  WORKER ID  PARTITIONS  USER  PROCESS\n\
                        purchase  a                   1  u     p\n\
                        purchase  old                 ?  –     q\n";
        assert_eq!(drawn(document).text(Style::Plain), expected);
    }
}
