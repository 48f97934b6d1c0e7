//! One session with the broker: from connecting until the connection or the process ends.
//!
//! Invariant: whichever way it ends, what is not settled returns to its queue in order; and a partition is handed over
//! to another worker only behind its last settled message, with nothing under way.

mod care;
mod hand_over;
mod later;

use super::process::Outcomes;
use super::readiness::{Outage, Ready};
use super::rebalance::{Shares, Step, Subscribing};
use super::settle::{Decided, Settler, Settling};
use super::{Ended, Function};
use crate::amqp::{Consumer, Delivery, Error};
use hand_over::Taken;
use later::behind_batches;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::Permit;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

/// Messages under way to us from one queue, in batches: one is decided, one answered, one acknowledged, and the next arrives meanwhile.
const WINDOW_BATCHES: u16 = 4;
/// The smallest window, so that tiny batches do not wait for the network.
const WINDOW_MIN: u16 = 64;
/// The largest: 8 partitions × 2,000 messages of some 300 bytes are 5 MB; of large ones, see [`crate::amqp::Body`]. Larger
/// batches are of arrays: of more messages than a batch's share of this, they are no faster.
const WINDOW_MAX: u16 = 2_000;
/// Between two steps of subscribing.
const SUBSCRIBE_MS: u64 = 25;
/// How often the workers are counted, and the shares compared.
const SHARE_MS: u64 = 500;
/// How long to wait for company before what is not decided is tried again, where nothing else was decided meanwhile.
const LATER_MS: u64 = 100;
/// How often is looked whether a queue is gone, and between two looks.
const GONE_LOOKS_MAX: u32 = 10;
const GONE_PAUSE_MS: u64 = 50;
/// How often what arrives is taken in while we wait for something else: so much of large messages is in memory meanwhile.
const TAKE_IN_MS: u64 = 50;

struct Session<'a> {
    function: &'a Function,
    /// What the broker's operators see.
    name: String,
    queues: &'a [String],
    consumer: Consumer,
    settling: &'a Settling,
    subscribing: Subscribing,
    /// Set once every partition is subscribed to.
    ready: Option<Ready>,
    /// Partitions whose queue somebody has deleted.
    gone: Vec<usize>,
    outage: Outage,
    /// Of the sessions before, until this one consumes.
    away: &'a mut Outage,
    /// Whether this one has, or one before: to read is tried only by reading.
    has_consumed: &'a mut bool,
    shares: Shares,
    /// Set by who was to fill windows, and could not.
    is_not_filled: Arc<AtomicBool>,
    /// Of each partition: whether its messages are to come one at a time at first. It outlives the session.
    with_care: &'a mut [bool],
    window: u16,
    /// Delivered, and not decided yet: the first of the next batch.
    later: Vec<Delivery>,
    /// Whether more of it was not read than is waited for, and something was decided: then it is tried again at once.
    goes_on: bool,
    /// Batches handed over to be settled.
    pushed: u64,
}

impl Function {
    pub(super) async fn session(
        &self,
        queues: &[String],
        workers: Option<String>,
        with_care: &mut [bool],
        (away, has_consumed): (&mut Outage, &mut bool),
    ) -> Result<Ended, Error> {
        let (nodes, name) = (&self.service.nodes, self.service.worker.name(self.handler.name()));
        let window = self.service.worker.batch_max.saturating_mul(WINDOW_BATCHES).clamp(WINDOW_MIN, WINDOW_MAX);
        let consumer = Consumer::open(nodes, &name, queues, window, workers, &self.service.worker.replay_users).await?;
        let settling = Settling::start(Settler {
            service: self.service.clone(),
            name: name.clone(),
            queues: queues.to_vec(),
            acknowledger: consumer.acknowledger(),
        });
        let mut session = Session {
            function: self,
            name,
            queues,
            consumer,
            settling: &settling,
            subscribing: Subscribing::of(queues.len(), fastrand::u64(..)),
            ready: None,
            gone: Vec::new(),
            outage: self.service.outage("a queue is gone, and its partition is not served"),
            away,
            has_consumed,
            shares: Shares::of(queues.len()),
            is_not_filled: Arc::default(),
            with_care,
            window,
            later: Vec::new(),
            goes_on: false,
            pushed: 0,
        };
        let ended = session.consume().await;
        let Session { mut consumer, shares, later, .. } = session;
        match ended {
            // Settling only knows that it ended; the subscription knows why.
            Err(Error::Lost(_)) if !consumer.is_open() => Err(consumer.failure().await),
            Err(error) => Err(error),
            Ok(ended) => {
                settling.finish().await?;
                // Answered, and held back for a handing over that does not happen any more. What is not decided comes back.
                let held = shares.held_tags().filter(|tag| !is_among(*tag, &later));
                consumer.acknowledger().acknowledge(held, &undecided(&later)).await?;
                Ok(ended)
            }
        }
    }
}

impl<'a> Session<'a> {
    /// Takes, decides and hands on to be settled, batch by batch, until told to stop, or to go on with care.
    async fn consume(&mut self) -> Result<Ended, Error> {
        let service = &self.function.service;
        let mut ticks = every(Duration::from_millis(SUBSCRIBE_MS));
        loop {
            let is_subscribed = self.consumer.is_subscribed();
            let next = self.next();
            let (room, batch) = tokio::select! {
                biased;
                () = service.stopped() => return Ok(Ended::Stopped),
                _ = ticks.tick() => {
                    if self.subscribing.is_over() {
                        self.come_back().await?;
                        self.compare_shares();
                    } else if self.subscribe().await? {
                        tracing::info!(queues = self.queues.len(), "consuming");
                        self.away.is_over();
                        *self.has_consumed = true;
                        self.ready = Some(service.announce());
                        ticks = every(Duration::from_millis(SHARE_MS));
                    }
                    continue;
                }
                next = next, if is_subscribed => next?,
            };
            for partition in self.consumer.ended() {
                if self.is_there(partition).await? {
                    return Err(self.consumer.cancelled(partition));
                }
                self.lose(partition);
            }
            if batch.is_empty() && self.later.is_empty() {
                continue;
            }
            if self.sees_suspects(&batch) {
                return Ok(Ended::Suspect);
            }
            if let Some(ended) = self.decide(room, batch).await? {
                return Ok(ended);
            }
        }
    }

    /// Decides a batch, behind what is to be tried again, and hands it on to be settled; `Some`, where the session is over.
    async fn decide(&mut self, room: Permit<'a, Decided>, mut batch: Vec<Delivery>) -> Result<Option<Ended>, Error> {
        let mut left = (Vec::new(), Vec::new());
        let is_again = !self.later.is_empty();
        if is_again {
            self.later.append(&mut batch);
            batch = std::mem::take(&mut self.later);
        }
        let room = self.put_limited_away(room, &mut batch).await?;
        if is_again {
            left = behind_batches(&mut batch, self.messages_max());
        }
        let Some((room, Outcomes { decided: mut outcomes, mut later })) = self.process(room, batch).await? else {
            if self.function.service.is_stopped() {
                // What was in hand is not decided: nothing that is held may be acknowledged past it.
                self.shares = Shares::of(self.queues.len());
                return Ok(Some(Ended::Stopped));
            }
            return Err(self.consumer.failure().await);
        };
        outcomes.extend(care::renewed_of(&mut later));
        self.widen(outcomes.iter_mut().map(|(delivery, _)| delivery).chain(&mut later)).await?;
        let (without_room, behind) = left;
        let has_more = !without_room.is_empty() || !behind.is_empty();
        self.goes_on = has_more && !outcomes.is_empty();
        self.later = without_room;
        self.later.extend(later.into_iter().chain(behind));
        let taken: Vec<_> = outcomes.iter().map(|(delivery, _)| Taken::of(delivery)).collect();
        room.send(Decided { outcomes, held: self.shares.held(), undecided: undecided(&self.later) });
        self.pushed += 1;
        // Only now, when it is decided: what is noted may be acknowledged. What it makes us hold counts from the
        // next batch on.
        self.note(&taken);
        self.keep_what_waits().await?;
        self.hand_over().await?;
        Ok(None)
    }

    /// What has arrived, and room for it. Of what is to be tried again, nobody waits for company for long.
    async fn next(&mut self) -> Result<(Permit<'a, Decided>, Vec<Delivery>), Error> {
        let room = taking_in(&Mutex::new(&mut self.consumer), self.settling.room()).await?;
        let requests_max = self.function.service.worker.batch_max;
        let next = self.consumer.next_batch(self.messages_max(), requests_max.into());
        if self.later.is_empty() {
            return Ok((room, next.await?));
        }
        let next = timeout(Duration::from_millis(if self.goes_on { 0 } else { LATER_MS }), next).await;
        Ok((room, next.unwrap_or_else(|_| Ok(Vec::new()))?))
    }

    /// A batch's share of a window.
    fn messages_max(&self) -> usize {
        usize::from(self.window / WINDOW_BATCHES)
    }

    /// One step of subscribing; true: it was the last.
    async fn subscribe(&mut self) -> Result<bool, Error> {
        let place = self.consumer.place();
        while let Some(step) = self.subscribing.step(place) {
            if let Step::TakeIfFree(partition) | Step::GetInLine(partition) = step {
                match (step, self.consumer.is_served(partition).await?) {
                    (_, None) => {
                        self.subscribing.left_out(partition);
                        self.lose(partition);
                        continue;
                    }
                    (Step::TakeIfFree(_), Some(true)) => continue,
                    (Step::TakeIfFree(_), Some(false)) => self.subscribing.took(partition),
                    (Step::GetInLine(_) | Step::Wait, Some(_)) => (),
                }
                self.consumer.subscribe(partition, self.with_care[partition]).await?;
            }
            if place.is_some() {
                break;
            }
        }
        Ok(self.subscribing.is_over())
    }

    /// Whether the queue of a subscription that the broker has ended is there. RabbitMQ 4.3 ends subscriptions first, and the queue
    /// is gone a little later.
    async fn is_there(&mut self, partition: usize) -> Result<bool, Error> {
        for _ in 0..GONE_LOOKS_MAX {
            if self.consumer.is_served(partition).await?.is_none() {
                return Ok(false);
            }
            tokio::time::sleep(Duration::from_millis(GONE_PAUSE_MS)).await;
        }
        Ok(true)
    }

    /// The partition is nobody's until its queue is there again. What is decided of it is answered, and the rest let go.
    fn lose(&mut self, partition: usize) {
        self.shares.handed_over(partition);
        self.later.retain(|delivery| delivery.partition != partition);
        if !self.gone.contains(&partition) {
            self.gone.push(partition);
        }
        self.outage.goes_on(&self.queues[partition]);
    }

    /// Gets in line for partitions that were gone and are there again.
    async fn come_back(&mut self) -> Result<(), Error> {
        for partition in std::mem::take(&mut self.gone) {
            let queue = &self.queues[partition];
            if self.function.service.lacks(queue) || self.consumer.is_served(partition).await?.is_none() {
                self.gone.push(partition);
                continue;
            }
            self.consumer.subscribe_again(partition).await?;
            self.fill(std::iter::once((partition, 1)));
        }
        if self.gone.is_empty() {
            self.outage.is_over();
        }
        Ok(())
    }
}

/// Waits for this, and takes in meanwhile what arrives.
async fn taking_in<T>(consumer: &Mutex<&mut Consumer>, awaited: impl Future<Output = T>) -> T {
    let mut awaited = pin!(awaited);
    loop {
        if let Ok(done) = timeout(Duration::from_millis(TAKE_IN_MS), &mut awaited).await {
            return done;
        }
        consumer.lock().expect("nobody panics with it").take_in();
    }
}

fn every(pause: Duration) -> Interval {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn is_among(tag: (usize, u64), later: &[Delivery]) -> bool {
    later.iter().any(|delivery| (delivery.partition, delivery.tag) == tag)
}

/// In each partition, the first (partition, tag) of these.
fn undecided(later: &[Delivery]) -> Vec<(usize, u64)> {
    let mut first = BTreeMap::new();
    for delivery in later {
        let tag = first.entry(delivery.partition).or_insert(delivery.tag);
        *tag = delivery.tag.min(*tag);
    }
    first.into_iter().collect()
}
