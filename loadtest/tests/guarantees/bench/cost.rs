//! What `loadtest cost` measures, on a run that is as small as can be: that every figure is there and they fit together.

use crate::support::sale::{assert_fails, endpoints, none_given, number, result_of};
use crate::support::shop::purchase_program;
use serde_json::Value;

/// What a batch takes at least: the items, the known request ids, the commit.
const ROUND_TRIPS_PER_BATCH: f64 = 3.0;

#[tokio::test]
async fn cost_tells_what_a_purchase_takes_of_each_and_compares_empty_tables_with_full_ones() {
    let sales = "--buyers=5000 --buyers=10000 --items=9 --requests-per-message=10 --verdicts-before=2000 \
                 --items-before=10 --repetitions=2";
    let cost = result_of(&none_given(), &cost(sales).await).await;
    assert_eq!((cost["passed"].as_bool(), cost["workers"].as_u64()), (Some(true), Some(1)));
    assert_eq!(cost["broken"].as_array().map(Vec::len), Some(0));

    let steps = cost["steps"].as_array().unwrap();
    let sizes = steps.iter().map(|step| ["items", "buyers", "requests_per_message"].map(|of| number(&step[of])));
    let beside_alone = [5_000.0, 10_000.0].into_iter().flat_map(|buyers| [1.0, 10.0].map(|of| [9.0, buyers, of]));
    assert!(sizes.eq(beside_alone), "each beside one a message: {steps:#?}");
    // The sale that warms everything up is on record before the first step.
    let mut recorded = 1_000.0;
    for step in steps {
        assert_eq!(number(&step["verdicts_before"]), recorded, "{step:#}");
        recorded += number(&step["buyers"]) * number(&step["sales"]);
        assert_consistent(step, number(&step["buyers"]));
    }

    assert_eq!((number(&cost["age"]["verdicts"]), number(&cost["age"]["items"])), (2_000.0, 10.0));
    let comparisons = cost["age"]["comparisons"].as_array().unwrap();
    assert_eq!(comparisons.len(), 1, "one for each number of items");
    for comparison in comparisons {
        assert_eq!(number(&comparison["buyers"]), 10_000.0, "the largest sale of the steps");
        let [empty, full] = ["empty", "full"].map(|tables| {
            assert_consistent(&comparison[tables], 10_000.0);
            let paces = comparison[format!("{tables}_purchases_per_second")].as_array().unwrap();
            paces.iter().map(number).collect::<Vec<_>>()
        });
        assert_eq!((empty.len(), full.len()), (2, 2), "{comparison:#}");
        assert!(number(&comparison["cpu_ratio"]) > 0.0, "{comparison:#}");
        let mean = (full[0] / empty[0] + full[1] / empty[1]) / 2.0;
        assert!((number(&comparison["ratio"]) - mean).abs() < 0.01, "{comparison:#}");
    }
}

#[tokio::test]
async fn servers_of_others_are_measured_as_far_as_they_can_be_and_never_filled() {
    let given = endpoints().await;
    let cost_of_given = result_of(&given, &cost("--buyers=10000 --items=1").await).await;
    let step = &cost_of_given["steps"][0];
    let cpu = &step["cpu_us_per_purchase"];
    assert!(cpu["broker"].is_null() && cpu["database"].is_null(), "nobody said which processes these are: {cpu}");
    assert!(number(&cpu["workers"]) > 0.0 && number(&step["messages_per_batch"]) >= 1.0, "{step:#}");
    assert!(cost_of_given["age"].is_null());

    assert_fails(&given, &cost("--verdicts-before=10").await, 78, "private servers only").await;
}

/// Every figure is there, is more than nothing, and fits the others.
fn assert_consistent(sales: &Value, buyers: f64) {
    for role in ["broker", "workers", "database", "buyers"] {
        let cpu = sales["cpu_us_per_purchase"][role].as_f64();
        assert!(cpu.is_some_and(|cpu| cpu > 0.0), "{role}: {sales:#}");
    }
    assert!(number(&sales["purchases_per_second"]) > 0.0, "{sales:#}");
    assert!(sales["queue_depth_peak"].is_u64(), "{sales:#}");
    assert!(number(&sales["workers_rss_mib"]) > 1.0, "{sales:#}");
    // A verdict's reply alone has hundreds of bytes, and is logged before it is sent.
    assert!(number(&sales["wal_bytes_per_purchase"]) > 300.0, "{sales:#}");
    let (batch, round_trips) = (number(&sales["messages_per_batch"]), number(&sales["round_trips_per_purchase"]));
    assert!(batch >= 1.0 && batch <= buyers, "{sales:#}");
    // Rounding aside; and the server's own housekeeping is among its transactions.
    assert!(round_trips * batch > ROUND_TRIPS_PER_BATCH * 0.9, "{sales:#}");
}

/// With one worker, for JSON alone.
async fn cost(arguments: &str) -> String {
    format!("cost --workers=1 --json=- --worker-program {} {arguments}", purchase_program().await.display())
}
