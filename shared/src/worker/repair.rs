//! Has the topology looked after while a function runs, and knows what is missing of it.

use super::metrics::DeadMessages;
use crate::amqp::topology::Topology;
use crate::amqp::{Error, Found, Looked, Nodes, Repair};
use crate::retry::RetryPolicy;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// The pause between two looks where nobody asks for one: at random, so that processes take turns.
const LOOKS: RetryPolicy = RetryPolicy { wait_ms: 10_000, factor: 1.0, wait_ms_max: 10_000, attempts_max: u32::MAX };
/// The least between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// What the broker lacks of the topology, each with why it could not be declared.
pub(super) type Missing = BTreeMap<&'static str, String>;

/// Looks at once when asked to, and now and then; for ever.
pub(super) async fn run(
    nodes: Nodes,
    name: String,
    look: Arc<Notify>,
    missing: watch::Sender<Missing>,
    dead_messages: DeadMessages,
) {
    let (mut repair, mut waits, mut is_nearly_full) = (None, LOOKS.waits(), false);
    loop {
        drop(tokio::time::timeout(waits.next().unwrap_or(PAUSE), look.notified()).await);
        let looked = async {
            let mut opened = match repair.take() {
                Some(opened) => opened,
                None => Repair::open(&nodes, &name).await?,
            };
            let looked = opened.look().await?;
            repair = Some(opened);
            Ok::<_, Error>(looked)
        };
        match looked.await {
            Ok(Looked { found, dead }) => {
                note(found, &missing);
                dead.into_iter().for_each(|(queue, waiting)| {
                    dead_messages.of(queue).set(waiting.into());
                    if let Some(length_max) = Topology::read().length_max(queue) {
                        is_nearly_full = say_if_nearly_full(queue, waiting.into(), length_max, is_nearly_full);
                    }
                });
            }
            // Whoever has work to do on this broker says that it is away.
            Err(error) => tracing::debug!(%error, "the topology cannot be looked at"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Said once, until the queue is emptier again.
fn say_if_nearly_full(queue: &str, waiting: u64, length_max: u64, is_said: bool) -> bool {
    let is_nearly_full = waiting >= length_max / 10 * 9;
    if is_nearly_full && !is_said {
        tracing::warn!(
            queue,
            waiting,
            length_max,
            "a queue of dead letters is nearly full: the oldest are dropped then"
        );
    }
    is_nearly_full
}

fn note(found: Found, missing: &watch::Sender<Missing>) {
    let (declared, gone): (Found, Found) = found.into_iter().partition(|(_, declared)| declared.is_ok());
    if !declared.is_empty() {
        let declared = declared.into_keys().collect::<Vec<_>>();
        tracing::warn!(?declared, "deleted by somebody, and declared again; what waited in a queue is lost");
    }
    let gone: Missing = gone.into_iter().filter_map(|(name, why)| Some((name, why.err()?.to_string()))).collect();
    missing.send_if_modified(|known| {
        let is_news = *known != gone;
        match (is_news, gone.is_empty()) {
            (false, _) => (),
            (true, true) => tracing::warn!(was = ?known, "over: RabbitMQ lacks a part of the topology"),
            (true, false) => {
                tracing::error!(missing = ?gone, "RabbitMQ lacks a part of the topology, and it cannot be declared");
            }
        }
        *known = gone;
        is_news
    });
}
