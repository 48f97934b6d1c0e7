//! How long verdicts took, as a few figures and as a curve. Pure.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::round;

/// Latencies are counted in microseconds; three digits of them are exact.
const LATENCY_DIGITS: u8 = 3;

/// The longest latency that is told apart: a day, the longest that buyers wait.
const LATENCY_US_MAX: u64 = 86_400_000_000;

/// Points of a latency curve for each time that the share of slower verdicts halves: with the [`LATENCY_US_MAX`] and a million
/// buyers some hundred points in all.
const CURVE_POINTS_PER_HALF: u32 = 5;

/// Milliseconds; all 0 where nobody got a verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Latency {
    /// The quickest verdict.
    pub min: f64,
    /// Half of the verdicts came within this.
    pub p50: f64,
    /// 90 % did.
    pub p90: f64,
    /// 95 % did.
    pub p95: f64,
    /// 99 % did.
    pub p99: f64,
    /// 99.9 % did.
    pub p999: f64,
    /// The slowest verdict.
    pub max: f64,
}

/// This percentage of the verdicts, 0 to 100, came within so many milliseconds. In JSON a pair.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CurvePoint(pub f64, pub f64);

impl Latency {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
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

/// The percentages at which the share of slower verdicts is halved, and some between; the last is 100.
pub(super) fn curve(histogram: &Histogram<u64>) -> Vec<CurvePoint> {
    let points = histogram.iter_quantiles(CURVE_POINTS_PER_HALF);
    points.map(|point| CurvePoint(round(point.quantile() * 100.0, 1e6), ms(point.value_iterated_to()))).collect()
}

/// Notes a latency; one beyond the longest counts as that.
pub(super) fn record(histogram: &mut Histogram<u64>, latency: Duration) {
    histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
}

#[allow(clippy::cast_precision_loss)]
fn ms(microseconds: u64) -> f64 {
    round(microseconds as f64 / 1e3, 1e3)
}

pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(LATENCY_US_MAX, LATENCY_DIGITS).expect("three digits of a day are within its limits")
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
