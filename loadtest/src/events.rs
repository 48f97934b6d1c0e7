//! What is done to workers and servers in mid-sale, and when: read from the command line and put in order. Pure: whoever does it
//! is elsewhere (`unrest.rs`).
//!
//! Invariant: a plan has every event that was asked for, once, in the order of their points; of several at one point,
//! whoever comes comes before others go, so that a worker can be replaced.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::options::EventOptions;

/// The last point: everybody has a verdict.
const PERCENT_MAX: u8 = 100;

/// A moment of the sale: the share of the buyers who have their verdict, in whole percent, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point(u8);

impl Point {
    /// How many of `buyers` have their verdict at this point, rounded up.
    #[must_use]
    pub fn answered(self, buyers: u32) -> usize {
        let answered = (u64::from(buyers) * u64::from(self.0)).div_ceil(u64::from(PERCENT_MAX));
        usize::try_from(answered).expect("no more than the buyers, and those fit in memory")
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
        let percent = digits.and_then(|digits| digits.parse().ok()).filter(|percent| *percent <= PERCENT_MAX);
        percent.map(Self).ok_or_else(|| {
            "a point of the sale is a whole percentage of its buyers, 0% to 100%, such as 25%".to_owned()
        })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}%", self.0)
    }
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is done to a worker, or to a server; in the order in which it is done at one point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// One more is started.
    Add,
    /// SIGTERM: it drains and exits with 0.
    Stop,
    /// SIGKILL: it dies at once.
    Kill,
    /// SIGSTOP: it stands still until it is woken.
    Freeze,
    /// SIGKILL, to a node of the broker.
    KillBroker,
    /// SIGKILL, to Redis, which is started again at once, and is empty then.
    KillRedis,
}

impl Action {
    /// For people: what became of it.
    #[must_use]
    pub fn past(self) -> &'static str {
        match self {
            Self::Add => "added",
            Self::Stop => "stopped",
            Self::Kill | Self::KillBroker => "killed",
            Self::Freeze => "frozen",
            Self::KillRedis => "killed and started again",
        }
    }
}

/// One event of a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// When.
    pub at: Point,
    /// What.
    pub action: Action,
}

/// The events that the options ask for, in order, each with the number of answered buyers at which it is due.
#[must_use]
pub fn plan(options: &EventOptions, buyers: u32) -> Vec<(usize, Event)> {
    let asked = [
        (Action::Add, &options.add_worker_at),
        (Action::Stop, &options.stop_worker_at),
        (Action::Kill, &options.kill_worker_at),
        (Action::Freeze, &options.freeze_worker_at),
    ];
    let mut events: Vec<Event> =
        asked.into_iter().flat_map(|(action, points)| points.iter().map(move |&at| Event { at, action })).collect();
    events.extend(options.kill_broker_at.map(|at| Event { at, action: Action::KillBroker }));
    events.extend(options.kill_redis_at.map(|at| Event { at, action: Action::KillRedis }));
    events.sort_unstable();
    events.into_iter().map(|event| (event.at.answered(buyers), event)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(texts: &[&str]) -> Vec<Point> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_point_is_a_share_of_the_buyers_rounded_up() {
        let answered = |text: &str, buyers| text.parse::<Point>().unwrap().answered(buyers);
        assert_eq!((answered("0%", 1_000), answered("25%", 1_000), answered("100%", 1_000)), (0, 250, 1_000));
        assert_eq!((answered("1%", 1), answered("50%", 3), answered("100%", u32::MAX)), (1, 2, u32::MAX as usize));
    }

    #[test]
    fn what_is_no_point_is_refused_and_says_what_one_is() {
        for wrong in ["25", "abc", "", "%", "101%", "256%", "-1%", "+5%", "2.5%", " 5%", "5 %", "5%%"] {
            let error = wrong.parse::<Point>().expect_err(wrong);
            assert!(error.contains("0% to 100%, such as 25%"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_plan_is_in_order_of_points_and_at_one_point_a_worker_comes_before_another_goes() {
        let options = EventOptions {
            add_worker_at: points(&["50%", "10%"]),
            stop_worker_at: points(&["50%"]),
            kill_worker_at: points(&["30%", "30%"]),
            freeze_worker_at: points(&["0%"]),
            freeze_seconds: 2,
            kill_broker_at: Some("30%".parse().unwrap()),
            kill_redis_at: Some("50%".parse().unwrap()),
        };
        let plan: Vec<(usize, String, Action)> =
            plan(&options, 200).into_iter().map(|(due, event)| (due, event.at.to_string(), event.action)).collect();
        let expected = [
            (0, "0%", Action::Freeze),
            (20, "10%", Action::Add),
            (60, "30%", Action::Kill),
            (60, "30%", Action::Kill),
            (60, "30%", Action::KillBroker),
            (100, "50%", Action::Add),
            (100, "50%", Action::Stop),
            (100, "50%", Action::KillRedis),
        ];
        assert_eq!(plan, expected.map(|(due, at, action)| (due, at.to_owned(), action)));
    }

    #[test]
    fn without_options_nothing_happens() {
        assert_eq!(plan(&EventOptions::default(), 1_000), []);
    }
}
