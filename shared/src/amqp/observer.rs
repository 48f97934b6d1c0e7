//! Looking at the queues and the workers again and again, on one connection: for whoever shows what happens at this moment.
//!
//! Whoever looks on sends no heartbeat, and takes no request.

use super::connect::{Nodes, channel, close, go_on_after, next};
use super::membership::{Worker, read, subscribe};
use super::topology::{QueueState, found, state};
use super::{Error, answered};
use crate::worker::rebalance::WORKERS_MAX;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::{Channel, Connection, Consumer};
use std::collections::HashMap;
use std::time::Duration;

/// What there is to see at a moment.
#[derive(Debug)]
pub struct Observed {
    /// The state of each queue; `None`: there is no such queue.
    pub states: Vec<Option<QueueState>>,
    /// What each worker has said last, of those that were heard since the last look.
    pub heard: Vec<Worker>,
}

pub struct Observer {
    connection: Connection,
    /// On which queues are asked about, until one is not there.
    asking: Channel,
    heartbeats: Consumer,
    _hearing: Channel,
    exchange: String,
}

impl Observer {
    /// Hears the workers of this function.
    pub fn open<'a>(nodes: &'a Nodes, name: &'a str, function: &'a str) -> BoxFuture<'a, Result<Self, Error>> {
        Box::pin(async move {
            let exchange = format!("{function}.workers");
            let (connection, hearing, heartbeats) = subscribe(nodes, name, &exchange).await?;
            let asking = channel(&connection).await?;
            Ok(Self { connection, asking, heartbeats, _hearing: hearing, exchange })
        })
    }

    /// Looks at these queues, and at all workers.
    pub fn look<'a>(&'a mut self, queues: &'a [String]) -> BoxFuture<'a, Result<Observed, Error>> {
        Box::pin(async move {
            let mut states = Vec::new();
            for queue in queues {
                states.push(found(answered(async { Ok(state(&self.asking, queue).await?) }).await)?);
                if !self.asking.status().connected() {
                    self.asking = channel(&self.connection).await?;
                }
            }
            let mut heard = HashMap::new();
            while let Some(heartbeat) = next(&mut self.heartbeats).now_or_never() {
                let heartbeat = heartbeat?;
                go_on_after(&heartbeat).await?;
                let worker = read(&heartbeat, &self.exchange);
                worker.map(|worker| heard.insert(worker.process.clone(), worker));
            }
            Ok(Observed { states, heard: heard.into_values().collect() })
        })
    }
}

/// Listens to the heartbeats for so long; says who was heard, in the order of their names. Workers send one every half
/// second; where there are more than eight of them, each less often, 16 of them in a second.
pub fn listen<'a>(
    nodes: &'a Nodes,
    name: &'a str,
    exchange: &'a str,
    time: Duration,
) -> BoxFuture<'a, Result<Vec<Worker>, Error>> {
    Box::pin(async move {
        let (connection, _channel, mut heartbeats) = subscribe(nodes, name, exchange).await?;
        let end = tokio::time::Instant::now() + time;
        // Of each user so many, so that nobody's noise hides the others.
        let mut heard: HashMap<Option<String>, HashMap<String, Worker>> = HashMap::new();
        // Heartbeats that come without a pause would never let the time limit have its say.
        while tokio::time::Instant::now() < end
            && let Ok(heartbeat) = tokio::time::timeout_at(end, next(&mut heartbeats)).await
        {
            let heartbeat = heartbeat?;
            go_on_after(&heartbeat).await?;
            if let Some(worker) = read(&heartbeat, exchange) {
                let heard = heard.entry(worker.user.clone()).or_default();
                if heard.len() < WORKERS_MAX || heard.contains_key(&worker.process) {
                    // The last word counts: partitions move.
                    heard.insert(worker.process.clone(), worker);
                }
            }
        }
        drop(close(&connection).await);
        let mut workers: Vec<Worker> = heard.into_values().flat_map(HashMap::into_values).collect();
        workers.sort();
        Ok(workers)
    })
}
