//! The load generator: one sale on real servers, its auditor and its report.
//!
//! A [`scenario`] is worked out before the first message; [`buyers`] send it and keep the [`answers`]; a [`round`] runs
//! them against [`workers`] and watches the queues; a [`sale`] is a round with a database behind it, whose [`facts`] the
//! [`auditor`] holds against the answers; [`life`] is what becomes of the orders after that; [`events`] and [`crashes`] are
//! what happens to the workers meanwhile; the [`outcome`] is printed by [`summary`] and made a page by [`report`]; [`cost`] is what purchases take of the
//! machines, over many sales; [`bench`] has what all this replaces; [`contend`] shows what conflicts cost. [`run`] is the command line.

// So that the fixtures name this crate as the tests outside of it do.
#[cfg(test)]
extern crate self as loadtest;

pub mod aftermath;
pub mod answers;
pub mod auditor;
pub mod bench;
pub mod buyers;
mod ceiling;
pub mod cluster;
pub mod compare;
pub mod contend;
pub mod cost;
pub mod crashes;
mod depth;
pub mod events;
pub mod facts;
pub mod failure;
#[cfg(test)]
#[path = "../tests/system/fixtures.rs"]
mod fixtures;
pub mod life;
pub mod machine;
pub mod options;
pub mod outcome;
pub mod probe;
pub mod programs;
mod progress;
mod random;
mod readings;
pub mod report;
pub mod round;
pub mod run;
pub mod sale;
pub mod scenario;
pub mod strategy;
pub mod summary;
mod unrest;
pub mod workers;
