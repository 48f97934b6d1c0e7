//! Queues of a test's own.

use lapin::options::{BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer, ExchangeKind};

/// A queue that goes with its connection, named by the broker.
pub(crate) async fn exclusive(channel: &Channel) -> ShortString {
    exclusive_named(channel, "").await
}

pub(crate) async fn exclusive_named(channel: &Channel, name: &str) -> ShortString {
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, FieldTable::default()).await.unwrap().name().clone()
}

pub(crate) async fn durable(channel: &Channel, name: &str) {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.into(), options, FieldTable::default()).await.unwrap();
}

pub(crate) async fn bind(channel: &Channel, queue: &str, exchange: &str, pattern: &str) {
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(queue.into(), exchange.into(), pattern.into(), options, none).await.unwrap();
}

/// A way into this partition and no other, whatever the routing key: by an exchange that only an operator could bind.
pub(crate) async fn way_into(channel: &Channel, partition: &str) -> String {
    let (name, none) = (format!("into {partition}"), FieldTable::default());
    let options = ExchangeDeclareOptions::default();
    channel.exchange_declare(name.as_str().into(), ExchangeKind::Fanout, options, none).await.unwrap();
    bind(channel, partition, &name, "").await;
    name
}

/// What is in a queue, and what comes; taken is settled.
pub(crate) async fn consume(channel: &Channel, queue: &str) -> Consumer {
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await.unwrap()
}

pub(crate) fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

pub(crate) fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}
