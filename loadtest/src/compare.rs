//! Ways to sell, side by side: each strategy in each form, and the doors that they replace, beside the ceiling.
//!
//! The result is the `report`'s.

mod report;

pub use report::{ComparedScenario, Comparison, FailureKind, Form, Row, Versions};
