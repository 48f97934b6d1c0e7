//! From the repetitions of a row to its figures. Pure.
//!
//! Invariant: each figure is the median of its own, so that one disturbed repetition of three changes none; only what must
//! never happen is the most of all.

use std::collections::BTreeMap;

use super::counted::Counted;
use super::plan::Contender;
use super::report::{AtDoor, Row};
use crate::audit::Invariant;
use crate::doors::DoorOutcome;
use crate::outcome::{Latency, Outcome, median, round};

/// The promise that some rows do not make: see [`Contender::keeps_order`].
const ORDER: &str = "first_come_first_served";

/// How a row went once.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Repetition {
    pub(super) sold: u64,
    pub(super) refused: u64,
    pub(super) failures: BTreeMap<&'static str, u64>,
    pub(super) stalled: Option<u64>,
    pub(super) crowd_lag_ms: Option<f64>,
    pub(super) seconds: f64,
    pub(super) purchases_per_second: f64,
    pub(super) latency_ms: Latency,
    /// Decisions that were tried, and those of them that met a conflict.
    pub(super) attempts: Option<(u64, u64)>,
    pub(super) counted: Option<Counted>,
    pub(super) order_inversions: u64,
    pub(super) oversold: u64,
    pub(super) door: Option<AtDoor>,
    /// Promises that it broke, each with what is known about it.
    pub(super) broken: Vec<String>,
}

impl Repetition {
    /// On the queue; `counted` where a database took part.
    pub(super) fn of_sale(contender: &Contender, outcome: &Outcome, counted: Option<Counted>) -> Self {
        let verdicts = outcome.verdicts;
        let failures = [("lost", outcome.lost), ("invalid", verdicts.invalid)];
        let attempts = (outcome.attempts.unsigned_abs(), outcome.conflicts.unsigned_abs());
        Self {
            sold: verdicts.reserved,
            refused: verdicts.sold_out + verdicts.refused,
            failures: failures.into_iter().filter(|(_, count)| *count > 0).collect(),
            stalled: None,
            crowd_lag_ms: None,
            seconds: outcome.seconds,
            purchases_per_second: outcome.purchases_per_second,
            latency_ms: outcome.latency_ms,
            attempts: counted.map(|_| attempts),
            counted,
            order_inversions: outcome.order_inversions,
            oversold: outcome.oversold,
            door: None,
            broken: broken(contender, &outcome.invariants),
        }
    }

    /// By HTTP. That buyers fail there is a figure and no broken promise; that more is sold than there is, or that a buyer is
    /// not accounted for, is one.
    pub(super) fn of_door(contender: &Contender, outcome: &DoorOutcome, counted: Counted) -> Self {
        let accounted = outcome.sold + outcome.sold_out + outcome.failed();
        let mut broken = Vec::new();
        if outcome.oversold > 0 {
            broken.push(format!("never_oversold: {} units beyond the stock", outcome.oversold));
        }
        if outcome.sold_without_order > 0 {
            broken.push(format!("every_buyer_told_the_truth: {} sold, and no order", outcome.sold_without_order));
        }
        if accounted != u64::from(contender.buyers) {
            broken.push(format!("every_buyer_accounted_for: {accounted} of {}", contender.buyers));
        }
        Self {
            sold: outcome.sold,
            refused: outcome.sold_out,
            failures: outcome.failures.iter().map(|(kind, count)| (kind.as_str(), *count)).collect(),
            stalled: Some(outcome.stalled),
            crowd_lag_ms: Some(outcome.crowd_lag_ms),
            seconds: outcome.seconds,
            purchases_per_second: outcome.answers_per_second,
            latency_ms: outcome.latency_ms,
            attempts: Some((outcome.attempts, outcome.conflicts)),
            counted: Some(counted),
            order_inversions: outcome.order_inversions,
            oversold: outcome.oversold,
            door: Some(AtDoor {
                pool_wait_ms_per_purchase: outcome.pool_wait_ms / f64::from(contender.buyers.max(1)),
                pool_timeouts: outcome.pool_timeouts,
                lock_timeouts: outcome.lock_timeouts,
                untold: outcome.untold,
                zombie_units: outcome.zombie_units,
                syn_drops: outcome.syn_drops,
                syn_retransmits: outcome.syn_retransmits,
            }),
            broken,
        }
    }
}

/// The promises that this contender makes, and did not keep.
fn broken(contender: &Contender, invariants: &[Invariant]) -> Vec<String> {
    let promised = |invariant: &&Invariant| contender.keeps_order() || invariant.name != ORDER;
    let broken = invariants.iter().filter(promised).filter(|invariant| !invariant.holds);
    broken.map(|invariant| format!("{}: {}", invariant.name, invariant.detail)).collect()
}

/// The row of this contender; its ratio is the caller's to fill in, who knows the ceiling.
pub(super) fn row(contender: &Contender, competing: u32, repetitions: &[Repetition]) -> Row {
    let buyers = f64::from(contender.buyers);
    let decimal = |of: fn(&Repetition) -> f64, parts| round(median(&all(repetitions, of)), parts);
    let count = |of: &dyn Fn(&Repetition) -> u64| whole_median(repetitions.iter().map(of));
    let kinds = repetitions.iter().flat_map(|repetition| repetition.failures.keys().copied());
    let failures = kinds.map(|kind| (kind, count(&|repetition| repetition.failures.get(kind).copied().unwrap_or(0))));
    let per_sale = |of: fn((u64, u64)) -> u64| {
        #[allow(clippy::cast_precision_loss)]
        let of = |repetition: &Repetition| Some(of(repetition.attempts?) as f64 / repetition.sold as f64);
        known(repetitions, of).filter(|figure| figure.is_finite()).map(|figure| round(figure, 1e3))
    };
    #[allow(clippy::cast_precision_loss)]
    let per_purchase = |of: fn(&Counted) -> Option<f64>| {
        known(repetitions, |repetition| of(repetition.counted.as_ref()?)).map(|sum| round(sum / buyers, 1e5))
    };
    Row {
        buyers: contender.buyers,
        name: contender.name(),
        form: contender.form,
        strategy: contender.strategy,
        batch_max: contender.batch_max(),
        in_flight: contender.in_flight(competing),
        repetitions: u32::try_from(repetitions.len()).unwrap_or(u32::MAX),
        sold: count(&|repetition| repetition.sold),
        refused: count(&|repetition| repetition.refused),
        failed: count(&|repetition| repetition.failures.values().sum()),
        failures: failures.filter(|(_, count)| *count > 0).collect(),
        stalled: repetitions
            .iter()
            .all(|repetition| repetition.stalled.is_some())
            .then(|| count(&|repetition| repetition.stalled.unwrap_or(0))),
        crowd_lag_ms: known(repetitions, |repetition| repetition.crowd_lag_ms).map(|ms| round(ms, 1e1)),
        seconds: decimal(|repetition| repetition.seconds, 1e6),
        purchases_per_second: decimal(|repetition| repetition.purchases_per_second, 1e1),
        ratio: None,
        runs: all(repetitions, |repetition| round(repetition.purchases_per_second, 1e1)),
        latency_ms: latency(repetitions),
        attempts_per_sale: per_sale(|(attempts, _)| attempts),
        conflicts_per_sale: per_sale(|(_, conflicts)| conflicts),
        rollbacks_per_purchase: per_purchase(|counted| Some(counted.rollbacks as f64)),
        round_trips_per_purchase: per_purchase(|counted| counted.statements.map(|statements| statements as f64)),
        connection_ms_per_purchase: per_purchase(|counted| counted.connection_ms),
        order_inversions: count(&|repetition| repetition.order_inversions),
        oversold: repetitions.iter().map(|repetition| repetition.oversold).max().unwrap_or(0),
        door: at_door(repetitions),
    }
}

/// The median of each figure, where every repetition was at a door.
fn at_door(repetitions: &[Repetition]) -> Option<AtDoor> {
    let doors: Vec<AtDoor> = repetitions.iter().map(|repetition| repetition.door).collect::<Option<_>>()?;
    let count = |of: fn(&AtDoor) -> u64| whole_median(doors.iter().map(of));
    let waits: Vec<f64> = doors.iter().map(|door| door.pool_wait_ms_per_purchase).collect();
    Some(AtDoor {
        pool_wait_ms_per_purchase: round(median(&waits), 1e1),
        pool_timeouts: count(|door| door.pool_timeouts),
        lock_timeouts: count(|door| door.lock_timeouts),
        untold: count(|door| door.untold),
        zombie_units: count(|door| door.zombie_units),
        syn_drops: count(|door| door.syn_drops),
        syn_retransmits: count(|door| door.syn_retransmits),
    })
}

fn all(repetitions: &[Repetition], of: impl Fn(&Repetition) -> f64) -> Vec<f64> {
    repetitions.iter().map(of).collect()
}

/// The median, where every repetition has a value.
fn known(repetitions: &[Repetition], of: impl Fn(&Repetition) -> Option<f64>) -> Option<f64> {
    let values: Option<Vec<f64>> = repetitions.iter().map(of).collect();
    values.filter(|values| !values.is_empty()).map(|values| median(&values))
}

/// Of an even number of counts the mean of the two in the middle, rounded up: one failure in two repetitions stays one.
fn whole_median(counts: impl Iterator<Item = u64>) -> u64 {
    let mut counts: Vec<u64> = counts.collect();
    counts.sort_unstable();
    match counts.len() {
        0 => 0,
        length if length % 2 == 1 => counts[length / 2],
        length => (counts[length / 2 - 1] + counts[length / 2]).div_ceil(2),
    }
}

fn latency(repetitions: &[Repetition]) -> Latency {
    let ms = |of: fn(&Latency) -> f64| round(median(&all(repetitions, |repetition| of(&repetition.latency_ms))), 1e3);
    Latency {
        min: ms(|latency| latency.min),
        p50: ms(|latency| latency.p50),
        p90: ms(|latency| latency.p90),
        p95: ms(|latency| latency.p95),
        p99: ms(|latency| latency.p99),
        p999: ms(|latency| latency.p999),
        max: ms(|latency| latency.max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Form;
    use crate::strategy::Strategy;

    fn contender(form: Form) -> Contender {
        Contender { buyers: 100, form, strategy: Some(Strategy::Optimistic) }
    }

    fn repetition(purchases_per_second: f64) -> Repetition {
        let counted = Counted { rollbacks: 10, connection_ms: Some(250.0), statements: Some(400) };
        Repetition {
            sold: 50,
            refused: 50,
            seconds: 0.5,
            purchases_per_second,
            attempts: Some((150, 25)),
            counted: Some(counted),
            ..Repetition::default()
        }
    }

    #[test]
    fn figures_are_medians_by_what_was_sold_or_asked_for() {
        let row = row(&contender(Form::Competing), 16, &[repetition(300.0), repetition(1.0), repetition(200.0)]);
        assert_eq!((row.purchases_per_second, row.runs), (200.0, vec![300.0, 1.0, 200.0]));
        assert_eq!((row.attempts_per_sale, row.conflicts_per_sale), (Some(3.0), Some(0.5)));
        assert_eq!((row.rollbacks_per_purchase, row.round_trips_per_purchase), (Some(0.1), Some(4.0)));
        assert_eq!((row.connection_ms_per_purchase, row.in_flight, row.batch_max), (Some(2.5), Some(16), None));
    }

    #[test]
    fn what_was_not_measured_once_or_has_nothing_to_be_shared_by_is_unknown() {
        let unmeasured = Repetition { counted: None, attempts: None, ..repetition(1.0) };
        let row_of = |repetitions: &[Repetition]| row(&contender(Form::Batched), 16, repetitions);
        let unknown = row_of(&[repetition(1.0), unmeasured]);
        assert_eq!((unknown.rollbacks_per_purchase, unknown.attempts_per_sale), (None, None));
        assert_eq!(row_of(&[Repetition { sold: 0, ..repetition(1.0) }]).attempts_per_sale, None);
    }

    #[test]
    fn failures_are_told_by_kind_and_what_must_never_happen_is_never_averaged_away() {
        let failing = |refused: u64, oversold| Repetition {
            failures: [("refused", refused), ("reset", 4)].into(),
            stalled: Some(7),
            oversold,
            ..repetition(1.0)
        };
        let row = row(&contender(Form::Http), 16, &[failing(1, 0), failing(3, 2), failing(9, 0)]);
        assert_eq!((row.failed, row.failures), (7, [("refused", 3), ("reset", 4)].into()));
        assert_eq!((row.stalled, row.oversold), (Some(7), 2));
    }

    #[test]
    fn of_two_counts_the_median_does_not_hide_one() {
        assert_eq!((whole_median([0, 1].into_iter()), whole_median([0, 0, 9].into_iter())), (1, 0));
        assert_eq!(whole_median([].into_iter()), 0);
    }

    #[test]
    fn order_is_promised_by_whoever_does_not_compete_and_everything_else_by_everybody() {
        let invariant = |name, holds| Invariant { name, holds, detail: "2: a, b".into() };
        let invariants = [invariant(ORDER, false), invariant("never_oversold", false), invariant("nothing_lost", true)];
        let broken = |form| broken(&contender(form), &invariants);
        assert_eq!(broken(Form::Competing), ["never_oversold: 2: a, b"]);
        for form in [Form::Ceiling, Form::Batched, Form::OneByOne] {
            assert_eq!(broken(form), ["first_come_first_served: 2: a, b", "never_oversold: 2: a, b"]);
        }
    }

    #[test]
    fn a_door_that_sells_too_much_or_loses_a_buyer_breaks_a_promise_and_one_that_fails_buyers_does_not() {
        let door = |outcome| Repetition::of_door(&contender(Form::Http), &outcome, Counted::default()).broken;
        let kind = crate::doors::FailureKind::Reset;
        let sound = DoorOutcome { sold: 40, sold_out: 30, failures: [(kind, 30)].into(), ..DoorOutcome::default() };
        assert_eq!(door(sound.clone()), [""; 0]);
        assert_eq!(door(DoorOutcome { oversold: 1, ..sound.clone() }).len(), 1);
        assert_eq!(door(DoorOutcome { sold: 39, ..sound }), ["every_buyer_accounted_for: 99 of 100"]);
    }
}
