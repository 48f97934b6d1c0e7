//! Declares the topology over AMQP, for a broker that did not import `rabbitmq/definitions.json`.
//!
//! Declaring what is there already, with the same arguments, changes nothing: it is how the topology is verified.

use super::{Error, protocol_error};
use crate::topology::Topology;
use futures_util::future::BoxFuture;
use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError},
    types::{AMQPValue, FieldTable},
};
use serde_json::{Map, Value};

/// Makes sure that the broker has the exchanges, queues and bindings of the topology, as they are written there.
///
/// # Errors
/// [`Error::PluginMissing`], [`Error::Differs`], [`Error::Refused`] or [`Error::Lost`].
pub fn declare<'a>(channel: &'a Channel, topology: &'a Topology) -> BoxFuture<'a, Result<(), Error>> {
    Box::pin(async move {
        for exchange in &topology.exchanges {
            let options = ExchangeDeclareOptions { durable: exchange.durable, ..ExchangeDeclareOptions::default() };
            let kind = ExchangeKind::Custom(exchange.kind.clone());
            channel
                .exchange_declare(exchange.name.as_str().into(), kind, options, table(&exchange.arguments))
                .await
                .map_err(|error| explain(&error, &exchange.name))?;
        }
        for queue in &topology.queues {
            let options = QueueDeclareOptions { durable: queue.durable, ..QueueDeclareOptions::default() };
            channel
                .queue_declare(queue.name.as_str().into(), options, table(&queue.arguments))
                .await
                .map_err(|error| explain(&error, &queue.name))?;
        }
        bind(channel, topology).await
    })
}

async fn bind(channel: &Channel, topology: &Topology) -> Result<(), Error> {
    for binding in &topology.bindings {
        channel
            .queue_bind(
                binding.destination.as_str().into(),
                binding.source.as_str().into(),
                binding.routing_key.as_str().into(),
                QueueBindOptions::default(),
                table(&binding.arguments),
            )
            .await
            .map_err(|error| explain(&error, &binding.destination))?;
    }
    Ok(())
}

fn explain(error: &lapin::Error, name: &str) -> Error {
    let reason = error.to_string();
    match protocol_error(error) {
        // An exchange type that the broker does not know is a connection error in 3.x, a channel error in 4.x.
        Some(AMQPErrorKind::Hard(AMQPHardError::COMMANDINVALID)) => Error::PluginMissing,
        Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)) if reason.contains("exchange type") => {
            Error::PluginMissing
        }
        Some(AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)) => {
            Error::Differs { name: name.to_owned(), reason }
        }
        Some(AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)) => Error::Refused(reason),
        Some(AMQPErrorKind::Soft(_) | AMQPErrorKind::Hard(_)) | None => Error::Lost(reason),
    }
}

fn table(arguments: &Map<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(name.as_str().into(), field(value));
    }
    table
}

/// JSON's values as the broker's own import reads them: whole numbers are signed 64-bit.
fn field(value: &Value) -> AMQPValue {
    match value {
        Value::Bool(value) => AMQPValue::Boolean(*value),
        Value::String(value) => AMQPValue::LongString(value.as_str().into()),
        Value::Number(value) => AMQPValue::LongLongInt(value.as_i64().expect("definitions.json has whole numbers")),
        Value::Null | Value::Array(_) | Value::Object(_) => panic!("definitions.json has no such argument: {value}"),
    }
}
