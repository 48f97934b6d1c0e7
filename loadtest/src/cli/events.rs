//! What `run` takes about what happens in mid-sale.

use crate::faults::{Action, Event, FaultKind};
use crate::hostile::HostileKind;
use crate::orders::plan::Share;
use clap::Args;
use std::time::Duration;

const FAULTS_MAX: i64 = 100_000;
const HOSTILE_RATE_MAX: i64 = 100_000;

/// What happens to workers and servers in mid-sale, and when.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Events (those of workers may be given several times)")]
pub struct EventOptions {
    /// Start one more worker when this share of the buyers has a verdict, such as 25%.
    #[arg(long, value_name = "PERCENT")]
    pub add_worker_at: Vec<Share>,
    /// Tell a worker to drain (SIGTERM) at this point: as with the next two, the one that was started first of those that
    /// still run, are not frozen and were not told to stop. At one point, workers are added, stopped, killed and frozen in
    /// this order.
    #[arg(long, value_name = "PERCENT")]
    pub stop_worker_at: Vec<Share>,
    /// Kill a worker (SIGKILL) at this point.
    #[arg(long, value_name = "PERCENT")]
    pub kill_worker_at: Vec<Share>,
    /// Freeze a worker (SIGSTOP) at this point, for --freeze-seconds.
    #[arg(long, value_name = "PERCENT")]
    pub freeze_worker_at: Vec<Share>,
    /// How long a worker stays frozen before it is woken (SIGCONT); the last verdict wakes it too.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub freeze_seconds: u64,
    /// Kill (SIGKILL) one node of the private broker at this point, for good: the one that leads the partitions in which
    /// most requests wait; where none wait, the one that leads most partitions. Needs --broker-nodes 3.
    #[arg(long, value_name = "PERCENT")]
    pub kill_broker_at: Option<Share>,
    /// Kill (SIGKILL) the private Redis at this point, and start it again: it has lost its counts then. Needs
    /// --strategy redis.
    #[arg(long, value_name = "PERCENT")]
    pub kill_redis_at: Option<Share>,
    /// Open one more door at this point. Needs --over http, as the next.
    #[arg(long, value_name = "PERCENT")]
    pub add_door_at: Vec<Share>,
    /// Kill (SIGKILL) the door that was opened first of those that are left at this point.
    #[arg(long, value_name = "PERCENT")]
    pub kill_door_at: Vec<Share>,
    /// Have so many faults befall workers, servers and what connects them, at random moments of the run, chosen by the seed.
    /// Goes with --rate, and private servers.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=FAULTS_MAX))]
    pub faults: u32,
    /// Of which kinds, with commas between them [default: all].
    #[arg(long, value_name = "KINDS", value_delimiter = ',', requires = "faults")]
    pub fault_kinds: Vec<FaultKind>,
    /// Have somebody who may do what a buyer may send so many messages a second that are made to hurt.
    #[arg(long, value_name = "PER_SECOND", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=HOSTILE_RATE_MAX))]
    pub hostile_rate: u32,
    /// Of which kinds, in turn, with commas between them [default: all].
    #[arg(long, value_name = "KINDS", value_delimiter = ',', requires = "hostile_rate")]
    pub hostile_kinds: Vec<HostileKind>,
}

impl EventOptions {
    /// Every event that is asked for.
    pub(crate) fn events(&self) -> Vec<Event> {
        let asked = [
            (Action::Add, self.add_worker_at.as_slice()),
            (Action::Stop, &self.stop_worker_at),
            (Action::Kill, &self.kill_worker_at),
            (Action::Freeze, &self.freeze_worker_at),
            (Action::KillBroker, self.kill_broker_at.as_slice()),
            (Action::KillRedis, self.kill_redis_at.as_slice()),
            (Action::AddDoor, &self.add_door_at),
            (Action::KillDoor, &self.kill_door_at),
        ];
        asked.into_iter().flat_map(|(action, points)| points.iter().map(move |&at| Event { at, action })).collect()
    }

    pub fn freeze(&self) -> Duration {
        Duration::from_secs(self.freeze_seconds)
    }
}
