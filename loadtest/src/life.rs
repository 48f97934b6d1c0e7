//! An order's life after its verdict, as the load generator plays it: who pays and who cancels ([`plan`]), the payment
//! gateway that takes the money ([`gateway`]), what the world is told ([`listener`]), and how all of it ended ([`facts`]);
//! [`living`] is all of it at work beside a sale, [`show`] is two orders' lives for people to see.
//!
//! Invariant: whatever is chosen follows from the sale's seed; and the gateway, which is the shop's provider and none of
//! ours to believe, keeps its own books.

pub mod events;
pub mod facts;
pub mod follow_ups;
pub mod gateway;
pub mod ledger;
pub mod listener;
pub mod living;
mod patron;
pub mod plan;
pub mod report;
pub mod show;
