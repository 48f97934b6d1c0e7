//! Care: what came often may be what ends its workers, and is not to take its neighbours to `dead` with it. Told as a whole
//! in shared/README.md.

use super::hand_over::Taken;
use super::{Session, taking_in, undecided};
use crate::amqp::{Delivery, Error};
use crate::messages::{Code, Rejection};
use crate::worker::outcome::{Outcome, count};
use crate::worker::process::Outcomes;
use crate::worker::rebalance::Place;
use crate::worker::settle::Decided;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::mpsc::Permit;
use tokio::time::timeout;

/// A message delivered this often before may be what ends its workers: its partition is consumed with care. Until then, and it
/// takes as many faults while it is under way, windows come back whole and in order.
const SUSPECT_AT_DELIVERIES: u64 = 10;
/// A message delivered this often before, and once more for each worker that is counted, and alone by now, is taken for what ends
/// its workers, and put into `dead`. Each worker that sees a suspect for the first time costs all that came with it a delivery.
const DELIVERY_LIMIT: u64 = 30;
/// A message delivered this often before is near the limit ...
const NEAR_LIMIT_AT_DELIVERIES: u64 = 20;
/// ... and what a worker has had in hand for so long, and lives, is not what ended the others.
const SURVIVED_SECONDS: u64 = 1;

impl<'a> Session<'a> {
    /// Notes the partitions in which a message came often, with others beside it. The batch comes back, and all that is under
    /// way: it counts one delivery more.
    pub(super) fn sees_suspects(&mut self, batch: &[Delivery]) -> bool {
        let mut any = false;
        for suspect in batch.iter().filter(|delivery| !delivery.is_alone && is_suspect(delivery)) {
            if !std::mem::replace(&mut self.with_care[suspect.partition], true) {
                let queue = &self.queues[suspect.partition];
                tracing::error!(queue, "a message came suspiciously often; going on with care, one message at a time");
            }
            any = true;
        }
        any
    }

    /// Ends the care for partitions of which a message came alone that was never under way before: what was, is decided.
    pub(super) async fn widen(&mut self, looked_at: impl Iterator<Item = &mut Delivery>) -> Result<(), Error> {
        for delivery in looked_at.filter(|delivery| delivery.is_alone && delivery.deliveries_before == 0) {
            self.consumer.widen(delivery.partition).await?;
            self.with_care[delivery.partition] = false;
            delivery.is_alone = false;
        }
        Ok(())
    }

    /// Puts what is at the limit into `dead` before anything is done with the rest, which may end us as well; gives room for
    /// the rest.
    pub(super) async fn put_limited_away(
        &mut self,
        room: Permit<'a, Decided>,
        batch: &mut Vec<Delivery>,
    ) -> Result<Permit<'a, Decided>, Error> {
        let limited = limited_of(batch, self.queues, delivery_limit(self.consumer.place()));
        if limited.is_empty() {
            return Ok(room);
        }
        count(&limited, &self.function.metrics);
        let taken: Vec<_> = limited.iter().map(|(delivery, _)| Taken::of(delivery)).collect();
        room.send(Decided { outcomes: limited, held: self.shares.held(), undecided: undecided(batch) });
        self.pushed += 1;
        self.note(&taken);
        let (settling, pushed) = (self.settling, self.pushed);
        let settled = async {
            settling.settled(pushed).await?;
            settling.room().await
        };
        taking_in(&Mutex::new(&mut self.consumer), settled).await
    }

    /// What becomes of a batch, and room for that. What is near its delivery limit, and in hand for a while, is put into its
    /// queue anew meanwhile, where its count begins again: it loses its place, and is never taken for what ends workers.
    pub(super) async fn process(
        &mut self,
        room: Permit<'a, Decided>,
        batch: Vec<Delivery>,
    ) -> Result<Option<(Permit<'a, Decided>, Outcomes)>, Error> {
        let near: Vec<Delivery> = batch.iter().filter(|delivery| is_near_limit(delivery)).cloned().collect();
        let undecided = if near.is_empty() { Vec::new() } else { undecided(&batch) };
        if !near.is_empty() {
            tracing::debug!(messages = near.len(), "near the delivery limit: looking whether we live with it");
        }
        let consumer = Mutex::new(&mut self.consumer);
        let is_open = || consumer.lock().expect("nobody panics with it").is_open();
        let mut processing = self.function.process(batch, &is_open);
        let (settling, pushed) = (self.settling, &mut self.pushed);
        let processed = async {
            if near.is_empty() {
                return Ok(processing.await.map(|outcomes| (room, outcomes)));
            }
            if let Ok(processed) = timeout(Duration::from_secs(SURVIVED_SECONDS), &mut processing).await {
                return Ok(processed.map(|outcomes| (room, outcomes)));
            }
            let tags: Vec<_> = near.iter().map(|delivery| (delivery.partition, delivery.tag)).collect();
            let outcomes = near.into_iter().map(renewed).collect();
            room.send(Decided { outcomes, held: Vec::new(), undecided });
            *pushed += 1;
            let Some(mut outcomes) = processing.await else { return Ok(None) };
            outcomes.decided.retain(|(delivery, _)| !tags.contains(&(delivery.partition, delivery.tag)));
            outcomes.later.retain(|delivery| !tags.contains(&(delivery.partition, delivery.tag)));
            Ok(Some((settling.room().await?, outcomes)))
        };
        taking_in(&consumer, processed).await
    }
}

fn delivery_limit(place: Option<Place>) -> u64 {
    DELIVERY_LIMIT + place.map_or(0, |place| place.workers as u64)
}

/// Takes out what is at the limit. Only what comes alone is judged: of
/// what came with others, nobody knows which it was.
fn limited_of(batch: &mut Vec<Delivery>, queues: &[String], limit: u64) -> Vec<(Delivery, Outcome)> {
    let is_at_limit = |delivery: &mut Delivery| delivery.is_alone && delivery.deliveries_before >= limit;
    let reject = |delivery: Delivery| {
        let (queue, deliveries) = (&queues[delivery.partition], delivery.deliveries_before);
        tracing::error!(queue, deliveries, "a message came too often, and alone at last: put into `dead`");
        let message = format!(
            "This message came {deliveries} times, and each worker that it came to ended before it was decided; it is kept, \
             and its operators are told."
        );
        (delivery, Outcome::Rejected(Rejection::new(Code::DeliveryLimit, message)))
    };
    batch.extract_if(.., is_at_limit).map(reject).collect()
}

/// Takes out what is near its limit of what waits for a row: it was looked at, and ended nobody.
pub(super) fn renewed_of(later: &mut Vec<Delivery>) -> impl Iterator<Item = (Delivery, Outcome)> {
    later.extract_if(.., |delivery| is_near_limit(delivery)).map(renewed)
}

fn is_suspect(delivery: &Delivery) -> bool {
    delivery.deliveries_before >= SUSPECT_AT_DELIVERIES
}

fn is_near_limit(delivery: &Delivery) -> bool {
    delivery.deliveries_before >= NEAR_LIMIT_AT_DELIVERIES
}

fn renewed(delivery: Delivery) -> (Delivery, Outcome) {
    let deliveries = delivery.deliveries_before;
    tracing::warn!(deliveries, "a message came often and ended nobody: put into its queue anew");
    (delivery, Outcome::Requeued)
}
