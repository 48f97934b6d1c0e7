//! What may be done to workers and servers in mid-sale, and for how long the buyers feel it; the `injector` does it.
//!
//! Events are due when a share of the buyers has a verdict; faults are drawn, kinds and moments, by the seed.

mod drawn;
mod injector;
mod network;

use crate::answers::Answers;
use crate::hostile::HostileKind;
use crate::orders::plan::Share;
use crate::schedule::Schedule;
pub use drawn::{Draw, FaultKind};
pub(crate) use injector::Injector;
pub(crate) use network::Network;
use serde::Serialize;
use shared::devstack::{Postgres, RabbitMq, Redis};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

/// What a worker decided this shortly before an event, it was active on.
const RECENT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct Faults<'a> {
    /// In any order; of several at one moment, the order is that of [`Action`].
    pub events: Vec<Event>,
    /// Who is frozen stays so for this long, or until the last verdict.
    pub freeze: Duration,
    /// What befalls workers, servers and connections, at moments chosen by the sale's seed.
    pub draws: Vec<Draw>,
    /// Messages a second of a sender who means ill.
    pub hostile_rate: u32,
    /// What they send, in turn; all where none is named.
    pub hostile_kinds: Vec<HostileKind>,
    pub broker: Option<PrivateBroker<'a>>,
    pub postgres: Option<&'a mut Postgres>,
    pub redis: Option<&'a mut Redis>,
}

#[derive(Debug)]
pub struct PrivateBroker<'a> {
    pub rabbitmq: &'a mut RabbitMq,
    pub vhost: &'a str,
}

/// In the order in which it is done at one moment: whoever comes, comes before others go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// One more worker is started.
    Add,
    /// SIGTERM: a worker drains and exits with 0.
    Stop,
    /// SIGKILL.
    Kill,
    /// SIGSTOP: a worker stands still until it is woken.
    Freeze,
    /// SIGKILL, to a node of the broker.
    KillBroker,
    /// SIGKILL, to Redis, which is started again at once, and is empty then.
    KillRedis,
    /// One more door is opened.
    AddDoor,
    /// SIGKILL, to a door.
    KillDoor,
}

impl Action {
    /// For people: what became of it.
    pub fn past(self) -> &'static str {
        match self {
            Self::Add | Self::AddDoor => "added",
            Self::Stop => "stopped",
            Self::Kill | Self::KillBroker | Self::KillDoor => "killed",
            Self::Freeze => "frozen",
            Self::KillRedis => "killed and started again",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// When this share of the buyers has a verdict.
    pub at: Share,
    pub action: Action,
}

impl Event {
    /// How many of so many buyers have their verdict when it is due, rounded up.
    pub fn answered(&self, buyers: usize) -> usize {
        (buyers * self.at.percent() as usize).div_ceil(100)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventReport {
    /// The share of the buyers with a verdict that it was planned for.
    pub at: Share,
    pub event: Action,
    /// To which worker, or door; `null` where none was left to do it to, and where it was done to a server.
    pub worker: Option<String>,
    /// From the start of the sale.
    pub seconds: f64,
    /// See `until_next_verdict`.
    pub next_verdict_seconds: Option<f64>,
    /// To which node of the broker; `null` where it was done to something else.
    pub broker_node: Option<String>,
}

/// What came to pass of events and faults.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    pub(crate) events: Vec<EventReport>,
    pub(crate) crashes: Vec<CrashReport>,
    /// How many of each kind, crashes among them.
    pub(crate) faults: BTreeMap<FaultKind, u32>,
}

/// A worker that was killed at random, and replaced at once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CrashReport {
    pub worker: String,
    pub seconds: f64,
}

/// From the event, at `at` since the start of the sale, to the first verdict of the worker that was added; or, where one
/// went, until each item that it was active on has a verdict of another worker. For one hot item that is its partition's
/// next verdict; over many items it is an upper bound, as a quiet item waits for its next buyer, too. `None`: there was
/// none, or nothing to wait for. A worker was active on an item if it decided one of its requests shortly before.
pub(crate) fn until_next_verdict(
    schedule: &Schedule,
    answers: &Answers,
    action: Action,
    worker: &str,
    at: Duration,
) -> Option<Duration> {
    // A worker that is not known by now never replied; then every reply is another's.
    let worker = answers.worker_ids.iter().position(|id| id == worker);
    let replied = schedule.requests.iter().zip(&answers.answers).filter(|(_, answer)| answer.body.is_some());
    let (its, others): (Vec<_>, Vec<_>) = replied.partition(|(_, answer)| Some(answer.worker) == worker);
    let next = match action {
        Action::Add => its.iter().map(|(_, answer)| answer.at).min(),
        Action::Stop | Action::Kill | Action::Freeze => {
            let recent = at.saturating_sub(RECENT)..=at;
            let active: HashSet<u32> =
                its.iter().filter(|(_, answer)| recent.contains(&answer.at)).map(|(due, _)| due.item).collect();
            let mut nexts: HashMap<u32, Duration> = HashMap::new();
            for (due, answer) in others.iter().filter(|(due, answer)| answer.at > at && active.contains(&due.item)) {
                nexts.entry(due.item).and_modify(|next| *next = answer.at.min(*next)).or_insert(answer.at);
            }
            nexts.into_values().max()
        }
        // Verdicts were under way past what died; which of those after it shows that it is over, cannot be seen.
        Action::KillBroker | Action::KillRedis => None,
        // Whoever goes to another door is decided upon by the same worker.
        Action::AddDoor | Action::KillDoor => None,
    };
    next.map(|next| next.saturating_sub(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Scenario;

    /// What a fault after 5 s did to these verdicts (item, worker, ms), in ms.
    fn after(action: Action, worker: &str, verdicts: &[(u32, &str, u64)]) -> Option<u128> {
        let buyers = u32::try_from(verdicts.len()).unwrap();
        let scenario = Scenario { buyers, ..Scenario::default() };
        let mut schedule = Schedule::new(&scenario, "t");
        let mut answers = Answers::to(&schedule.requests);
        for (due, (item, worker, at_ms)) in schedule.requests.iter_mut().zip(verdicts) {
            due.item = *item;
            answers.record(&due.request_id.to_string(), worker, &[], Duration::from_millis(*at_ms));
        }
        until_next_verdict(&schedule, &answers, action, worker, Duration::from_secs(5)).map(|after| after.as_millis())
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

    #[test]
    fn an_event_is_due_at_a_share_of_the_buyers_rounded_up() {
        let answered = |at: &str, buyers| Event { at: at.parse().unwrap(), action: Action::Kill }.answered(buyers);
        assert_eq!((answered("0%", 1_000), answered("25%", 1_000), answered("100%", 1_000)), (0, 250, 1_000));
        assert_eq!((answered("1%", 1), answered("50%", 3), answered("100%", 5_000_000)), (1, 2, 5_000_000));
    }
}
