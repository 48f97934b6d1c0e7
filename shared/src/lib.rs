#![doc = include_str!("../README.md")]

pub mod batch;
pub mod broker;
pub mod config;
pub mod contract;
#[cfg(feature = "devstack")]
pub mod devstack;
pub mod error;
pub mod handler;
pub mod metrics;
pub mod order;
pub mod outbox;
pub mod retry;
pub mod runtime;
pub mod store;
pub mod telemetry;
pub mod topology;
