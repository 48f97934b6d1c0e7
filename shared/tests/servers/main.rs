//! Tests that need real servers: one binary, a module for each part of `shared`.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test, also in what tests share")]

mod buyer;
mod database;
mod devstack;
mod topology;
mod users;
mod worker;
