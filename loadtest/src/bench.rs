//! What is measured beyond one sale: each is a plan and a table over the same run.

pub mod baseline;
