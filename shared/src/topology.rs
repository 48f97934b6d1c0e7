//! Which exchanges and queues there are: `rabbitmq/definitions.json`, read.
//!
//! That file is what the broker imports and what [`crate::amqp::declare`] declares, so both give identical queues.
//! Pure: no connection. Invariant: nothing else in the project names a queue's arguments.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The parts of a RabbitMQ definitions file that we use.
#[derive(Debug, Deserialize)]
pub struct Topology {
    /// Exchanges, as the broker exports them.
    pub exchanges: Vec<Exchange>,
    /// Queues, as the broker exports them.
    pub queues: Vec<Queue>,
    /// Bindings, in an order that matters: the consistent hash deals its ring out in it.
    pub bindings: Vec<Binding>,
}

/// An exchange.
#[derive(Debug, Deserialize)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// Its type, such as `fanout`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it outlives the broker's restart.
    pub durable: bool,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

/// A queue.
#[derive(Debug, Deserialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Whether it outlives the broker's restart.
    pub durable: bool,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

/// A binding of a queue to an exchange.
#[derive(Debug, Deserialize)]
pub struct Binding {
    /// The exchange's name.
    pub source: String,
    /// The queue's name.
    pub destination: String,
    /// For a consistent hash: the queue's weight.
    pub routing_key: String,
    /// Its arguments.
    pub arguments: Map<String, Value>,
}

impl Topology {
    /// The project's topology.
    #[must_use]
    pub fn read() -> Self {
        serde_json::from_str(include_str!("../../rabbitmq/definitions.json"))
            .expect("rabbitmq/definitions.json is part of this program, and a test reads it")
    }

    /// The exchange by which a function's workers count each other, where it has partitions to share.
    #[must_use]
    pub fn workers_of(&self, function: &str) -> Option<String> {
        let name = format!("{function}.workers");
        self.exchanges.iter().any(|exchange| exchange.name == name).then_some(name)
    }

    /// The queues of a function: the one of its name, or its partitions, in order.
    #[must_use]
    pub fn queues_of(&self, function: &str) -> Vec<String> {
        let is_ours = |name: &str| match name.strip_prefix(function) {
            Some(rest) => rest.is_empty() || rest.strip_prefix('.').is_some_and(|part| part.parse::<u16>().is_ok()),
            None => false,
        };
        self.queues.iter().map(|queue| queue.name.clone()).filter(|name| is_ours(name)).collect()
    }
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
                ("x-delivery-limit", Value::from(30)),
                ("x-dead-letter-exchange", Value::from("dead")),
                ("x-dead-letter-strategy", Value::from("at-least-once")),
                ("x-overflow", Value::from("reject-publish")),
            ] {
                assert_eq!(queue.arguments.get(argument), Some(&value), "{} of {}", argument, queue.name);
            }
            assert!(topology.bindings.iter().any(|b| b.source == "purchase" && b.destination == queue.name));
        }
    }

    #[test]
    fn release_and_payment_have_queues_that_any_number_consume_at_once_and_that_lose_nothing() {
        let topology = Topology::read();
        let arguments = |name: &str| {
            let queue = topology.queues.iter().find(|queue| queue.name == name);
            queue.expect("the queue is there").arguments.clone()
        };
        let mut expected = arguments("purchase.0");
        // The order of stock movements matters: one worker at a time.
        assert_eq!(arguments("restock"), expected);
        expected.remove("x-single-active-consumer");
        assert_eq!((arguments("release"), arguments("payment")), (expected.clone(), expected));
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
