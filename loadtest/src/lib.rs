//! The load generator: one sale on real servers, its audit and its report.
//!
//! A [`schedule`] is worked out before the first message; [`run`] has [`workers`] and [`buyers`] carry it out, and
//! [`faults`] happen; the auditor holds what the database says against the [`answers`]. The [`result`] is printed by
//! [`summary`] and made a page by [`report`]. [`mod@bench`] measures over many sales. [`cli`] is the command line, and [`commands`] does what it says.

// So that the fixtures name this crate as the tests outside of it do.
#[cfg(test)]
extern crate self as loadtest;

pub mod answers;
pub mod audit;
pub mod bench;
pub mod buyers;
mod ceiling;
pub mod cli;
pub mod commands;
mod database;
pub mod failure;
pub mod faults;
#[cfg(test)]
mod fixtures;
pub mod hostile;
mod http;
pub mod machine;
pub mod orders;
mod output;
pub mod programs;
mod progress;
pub mod queues;
mod random;
pub mod raw;
pub mod report;
pub mod result;
pub mod run;
pub mod schedule;
pub mod servers;
pub mod stats;
pub mod strategy;
pub mod summary;
mod up;
pub mod workers;
