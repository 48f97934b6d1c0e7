//! What lies between the workers of a run and their servers, so that it can be disturbed.

use super::FaultKind;
use crate::failure::Failure;
use crate::random::Random;
use crate::servers::Endpoints;
use anyhow::Context;
use shared::devstack::{Disturbance, Forwarder};
use std::time::Duration;

/// How long something stands still or is slow: seconds, so that the sale goes on, ...
const MS: std::ops::Range<u32> = 200..2_000;
/// ... but one time in so many for longer than two heartbeats, and than any answer but a publisher confirm is waited for.
const LONG_ONE_IN: u32 = 100;
const LONG: Duration = Duration::from_secs(12);
const DELAY_MS_MAX: u32 = 50;
/// One time in so many it befalls all connections to the server, else one of them: its worker goes on with its others.
const ALL_ONE_IN: u32 = 8;

pub(crate) struct Network {
    broker: Forwarder,
    database: Forwarder,
    /// Where the workers find their servers.
    pub(crate) endpoints: Endpoints,
}

impl Network {
    pub(crate) async fn before(endpoints: &Endpoints) -> Result<Self, Failure> {
        let (broker, amqp_url) = Forwarder::before(&endpoints.amqp_url).await.context("stand before the broker")?;
        let (database, database_url) =
            Forwarder::before(&endpoints.database_url).await.context("stand before the database")?;
        Ok(Self { broker, database, endpoints: Endpoints { amqp_url, database_url, ..endpoints.clone() } })
    }

    /// Disturbs the connections to one of the servers, all or one of them, and says which; `None` where there is none, or
    /// where this is not a fault of connections.
    pub(super) fn disturb(&self, kind: FaultKind, random: &mut Random) -> Option<&'static str> {
        let (server, one, all) = match random.below(2) {
            0 => (&self.broker, "a connection to the broker", "the connections to the broker"),
            _ => (&self.database, "a connection to the database", "the connections to the database"),
        };
        let chosen = (random.below(ALL_ONE_IN) > 0).then(|| random.next());
        let disturbance = match kind {
            FaultKind::Cut => Disturbance::Cut,
            FaultKind::HalfOpen => Disturbance::HalfOpen(some_time(random)),
            FaultKind::InDoubt => Disturbance::CutInDoubt,
            FaultKind::MidFrame => Disturbance::CutInMidFrame,
            FaultKind::Delay => {
                let each = Duration::from_millis(u64::from(1 + random.below(DELAY_MS_MAX)));
                Disturbance::Delay { each, lasting: some_time(random) }
            }
            FaultKind::Kill | FaultKind::Freeze | FaultKind::BrokerRestart | FaultKind::DatabaseRestart => return None,
            FaultKind::LockedRow | FaultKind::MemoryAlarm => return None,
        };
        server.disturb(disturbance, chosen).then_some(if chosen.is_some() { one } else { all })
    }

    pub(super) fn calm(&self) {
        self.broker.calm();
        self.database.calm();
    }
}

/// How long a fault lasts that stops somebody.
pub(super) fn some_time(random: &mut Random) -> Duration {
    if random.below(LONG_ONE_IN) == 0 {
        return LONG;
    }
    Duration::from_millis(u64::from(MS.start + random.below(MS.end - MS.start)))
}
