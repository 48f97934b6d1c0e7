//! Who works, and what they decided, out of what workers say of themselves. Pure.

use shared::amqp::Worker;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// More are not remembered: those that were heard least lately go first, and what they decided with them.
const WORKERS_MAX: usize = 1_000;
/// Who was not heard for so long, or for twice as long as it took the last time, is gone.
const SILENT_MIN: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub(super) struct Workers {
    by_process: HashMap<String, Heard>,
}

#[derive(Debug)]
struct Heard {
    worker: Worker,
    at: Instant,
    /// How long after the time before.
    took: Duration,
    /// How many verdicts of each code a second, since the time before.
    pace: BTreeMap<String, f64>,
}

/// How many verdicts there are of a code.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Counted {
    pub(super) total: u64,
    pub(super) per_second: f64,
}

impl Workers {
    pub(super) fn heard(&mut self, worker: Worker, now: Instant) {
        let before = self.by_process.get(&worker.process);
        let took = before.map(|before| now - before.at).filter(|took| !took.is_zero()).unwrap_or(SILENT_MIN);
        let since = |(code, total): (&String, &u64)| {
            // The first word says how many, but not in which time.
            let before = before.map_or(*total, |before| before.worker.verdicts.get(code).copied().unwrap_or(0));
            (code.clone(), total.saturating_sub(before) as f64 / took.as_secs_f64())
        };
        let pace = worker.verdicts.iter().map(since).collect();
        self.by_process.insert(worker.process.clone(), Heard { worker, at: now, took, pace });
        if self.by_process.len() > WORKERS_MAX {
            let oldest = self.by_process.iter().min_by_key(|(_, heard)| heard.at).map(|(process, _)| process.clone());
            oldest.map(|process| self.by_process.remove(&process));
        }
    }

    fn at_work(&self, now: Instant) -> impl Iterator<Item = &Heard> {
        self.by_process.values().filter(move |heard| now - heard.at <= SILENT_MIN.max(heard.took * 2))
    }

    pub(super) fn count(&self, now: Instant) -> usize {
        self.at_work(now).count()
    }

    /// Who says to be active on this partition; two for a moment, while it is handed over.
    pub(super) fn active_on(&self, partition: usize, now: Instant) -> Vec<String> {
        let is_active = |heard: &&Heard| heard.worker.active.iter().flatten().any(|active| *active == partition);
        let id = |heard: &Heard| heard.worker.name.rsplit(' ').next().unwrap_or_default().to_owned();
        let mut ids: Vec<String> = self.at_work(now).filter(is_active).map(id).collect();
        ids.sort();
        ids
    }

    /// Of all that were heard, also of those that are gone.
    pub(super) fn verdicts(&self, now: Instant) -> BTreeMap<String, Counted> {
        let mut by_code = BTreeMap::<String, Counted>::new();
        for (code, total) in self.by_process.values().flat_map(|heard| &heard.worker.verdicts) {
            by_code.entry(code.clone()).or_default().total += total;
        }
        for (code, pace) in self.at_work(now).flat_map(|heard| &heard.pace) {
            by_code.entry(code.clone()).or_default().per_second += pace;
        }
        by_code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str, sold_out: u64, active: &[usize]) -> Worker {
        Worker {
            name: format!("turnstile-purchase {name}"),
            process: name.to_owned(),
            user: None,
            active: Some(active.to_vec()),
            verdicts: BTreeMap::from([("sold_out".to_owned(), sold_out)]),
        }
    }

    #[test]
    fn what_a_worker_decided_counts_when_it_is_gone_and_its_pace_and_its_partitions_no_more() {
        let (mut workers, start) = (Workers::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let sold_out = |workers: &Workers, ms| workers.verdicts(at(ms))["sold_out"];
        let counted = |total, per_second| Counted { total, per_second };
        workers.heard(worker("one", 100, &[0, 1]), at(0));
        assert_eq!(sold_out(&workers, 0), counted(100, 0.0));
        workers.heard(worker("one", 150, &[0, 1]), at(500));
        workers.heard(worker("two", 7, &[1]), at(600));
        workers.heard(worker("two", 27, &[1]), at(1_600));
        assert_eq!((sold_out(&workers, 1_700), workers.count(at(1_700))), (counted(177, 120.0), 2));
        assert_eq!(workers.active_on(1, at(1_700)), ["one", "two"], "one hands it over");
        assert_eq!(sold_out(&workers, 3_000), counted(177, 20.0));
        assert_eq!(
            (workers.active_on(0, at(3_000)), workers.active_on(1, at(3_000))),
            (vec![], vec!["two".to_owned()])
        );
        assert_eq!((sold_out(&workers, 9_000), workers.count(at(9_000))), (counted(177, 0.0), 0));
        // Of many workers, each is heard less often.
        workers.heard(worker("two", 27, &[1]), at(9_000));
        assert_eq!(workers.count(at(20_000)), 1);
    }
}
