//! The whole system: real worker processes, a real broker, a real database.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod admin;
mod architecture;
mod asyncapi;
mod audit;
mod audit_life;
mod baseline;
mod circles;
mod clients;
mod cluster;
mod compare;
mod contend;
mod cost;
mod crashes;
mod documents;
mod fixtures;
mod golden;
mod hostile;
mod life;
mod messages;
mod outages;
mod payment;
mod raw;
mod redis;
mod relay;
mod release;
mod report;
mod restock;
mod rules;
mod sales;
mod share;
mod shop;
mod startup;
mod strategies;
