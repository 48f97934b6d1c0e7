//! Orders after their verdicts, by real processes of every function: paid, cancelled, expired, published; through crashes.

use crate::support::sale::{TIME_MAX, assert_passed, endpoints, result_of, workers};
use loadtest::{
    orders::{
        Orders,
        listener::Storage,
        plan::{Plan, Share},
    },
    programs,
    result::Outcome,
    run::{self, Sale},
    schedule::Scenario,
    servers::Endpoints,
};
use std::time::Duration;

/// A sale in which half of the buyers pay, some cancel, and the rest let a short hold run out.
async fn orders(decline: &str, failure: &str, seed: u64) -> Orders {
    let share = |text: &str| text.parse::<Share>().unwrap();
    Orders {
        plan: Plan {
            pay: share("50%"),
            cancel: share("10%"),
            hold: Some(Duration::from_secs(1)),
            decline: share(decline),
            gateway_failure: share(failure),
            gateway_latency: Duration::from_millis(20),
            seed,
        },
        functions: programs::functions().await.unwrap(),
        storage: Storage::Memory,
    }
}

async fn sell(endpoints: &Endpoints, scenario: &Scenario, orders: Orders, crashes: u32) -> Outcome {
    let mut sale = Sale::of(scenario.clone(), workers(2, None).await, TIME_MAX);
    (sale.orders, sale.faults.crashes) = (Some(orders), crashes);
    run::start(endpoints, sale).await.unwrap().finish().await.unwrap()
}

#[tokio::test]
async fn every_unit_of_a_sale_is_paid_for_or_comes_back_and_the_world_is_told() {
    let scenario = Scenario { buyers: 1_500, items: 3, stock: 240, quantities: 1..=2, rate: 600.0, seed: 7 };
    let outcome = sell(&endpoints().await, &scenario, orders("20%", "10%", 7).await, 0).await;
    assert_passed(&outcome);
    let life = outcome.life.unwrap();
    assert_eq!(life.paid + life.cancelled + life.expired, outcome.verdicts.reserved, "every order has ended");
    assert_eq!((life.held, life.charges - life.refunds), (0, life.paid));
    for some in [life.paid, life.cancelled, life.expired, life.declined, life.gateway_spoilt] {
        assert!(some > 0, "each way is taken: {life:?}");
    }
    assert!(outcome.verdicts.reserved > 160, "units that came back were sold again");
}

#[tokio::test]
async fn crashes_of_any_function_in_a_sale_with_payments_break_no_promise() {
    let scenario = Scenario { buyers: 3_000, items: 2, stock: 700, quantities: 1..=1, rate: 400.0, seed: 11 };
    let outcome = sell(&endpoints().await, &scenario, orders("10%", "10%", 11).await, 10).await;
    assert_passed(&outcome);
    assert_eq!(outcome.crashes.len(), 10);
    let crashed = |name: &str| outcome.crashes.iter().any(|crash| crash.worker.starts_with(name));
    assert!(["worker", "payment", "relay", "release"].into_iter().all(crashed), "{:?}", outcome.crashes);
}

#[tokio::test]
async fn the_life_shown_after_a_sale_is_told_step_by_step_and_true() {
    programs::functions().await.unwrap();
    let json = result_of(&endpoints().await, "run --buyers 50 --show-life --json -").await;
    let came: Vec<&str> = json["shown"].as_array().unwrap().iter().map(|step| step["came"].as_str().unwrap()).collect();
    assert_eq!(
        came.join(", "),
        "paid, event order.paid, reserved, sold_out, event order.expired, reserved, paid, event order.paid"
    );
}

#[tokio::test]
async fn a_sale_with_payments_is_compared_with_the_same_sale_without_them() {
    programs::functions().await.unwrap();
    let sale = "run --buyers 400 --stock 100 --pay-share 50% --hold 500ms --with-quiet --json -";
    let json = result_of(&endpoints().await, sale).await;
    let quiet = &json["life"]["quiet"];
    assert!(["seconds", "purchases_per_second", "ratio"].into_iter().all(|key| quiet[key].as_f64().unwrap() > 0.0));
    assert!(json["shown"].is_null() && json["crashes"].as_array().unwrap().is_empty());
}
