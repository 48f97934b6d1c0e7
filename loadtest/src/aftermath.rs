//! How long the buyers felt an event: from what was done to a worker to the verdict that shows it is over. Pure.
//!
//! Knows items, not partitions (those are the broker's affair): a worker was active on an item if it decided one of its
//! requests shortly before.

use std::collections::HashMap;
use std::time::Duration;

use crate::answers::Answers;
use crate::events::Action;
use crate::scenario::Schedule;

/// What a worker decided this shortly before the event, it was active on.
const RECENT: Duration = Duration::from_secs(1);

/// From the event, at `at` since the start of the sale, to the first verdict of the worker that was added; or, where one
/// went, until each item that it was active on has a verdict of another worker. For one hot item that is its partition's
/// next verdict; over many items it is an upper bound, as a quiet item waits for its next buyer, too. `None`: there was
/// none, or nothing to wait for.
#[must_use]
pub fn until_next_verdict(
    schedule: &Schedule,
    answers: &Answers,
    action: Action,
    worker: &str,
    at: Duration,
) -> Option<Duration> {
    // A worker that is not known by now never replied; then every reply is another's.
    let worker = answers.worker_ids.iter().position(|id| id == worker);
    let replied = schedule.requests.iter().zip(&answers.answers).filter(|(_, answer)| answer.body.is_some());
    let next = match action {
        Action::Add => replied.filter(|(_, answer)| Some(answer.worker) == worker).map(|(_, answer)| answer.at).min(),
        Action::Stop | Action::Kill | Action::Freeze => {
            let mut nexts: HashMap<u32, Option<Duration>> = replied
                .clone()
                .filter(|(_, answer)| {
                    Some(answer.worker) == worker && (at.saturating_sub(RECENT)..=at).contains(&answer.at)
                })
                .map(|(due, _)| (due.item, None))
                .collect();
            for (due, answer) in replied.filter(|(_, answer)| Some(answer.worker) != worker && answer.at > at) {
                if let Some(next) = nexts.get_mut(&due.item) {
                    *next = Some(next.map_or(answer.at, |next| next.min(answer.at)));
                }
            }
            nexts.into_values().flatten().max()
        }
        // Verdicts were under way past the node that died; which of those after it shows that it is over, is not told.
        Action::KillBroker | Action::KillRedis => None,
    };
    next.map(|next| next.saturating_sub(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    const KILLED_AT: Duration = Duration::from_millis(5_000);

    /// What happened: (item, worker, ms of the verdict).
    fn after(action: Action, worker: &str, verdicts: &[(u32, &str, u64)]) -> Option<u128> {
        let buyers = u32::try_from(verdicts.len()).unwrap();
        let scenario = Scenario { buyers, items: 3, stock: 3, quantities: 1..=1, rate: 0.0, seed: 1 };
        let mut schedule = Schedule::new(&scenario, "t");
        let mut answers = Answers::to(&schedule.requests);
        for (due, (item, worker, at_ms)) in schedule.requests.iter_mut().zip(verdicts) {
            due.item = *item;
            answers.record(&due.request_id.to_string(), worker, vec![], Duration::from_millis(*at_ms));
        }
        until_next_verdict(&schedule, &answers, action, worker, KILLED_AT).map(|after| after.as_millis())
    }

    #[test]
    fn a_newcomer_is_there_with_its_first_verdict() {
        let verdicts = [(0, "old", 4_000), (0, "new", 7_000), (1, "new", 6_200)];
        assert_eq!(after(Action::Add, "new", &verdicts), Some(1_200));
        assert_eq!(after(Action::Add, "never seen", &verdicts), None);
    }

    #[test]
    fn who_went_is_replaced_when_each_of_its_items_has_a_verdict_of_another() {
        let verdicts = [
            (0, "gone", 4_900),
            (1, "gone", 4_990),
            (2, "gone", 3_000),
            (0, "gone", 5_001),
            (0, "next", 5_300),
            (1, "next", 5_700),
            (1, "next", 5_900),
            (2, "next", 9_000),
        ];
        for action in [Action::Kill, Action::Stop, Action::Freeze] {
            assert_eq!(after(action, "gone", &verdicts), Some(700), "item 2 was not its own any more");
        }
        assert_eq!(after(Action::Kill, "next", &verdicts), None, "it was active on nothing");
    }
}
