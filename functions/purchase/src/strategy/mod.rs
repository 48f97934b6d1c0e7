//! Strategies.

pub mod redis;
