//! What is promised, shown on the whole system: real worker processes, a real broker, a real database.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

mod support;

mod arrays;
mod crashes;
mod events;
mod holds;
mod idempotency;
mod identity;
mod limits;
mod order;
mod outages;
mod oversell;
mod payments;
mod poison;
mod replies;
mod restock;
mod strategies;

mod admin;
mod audit;
mod bench;
mod clients;
mod contract;
mod golden;
mod report;
mod senders;
mod startup;
mod tls;
mod upgrade;
mod web;

mod architecture;
mod circles;
mod documents;
