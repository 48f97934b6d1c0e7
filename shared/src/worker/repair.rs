//! Has the topology looked after while a function runs, and knows what is missing of it.

use crate::{
    amqp::{Found, Nodes, Repair},
    retry::RetryPolicy,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{Notify, watch};

/// The pause between two looks where nobody asks for one: at random, so that processes take turns.
const LOOKS: RetryPolicy = RetryPolicy { wait_ms: 10_000, factor: 1.0, wait_ms_max: 10_000, attempts_max: u32::MAX };
/// The least between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// Looks at once when asked to, and now and then; for ever.
pub(super) async fn run(
    nodes: Nodes,
    name: String,
    look: Arc<Notify>,
    missing: watch::Sender<BTreeMap<String, String>>,
) {
    let (mut repair, mut waits) = (None, LOOKS.waits());
    loop {
        drop(tokio::time::timeout(waits.next().unwrap_or(PAUSE), look.notified()).await);
        match looked(&mut repair, &nodes, &name).await {
            Ok(found) => note(found, &missing),
            // Whoever has work to do on this broker says that it is away.
            Err(error) => {
                tracing::debug!(%error, "the topology cannot be looked at");
                repair = None;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn looked(repair: &mut Option<Repair>, nodes: &Nodes, name: &str) -> Result<Found, crate::amqp::Error> {
    if repair.is_none() {
        *repair = Some(Repair::open(nodes, name).await?);
    }
    repair.as_mut().expect("it was just opened").look().await
}

fn note(Found { declared, missing: found }: Found, missing: &watch::Sender<BTreeMap<String, String>>) {
    if !declared.is_empty() {
        tracing::warn!(?declared, "deleted by somebody, and declared again; what waited in a queue is lost");
    }
    missing.send_if_modified(|known| {
        if *known == found {
            return false;
        }
        if found.is_empty() {
            tracing::warn!(was = ?known, "over: RabbitMQ lacks a part of the topology");
        } else {
            tracing::error!(missing = ?found, "RabbitMQ lacks a part of the topology, and it cannot be declared");
        }
        *known = found;
        true
    });
}
