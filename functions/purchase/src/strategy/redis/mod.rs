//! The strategy that has Redis decide first: it counts the units, and PostgreSQL confirms.

mod counter;
mod fence;
mod link;

pub use counter::{Counter, RedisOptions};
