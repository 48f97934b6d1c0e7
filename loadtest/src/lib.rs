//! The load generator: one sale on real servers, its auditor and its report.
//!
//! A [`schedule`] is worked out before the first message; [`run`] has [`workers`] and [`buyers`] carry it out, and
//! [`faults`] happen; the auditor holds what the database says against the [`answers`]. The [`result`] is printed by
//! [`summary`] and made a page by [`report`]. [`cli`] is the command line, and [`commands`] does what it says.

pub mod answers;
pub mod auditor;
pub mod buyers;
mod ceiling;
pub mod cli;
pub mod commands;
pub mod compare;
pub mod contend;
pub mod cost;
mod database;
pub mod doors;
pub mod facts;
pub mod failure;
pub mod faults;
pub mod life;
pub mod machine;
mod output;
pub mod programs;
mod progress;
pub mod queues;
mod random;
pub mod report;
pub mod result;
pub mod run;
pub mod schedule;
pub mod servers;
pub mod stats;
pub mod strategy;
pub mod summary;
pub mod workers;
