//! Looking on: how deep the queues are, and which workers are there. For operators; nothing here changes what it looks at.
//!
//! Invariant: who looks on says no hello, or the workers would count it and hand partitions over to nobody.

use super::{
    Error, Nodes, answered, connect,
    heartbeat::{self, Worker},
    protocol_error,
};
use futures_util::{StreamExt, future::BoxFuture};
use lapin::{
    Connection,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPSoftError},
    types::FieldTable,
};
use std::{collections::HashMap, time::Duration};
use tokio::time::Instant;

/// The most workers that are listened to: more hellos than that are somebody's noise.
const WORKERS_MAX: usize = 10_000;

/// A queue, as the broker tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    /// Messages that wait: those under way to a worker are not counted.
    pub waiting: u32,
    /// Consumers. Of a queue with a single active consumer, RabbitMQ before 4.0 may count the active one alone.
    pub consumers: u32,
}

/// Asks for the state of each queue; `None`: there is no such queue.
///
/// # Errors
/// Those of [`connect`], and [`Error::Lost`].
pub fn queue_states<'a>(
    nodes: &'a Nodes,
    name: &'a str,
    queues: &'a [String],
) -> BoxFuture<'a, Result<Vec<Option<QueueState>>, Error>> {
    Box::pin(async move {
        let connection = connect(nodes, name).await?;
        let mut states = Vec::new();
        for queue in queues {
            states.push(answered(state(&connection, queue)).await?);
        }
        close(&connection).await;
        Ok(states)
    })
}

/// On a channel of its own: asking for a queue that is not there ends the channel.
async fn state(connection: &Connection, queue: &str) -> Result<Option<QueueState>, Error> {
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(queue.into(), options, FieldTable::default()).await {
        Ok(found) => {
            let state = QueueState { waiting: found.message_count(), consumers: found.consumer_count() };
            channel.close(200, "done".into()).await?;
            Ok(Some(state))
        }
        Err(error) if matches!(protocol_error(&error), Some(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND))) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Listens to the roll call for so long; says who was heard, in the order of their names.
///
/// Workers say hello every half second; where there are more than eight of them, each less often, 16 of them in a second.
///
/// # Errors
/// Those of [`connect`], and [`Error::Lost`]: also where there is no such exchange.
pub fn listen<'a>(
    nodes: &'a Nodes,
    name: &'a str,
    exchange: &'a str,
    time: Duration,
) -> BoxFuture<'a, Result<Vec<Worker>, Error>> {
    Box::pin(async move {
        let connection = connect(nodes, name).await?;
        let mut hellos = answered(async {
            let channel = connection.create_channel().await?;
            let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
            let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await?.name().clone();
            let bind = QueueBindOptions::default();
            channel.queue_bind(queue.clone(), exchange.into(), "".into(), bind, FieldTable::default()).await?;
            let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            Ok(channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?)
        })
        .await?;
        let end = Instant::now() + time;
        let mut heard: HashMap<String, Worker> = HashMap::new();
        // Hellos that come without a pause would never let the time limit have its say.
        while Instant::now() < end
            && let Ok(hello) = tokio::time::timeout_at(end, hellos.next()).await
        {
            let hello = hello.ok_or_else(|| Error::Lost("the broker ended the subscription".to_owned()))??;
            if let Some(worker) = heartbeat::read(&hello.data, &hello.properties)
                && heard.len() < WORKERS_MAX
            {
                // The last word counts: partitions move.
                heard.insert(worker.process.clone(), worker);
            }
        }
        close(&connection).await;
        let mut workers: Vec<Worker> = heard.into_values().collect();
        workers.sort();
        Ok(workers)
    })
}

/// A goodbye that fails changes nothing: what we came for, we have.
async fn close(connection: &Connection) {
    drop(answered(async { Ok(connection.close(200, "done".into()).await?) }).await);
}
