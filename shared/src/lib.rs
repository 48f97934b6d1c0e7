#![doc = include_str!("../README.md")]

pub mod amqp;
pub mod config;
pub mod db;
#[cfg(feature = "devstack")]
pub mod devstack;
pub mod error;
pub mod fail_point;
pub mod handler;
pub mod idempotency;
pub mod isolation;
pub mod items;
pub mod messages;
pub mod metrics;
pub mod order;
pub mod outbox;
pub mod retry;
pub mod startup;
#[cfg(feature = "table")]
pub mod table;
pub mod telemetry;
pub mod tls;
pub mod transaction;
pub mod upkeep;
pub mod worker;

pub use amqp::topology;
