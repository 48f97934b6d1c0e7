//! Senders who mean ill, with the rights of a buyer.

use crate::support::sale::{TIME_MAX, assert_passed, endpoints, workers};
use loadtest::{
    run::{self, Sale},
    schedule::Scenario,
};

#[tokio::test]
async fn a_sender_of_everything_that_is_made_to_hurt_changes_nothing_for_the_buyers() {
    let scenario = Scenario { buyers: 600, items: 5, stock: 200, quantities: 1..=1, rate: 200.0, seed: 3 };
    let mut sale = Sale::of(scenario, workers(2, None).await, TIME_MAX);
    sale.faults.hostile_rate = 300;
    let outcome = run::start(&endpoints().await, sale).await.unwrap().finish().await.unwrap();
    assert_passed(&outcome);
    assert!(outcome.hostile_messages > 300, "{}", outcome.hostile_messages);
}
