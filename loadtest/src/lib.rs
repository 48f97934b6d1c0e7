//! The load generator: one sale on real servers, its audit and its report.
//!
//! A [`scenario`] is worked out before the first message; [`buyers`] send it and keep the [`answers`]; a [`round`] runs
//! them against [`workers`] and watches the queues; a [`sale`] is a round with a database behind it, whose state the
//! [`audit`] holds against the answers; [`orders`] is what becomes of the orders after that; [`events`] and [`crashes`] are
//! what happens to the workers meanwhile; the [`outcome`] is printed by [`summary`] and made a page by [`report`]; [`cost`] is what purchases take of the
//! machines, over many sales; [`doors`] are what all this replaces; [`contend`] shows what conflicts cost. [`run`] is the command line.

pub mod aftermath;
pub mod answers;
pub mod audit;
pub mod buyers;
mod ceiling;
pub mod cluster;
pub mod compare;
pub mod contend;
pub mod cost;
pub mod crashes;
mod depth;
pub mod doors;
pub mod events;
pub mod failure;
pub mod machine;
pub mod options;
pub mod orders;
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
