//! Orders after their verdicts, by real processes of every function: paid, cancelled, expired, published; through crashes.

use crate::support::sale::{TIME_MAX, assert_in_arrays, assert_passed, endpoints, private_servers, result_of, workers};
use clap::ValueEnum;
use loadtest::faults::{Draw, FaultKind, PrivateBroker};
use loadtest::orders::Orders;
use loadtest::orders::listener::Storage;
use loadtest::orders::plan::{Plan, Share};
use loadtest::programs;
use loadtest::run::{self, Sale};
use loadtest::schedule::Scenario;
use shared::devstack::Servers;
use std::collections::BTreeMap;

/// Each of these takes seconds.
const FEW_ALONE: [FaultKind; 3] = [FaultKind::BrokerRestart, FaultKind::DatabaseRestart, FaultKind::MemoryAlarm];

/// Half of the buyers pay, some cancel, and the rest let a hold run out that is short beside the sale, and long beside the
/// second or two that a busy machine takes to pay.
async fn sale_with_payments(scenario: Scenario, draws: Vec<Draw>) -> Sale<'static> {
    let share = |text: &str| text.parse::<Share>().unwrap();
    let plan = Plan {
        pay_share: Some(share("50%")),
        cancel_share: Some(share("10%")),
        hold_ms: Some(3_000),
        decline_share: share("10%"),
        gateway_failure_share: share("10%"),
        gateway_latency_ms: 20,
        seed: 11,
    };
    let functions = programs::functions().await.unwrap();
    let mut sale = Sale::of(scenario, workers(2, None).await, TIME_MAX);
    sale.orders = Some(Orders { plan, functions, storage: Storage::Disk });
    sale.faults.draws = draws;
    sale
}

#[tokio::test]
async fn crashes_of_any_function_in_a_sale_with_payments_break_no_promise() {
    let of_two = Scenario { buyers: 3_000, items: 2, stock: 700, rate: 400.0, seed: 11, ..Scenario::default() };
    assert_survives_crashes(of_two.clone()).await;
    // Four times as many, so that workers who take them in bursts are busy when they are killed; with no more to pay.
    let (buyers, rate, burst_ms, requests_per_message) = (12_000, 1_600.0, 100, 50);
    assert_survives_crashes(Scenario { buyers, rate, burst_ms, requests_per_message, ..of_two }).await;
}

async fn assert_survives_crashes(scenario: Scenario) {
    let sale = sale_with_payments(scenario, vec![Draw { count: 10, kinds: vec![FaultKind::Kill] }]).await;
    let outcome = run::start(&endpoints().await, sale).await.unwrap().finish().await.unwrap();
    assert_passed(&outcome);
    assert_in_arrays(&outcome);
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
async fn a_few_faults_of_every_kind_in_a_sale_with_payments_break_no_promise() {
    let (mut servers, endpoints) = private_servers(1).await;
    let few = |&kind| Draw { count: if FEW_ALONE.contains(&kind) { 1 } else { 3 }, kinds: vec![kind] };
    let draws: Vec<Draw> = FaultKind::value_variants().iter().map(few).collect();
    let scenario = Scenario { buyers: 3_000, items: 4, stock: 1_400, rate: 200.0, seed: 11, ..Scenario::default() };
    let mut sale = sale_with_payments(scenario, draws.clone()).await;
    let Servers { rabbitmq, postgres, .. } = &mut servers;
    sale.faults.broker = Some(PrivateBroker { rabbitmq, vhost: "/" });
    sale.faults.postgres = Some(postgres);
    let outcome = run::start(&endpoints, sale).await.unwrap().finish().await.unwrap();
    assert_passed(&outcome);
    let expected: BTreeMap<FaultKind, u32> = draws.iter().map(|draw| (draw.kinds[0], draw.count)).collect();
    assert_eq!(outcome.faults, expected);
    assert_eq!(outcome.life.unwrap().held, 0);
    servers.stop().await.unwrap();
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
