//! The one place for medians, percentiles and the latency curve. Pure.

use crate::answers::Answers;
use crate::failure::Failure;
use crate::schedule::Schedule;
use anyhow::Context;
use hdrhistogram::Histogram;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::time::Duration;

/// Latencies are counted in microseconds; three digits of them are exact.
const LATENCY_DIGITS: u8 = 3;
/// The longest latency that is told apart: a day, the longest timeout of a sale.
const LATENCY_US_MAX: u64 = 86_400_000_000;
/// Points of a latency curve for each time that the share of slower verdicts halves: some hundred points in all.
const CURVE_POINTS_PER_HALF: u32 = 5;

/// Milliseconds; all 0 where nobody got a verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// This percentage of the verdicts, 0 to 100, came within so many milliseconds. In JSON a pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CurvePoint(pub f64, pub f64);

/// How long a sale took, in the keys of its result.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Timing {
    /// From the first intended send to the last verdict.
    pub seconds: f64,
    pub purchases_per_second: f64,
    /// From the intended send to the verdict.
    pub latency_ms: Latency,
    pub latency_curve: Vec<CurvePoint>,
}

/// The pace of other sales that a sale is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reference {
    pub seconds: f64,
    pub purchases_per_second: f64,
    /// The sale's own purchases per second by these; `null` without a sale, or a pace.
    pub ratio: Option<f64>,
}

impl Timing {
    pub fn of(schedule: &Schedule, answers: &Answers) -> Self {
        let mut histogram = histogram();
        let mut last = Duration::ZERO;
        for (due, answer) in schedule.requests.iter().zip(&answers.answers) {
            if answer.body.is_some() {
                last = last.max(answer.at);
                record(&mut histogram, answer.at.saturating_sub(due.at));
            }
        }
        let first = schedule.requests.first().map_or(Duration::ZERO, |due| due.at);
        let seconds = last.saturating_sub(first).as_secs_f64();
        #[allow(clippy::cast_precision_loss)]
        let verdicts = histogram.len() as f64;
        Self {
            seconds: round(seconds, 1e6),
            purchases_per_second: if seconds > 0.0 { round(verdicts / seconds, 1e1) } else { 0.0 },
            latency_ms: Latency::of(&histogram),
            latency_curve: curve(&histogram),
        }
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile: f64| ms(histogram.value_at_quantile(quantile));
        Self {
            min: ms(histogram.min()),
            p50: at(0.50),
            p90: at(0.90),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: ms(histogram.max()),
        }
    }
}

impl FromIterator<Duration> for Latency {
    fn from_iter<Durations: IntoIterator<Item = Duration>>(durations: Durations) -> Self {
        let mut histogram = histogram();
        for duration in durations {
            record(&mut histogram, duration);
        }
        Self::of(&histogram)
    }
}

/// The one in the middle, or the mean of the two there; 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        length if length % 2 == 1 => values[middle],
        _even => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Of repetitions, the median of each figure by itself, so that one disturbed repetition of three changes none. What was
/// not measured once is unknown; a count is rounded up, so that one failure in two repetitions stays one.
pub(crate) fn medians<T: Serialize + DeserializeOwned>(repetitions: &[T]) -> Result<T, Failure> {
    let documents = repetitions.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>();
    let medians = documents.and_then(|documents| serde_json::from_value(median_of(&documents)));
    Ok(medians.context("take the medians")?)
}

fn median_of(documents: &[Value]) -> Value {
    if documents.iter().any(Value::is_null) {
        return Value::Null;
    }
    match documents.first() {
        Some(Value::Number(_)) => {
            let middle = median(&documents.iter().filter_map(Value::as_f64).collect::<Vec<_>>());
            #[allow(clippy::cast_possible_truncation)]
            if documents.iter().any(Value::is_f64) { round(middle, 1e6).into() } else { (middle.ceil() as i64).into() }
        }
        Some(Value::Object(_)) => {
            let keys: BTreeSet<&String> = documents.iter().filter_map(Value::as_object).flat_map(Map::keys).collect();
            let of = |key: &String| {
                // What did not occur in a repetition is not in its document.
                let figures = documents.iter().map(|document| document.get(key).cloned().unwrap_or(0.into()));
                median_of(&figures.collect::<Vec<_>>())
            };
            keys.into_iter().map(|key| (key.clone(), of(key))).collect()
        }
        // Names, which are the same in all.
        Some(other @ (Value::String(_) | Value::Bool(_) | Value::Array(_) | Value::Null)) => other.clone(),
        None => Value::Null,
    }
}

/// `value` to the nearest `1 / parts`, so that JSON shows no noise.
pub(crate) fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// The percentages at which the share of slower verdicts is halved, and some between; the last is 100.
fn curve(histogram: &Histogram<u64>) -> Vec<CurvePoint> {
    let points = histogram.iter_quantiles(CURVE_POINTS_PER_HALF);
    points.map(|point| CurvePoint(round(point.quantile() * 100.0, 1e6), ms(point.value_iterated_to()))).collect()
}

fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
}

#[allow(clippy::cast_precision_loss)]
fn ms(microseconds: u64) -> f64 {
    round(microseconds as f64 / 1e3, 1e3)
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_US_MAX, LATENCY_DIGITS).expect("three digits of a day are within its limits")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schedule::Scenario;

    #[test]
    fn a_latency_curve_rises_to_the_slowest_verdict_in_a_bounded_number_of_points() {
        let mut histogram = histogram();
        for microseconds in 1..=1_000_000 {
            histogram.saturating_record(microseconds);
        }
        let curve = curve(&histogram);
        assert!((50..=150).contains(&curve.len()), "{}", curve.len());
        assert!(curve.is_sorted_by(|one, next| one.0 <= next.0 && one.1 <= next.1), "{curve:?}");
        let CurvePoint(percentage, slowest) = curve[curve.len() - 1];
        assert!(percentage == 100.0 && (slowest - 1_000.0).abs() < 1.0, "{percentage} {slowest}");
    }

    #[test]
    fn latency_counts_from_the_intended_time_and_seconds_from_the_first_and_all_is_zero_before_an_answer() {
        let scenario = Scenario { buyers: 2, ..Scenario::default() };
        let mut schedule = Schedule::new(&scenario, "t");
        let mut answers = Answers::to(&schedule.requests);
        assert_eq!(Timing::of(&schedule, &answers), Timing::default());
        for (due, (at, answered)) in schedule.requests.iter_mut().zip([(1_000, 1_010), (1_500, 3_000)]) {
            due.at = Duration::from_millis(at);
            answers.record(&due.request_id.to_string(), "w", &[], Duration::from_millis(answered));
        }
        let timing = Timing::of(&schedule, &answers);
        assert_eq!((timing.seconds, timing.purchases_per_second), (2.0, 1.0));
        assert_eq!(timing.latency_ms.min, 10.0);
        assert!((timing.latency_ms.max - 1_500.0).abs() < 1.5, "{:?}", timing.latency_ms);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!((median(&[3.0, 1.0, 2.0]), median(&[4.0, 1.0]), median(&[])), (2.0, 2.5, 0.0));
    }

    #[test]
    fn medians_are_of_each_figure_by_itself_and_a_count_of_two_hides_no_one() {
        let document = |count: u64, ms: f64, known: Option<u64>, failures: Value| json!({ "count": count, "ms": ms, "known": known, "failures": failures, "name": "a", "all": [1] });
        let three = [
            document(3, 1.0, Some(1), json!({ "reset": 4 })),
            document(1, 30.5, Some(5), json!({ "reset": 4, "refused": 3 })),
            document(2, 20.0, Some(9), json!({ "refused": 9 })),
        ];
        let failures = json!({ "reset": 4, "refused": 3 });
        assert_eq!(medians(&three).unwrap(), document(2, 20.0, Some(5), failures));
        let two = [document(0, 0.1, Some(1), json!({})), document(1, 0.2, None, json!({}))];
        assert_eq!(medians(&two).unwrap(), document(1, 0.15, None, json!({})));
    }
}
