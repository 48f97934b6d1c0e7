//! Orders after their verdicts, by real processes of every function: paid, cancelled, expired, published; through crashes.

use crate::support::sale::{TIME_MAX, assert_passed, endpoints, result_of, workers};
use loadtest::{
    orders::{
        Orders,
        listener::Storage,
        plan::{Plan, Share},
    },
    programs,
    run::{self, Sale},
    schedule::Scenario,
};

#[tokio::test]
async fn crashes_of_any_function_in_a_sale_with_payments_break_no_promise() {
    let share = |text: &str| text.parse::<Share>().unwrap();
    // Half of the buyers pay, some cancel, and the rest let a short hold run out.
    let plan = Plan {
        pay_share: Some(share("50%")),
        cancel_share: Some(share("10%")),
        hold_ms: Some(1_000),
        decline_share: share("10%"),
        gateway_failure_share: share("10%"),
        gateway_latency_ms: 20,
        seed: 11,
    };
    let functions = programs::functions().await.unwrap();
    let scenario = Scenario { buyers: 3_000, items: 2, stock: 700, quantities: 1..=1, rate: 400.0, seed: 11 };
    let mut sale = Sale::of(scenario, workers(2, None).await, TIME_MAX);
    sale.orders = Some(Orders { plan, functions, storage: Storage::Memory });
    sale.faults.crashes = 10;
    let outcome = run::start(&endpoints().await, sale).await.unwrap().finish().await.unwrap();
    assert_passed(&outcome);
    assert_eq!(outcome.crashes.len(), 10);
    let crashed = |name: &str| outcome.crashes.iter().any(|crash| crash.worker.starts_with(name));
    assert!(["worker", "payment", "relay", "release"].into_iter().all(crashed), "{:?}", outcome.crashes);

    let life = outcome.life.unwrap();
    assert_eq!(life.paid + life.cancelled + life.expired, outcome.audit.verdicts.reserved, "every order has ended");
    assert_eq!((life.held, life.charges - life.refunds), (0, life.paid));
    for some in [life.paid, life.cancelled, life.expired, life.declined, life.gateway_spoilt] {
        assert!(some > 0, "each way is taken: {life:?}");
    }
    assert!(outcome.audit.verdicts.reserved > 700, "units that came back were sold again");
}

#[tokio::test]
async fn a_sale_with_payments_is_set_beside_one_without_them_and_the_life_shown_is_told_step_by_step() {
    programs::functions().await.unwrap();
    let endpoints = endpoints().await;
    let sale = "run --buyers 400 --stock 100 --pay-share 50% --hold 500ms --with-quiet --json -";
    let json = result_of(&endpoints, sale).await;
    let quiet = &json["life"]["quiet"];
    assert!(["seconds", "purchases_per_second", "ratio"].into_iter().all(|key| quiet[key].as_f64().unwrap() > 0.0));
    assert!(json["shown"].is_null() && json["crashes"].as_array().unwrap().is_empty());

    let json = result_of(&endpoints, "run --buyers 50 --show-life --json -").await;
    let came: Vec<&str> = json["shown"].as_array().unwrap().iter().map(|step| step["came"].as_str().unwrap()).collect();
    assert_eq!(
        came.join(", "),
        "paid, event order.paid, reserved, sold_out, event order.expired, reserved, paid, event order.paid"
    );
}
