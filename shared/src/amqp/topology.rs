//! Which exchanges and queues there are: `rabbitmq/definitions.json`, read, declared, and looked at.
//!
//! That file is what the broker imports and what is declared here, so both give identical queues. Invariant: nothing else
//! in the project names a queue's arguments.

use super::connect::{Nodes, close, connect};
use super::{Error, answered, protocol_error};
use futures_util::future::BoxFuture;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// What is there through no fault of its sender's is never dropped.
const DEAD_QUEUE: &str = "dead";
/// What is there through its sender's own fault, which they were told: bounded, the oldest leaves first.
pub(super) const INVALID_QUEUE: &str = "dead.invalid";
/// In the order in which they are looked through.
pub(crate) const DEAD_QUEUES: [&str; 2] = [DEAD_QUEUE, INVALID_QUEUE];

/// The parts of a RabbitMQ definitions file that we use, as the broker exports them.
#[derive(Debug, Deserialize)]
pub struct Topology {
    pub exchanges: Vec<Exchange>,
    pub queues: Vec<Queue>,
    /// In an order that matters: the consistent hash deals its ring out in it.
    pub bindings: Vec<Binding>,
}

#[derive(Debug, Deserialize)]
pub struct Exchange {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub durable: bool,
    pub arguments: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
pub struct Queue {
    pub name: String,
    pub durable: bool,
    pub arguments: Map<String, Value>,
}

/// Of a queue to an exchange.
#[derive(Debug, Deserialize)]
pub struct Binding {
    /// The exchange's name.
    pub source: String,
    /// The queue's name.
    pub destination: String,
    /// For a consistent hash: the queue's weight.
    pub routing_key: String,
    pub arguments: Map<String, Value>,
}

impl Topology {
    pub fn read() -> &'static Self {
        static READ: LazyLock<Topology> = LazyLock::new(|| {
            serde_json::from_str(include_str!("../../../rabbitmq/definitions.json"))
                .expect("rabbitmq/definitions.json is part of this program, and a test reads it")
        });
        &READ
    }

    /// Whether a queue or an exchange has this name.
    pub fn has(&self, name: &str) -> bool {
        self.queues.iter().any(|queue| queue.name == name)
            || self.exchanges.iter().any(|exchange| exchange.name == name)
    }

    /// The exchange by which a function's workers count each other, where it has partitions to share.
    pub fn workers_of(&self, function: &str) -> Option<String> {
        let name = format!("{function}.workers");
        self.exchanges.iter().any(|exchange| exchange.name == name).then_some(name)
    }

    /// Whether one of a queue's consumers gets its messages, and the others are in line.
    pub fn has_single_active_consumer(&self, queue: &str) -> bool {
        let argument = |queue: &Queue| queue.arguments.get("x-single-active-consumer") == Some(&Value::Bool(true));
        self.queues.iter().any(|found| found.name == queue && argument(found))
    }

    /// How many messages a queue keeps, where it is bounded.
    pub fn length_max(&self, queue: &str) -> Option<u64> {
        self.queues.iter().find(|found| found.name == queue)?.arguments.get("x-max-length")?.as_u64()
    }

    /// The queues of a function: the one of its name, or its partitions, in order.
    pub fn queues_of(&self, function: &str) -> Vec<String> {
        let is_ours = |name: &str| match name.strip_prefix(function) {
            Some(rest) => rest.is_empty() || rest.strip_prefix('.').is_some_and(|part| part.parse::<u16>().is_ok()),
            None => false,
        };
        self.queues.iter().map(|queue| queue.name.clone()).filter(|name| is_ours(name)).collect()
    }
}

/// The exchange by which requests come into a queue of a function: it has the function's name.
pub(super) fn exchange_into(queue: &str) -> &str {
    queue.split_once('.').map_or(queue, |(function, _partition)| function)
}

/// Makes sure that the broker has the exchanges, queues and bindings of the topology, as they are written there. What is
/// there already, with the same arguments, stays as it is: this is how the topology is verified.
pub fn declare(channel: &Channel) -> BoxFuture<'_, Result<(), Error>> {
    Box::pin(async move {
        let Topology { exchanges, queues, bindings } = Topology::read();
        for exchange in exchanges {
            declare_exchange(channel, exchange).await?;
        }
        for queue in queues {
            declare_queue(channel, queue).await?;
        }
        for binding in bindings {
            bind(channel, binding).await?;
        }
        Ok(())
    })
}

pub(super) async fn declare_exchange(channel: &Channel, exchange: &Exchange) -> Result<(), Error> {
    let Exchange { name, kind, durable, arguments } = exchange;
    let options = ExchangeDeclareOptions { durable: *durable, ..ExchangeDeclareOptions::default() };
    let kind = ExchangeKind::Custom(kind.clone());
    let declared = channel.exchange_declare(name.as_str().into(), kind, options, table(arguments)).await;
    declared.map_err(|error| explain(error, name))
}

pub(super) async fn declare_queue(channel: &Channel, queue: &Queue) -> Result<(), Error> {
    let Queue { name, durable, arguments } = queue;
    let options = QueueDeclareOptions { durable: *durable, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(name.as_str().into(), options, table(arguments)).await;
    declared.map(drop).map_err(|error| explain(error, name))
}

pub(super) async fn bind(channel: &Channel, binding: &Binding) -> Result<(), Error> {
    let Binding { source, destination, routing_key, arguments } = binding;
    let (queue, exchange, key) = (destination.as_str(), source.as_str(), routing_key.as_str());
    let (options, arguments) = (QueueBindOptions::default(), table(arguments));
    let bound = channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments).await;
    bound.map_err(|error| explain(error, queue))
}

fn explain(error: lapin::Error, name: &str) -> Error {
    let reason = error.to_string();
    match protocol_error(&error) {
        // An exchange type that the broker does not know is a connection error in 3.x, a channel error in 4.x.
        Some(AMQPErrorKind::Hard(AMQPHardError::COMMANDINVALID)) => Error::PluginMissing,
        Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)) if reason.contains("exchange type") => {
            Error::PluginMissing
        }
        Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)) => {
            Error::Differs { name: name.to_owned(), reason }
        }
        Some(AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_)) | None => error.into(),
    }
}

/// JSON's values as the broker's own import reads them: whole numbers are signed 64-bit.
fn table(arguments: &Map<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Value::Bool(value) => AMQPValue::Boolean(*value),
            Value::String(value) => AMQPValue::LongString(value.as_str().into()),
            Value::Number(value) => AMQPValue::LongLongInt(value.as_i64().expect("definitions.json has whole numbers")),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                panic!("definitions.json has no such argument: {value}")
            }
        };
        table.insert(name.as_str().into(), value);
    }
    table
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueState {
    /// Messages that wait: those under way to a worker are not counted.
    pub waiting: u32,
    /// Consumers. Of a queue with a single active consumer, RabbitMQ before 4.0 may count the active one alone.
    pub consumers: u32,
}

/// The state of each queue; `None`: there is no such queue.
pub fn queue_states<'a>(
    nodes: &'a Nodes,
    name: &'a str,
    queues: &'a [String],
) -> BoxFuture<'a, Result<Vec<Option<QueueState>>, Error>> {
    Box::pin(async move {
        let connection = connect(nodes, name).await?;
        let mut states = Vec::new();
        for queue in queues {
            states.push(answered(state_or_none(&connection, queue)).await?);
        }
        drop(close(&connection).await);
        Ok(states)
    })
}

/// On a channel of its own: asking for a queue that is not there ends the channel.
pub(super) async fn state_or_none(connection: &Connection, queue: &str) -> Result<Option<QueueState>, Error> {
    let channel = connection.create_channel().await?;
    let state = found(state(&channel, queue).await.map_err(Error::from));
    if channel.status().connected() {
        channel.close(200, "done".into()).await?;
    }
    state
}

/// What it means that a queue was asked about, and this came of it.
pub(super) fn found(state: Result<QueueState, Error>) -> Result<Option<QueueState>, Error> {
    match state {
        Ok(state) => Ok(Some(state)),
        Err(Error::Missing(_)) => Ok(None),
        // RabbitMQ 4.2.6 and 4.3.0 let nobody look who may not configure it.
        Err(Error::NotAllowed(_)) => Ok(Some(QueueState { waiting: 0, consumers: 0 })),
        Err(error) => Err(error),
    }
}

pub(super) async fn state(channel: &Channel, queue: &str) -> lapin::Result<QueueState> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = channel.queue_declare(queue.into(), options, FieldTable::default()).await?;
    Ok(QueueState { waiting: found.message_count(), consumers: found.consumer_count() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purchase_has_eight_partitions_that_keep_the_order_and_lose_nothing() {
        let topology = Topology::read();
        let partitions = topology.queues_of("purchase");
        assert_eq!(partitions, (0..8).map(|number| format!("purchase.{number}")).collect::<Vec<_>>());
        for queue in topology.queues.iter().filter(|queue| partitions.contains(&queue.name)) {
            for (argument, value) in [
                ("x-queue-type", Value::from("quorum")),
                ("x-single-active-consumer", Value::from(true)),
                ("x-queue-leader-locator", Value::from("balanced")),
                // What a sender writes into headers brings the broker's own dead-lettering down (3.10).
                ("x-delivery-limit", Value::from(1_000_000)),
                ("x-overflow", Value::from("reject-publish")),
            ] {
                assert_eq!(queue.arguments.get(argument), Some(&value), "{} of {}", argument, queue.name);
            }
            assert!(!queue.arguments.keys().any(|argument| argument.contains("dead-letter")), "{}", queue.name);
            assert!(topology.bindings.iter().any(|b| b.source == "purchase" && b.destination == queue.name));
        }
    }

    #[test]
    fn release_and_payment_have_queues_that_any_number_consume_at_once_and_that_lose_nothing() {
        let topology = Topology::read();
        let arguments = |name: &str| topology.queues.iter().find(|queue| queue.name == name).unwrap().arguments.clone();
        let mut expected = arguments("purchase.0");
        // The order of stock movements matters: one worker at a time.
        assert_eq!(arguments("restock"), expected);
        expected.remove("x-single-active-consumer");
        assert_eq!((arguments("release"), arguments("payment")), (expected.clone(), expected));
        for name in ["release", "payment", "restock"] {
            let exchange = topology.exchanges.iter().find(|exchange| exchange.name == name).unwrap();
            assert_eq!(exchange.kind, "fanout", "any routing key will do");
        }
    }

    #[test]
    fn what_senders_do_wrong_is_kept_in_bounds_and_what_is_nobodys_fault_without() {
        let topology = Topology::read();
        let arguments = |name: &str| &topology.queues.iter().find(|queue| queue.name == name).unwrap().arguments;
        let is_bound = |argument: &&String| ["max", "ttl", "overflow"].iter().any(|bound| argument.contains(bound));
        assert_eq!(arguments("dead").keys().find(is_bound), None);
        let bounded = arguments("dead.invalid");
        assert_eq!(bounded["x-overflow"], "drop-head");
        assert_eq!(bounded["x-message-ttl"], 30 * 24 * 3_600 * 1_000_i64);
        let length_max = topology.length_max("dead.invalid").unwrap();
        // So the number says when the bytes are near, too: no body there is larger (`Publisher::copy`).
        assert_eq!(bounded["x-max-length-bytes"], length_max * crate::messages::BODY_BYTES_MAX as u64);
    }

    #[test]
    fn a_function_gets_no_queue_of_another() {
        let topology = Topology::read();
        assert_eq!(topology.workers_of("purchase").as_deref(), Some("purchase.workers"));
        assert_eq!(topology.workers_of("dead"), None);
        assert_eq!(topology.queues_of("dead"), ["dead"]);
        assert!(topology.queues_of("purch").is_empty());
    }
}
