//! One session with the broker: from connecting until the connection, the process or the care ends.
//!
//! Invariant: whichever way it ends, what is not settled returns to its queue in order; and a partition is handed over
//! to another worker only behind its last settled message, with nothing under way.

use super::{
    Care, Ended, Function,
    process::process,
    ready::Ready,
    rebalance::Share,
    settle::{Decided, Settling},
    start::stopped,
    subscribe::{Joining, Step},
};
use crate::{
    amqp::{self, Consumer, Delivery, Error, Place},
    handler::Handler,
};
use std::time::{Duration, Instant};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Messages under way to us from one queue, in batches.
const WINDOW_BATCHES: u16 = 4;
/// The smallest window, so that tiny batches do not wait for the network.
const WINDOW_MIN: u16 = 64;
/// A message delivered this often before may be what ends its workers: its queue is consumed with care.
const SUSPECT_AT_DELIVERIES: u64 = 3;
/// How long a queue is consumed with care at least.
const CAREFUL_SECONDS: u64 = 5;
/// Between two steps of joining.
const JOIN_MS: u64 = 25;
/// How often the workers are counted, and the shares compared.
const SHARE_MS: u64 = 500;

/// A session under way.
struct Session<'a, H> {
    function: &'a Function<H>,
    /// What the broker's operators see.
    name: String,
    queues: &'a [String],
    inbox: Consumer,
    settling: &'a Settling,
    joining: Joining,
    /// Set once every partition is joined.
    ready: Option<Ready>,
    share: Share,
    care: Care,
    window: u16,
    /// Batches handed over to be settled.
    pushed: u64,
    started: Instant,
}

impl<H: Handler> Function<H> {
    /// Connects, subscribes, consumes.
    pub(super) async fn session(&self, queues: &[String], care: Care) -> Result<Ended, Error> {
        let name = format!("turnstile-{} {}", H::NAME, self.worker_id);
        let window = self.window(care);
        // With care, each queue has a session of its own: the worker is counted by none of them, and shares nothing.
        let workers = self.workers.clone().filter(|_| queues.len() > 1);
        let inbox = Consumer::open(&self.nodes, &name, queues, window, workers).await?;
        let settling = Settling::start(self, &name, queues, inbox.acknowledger());
        let joining = Joining::of(queues.len(), fastrand::u64(..));
        let share = Share::of(queues.len());
        let started = Instant::now();
        let mut session = Session {
            function: self,
            name,
            queues,
            inbox,
            settling: &settling,
            joining,
            ready: None,
            share,
            care,
            window,
            pushed: 0,
            started,
        };
        let ended = session.consume().await;
        let Session { mut inbox, share, .. } = session;
        match ended {
            // Settling only knows that it ended; the subscription knows why.
            Err(Error::Lost(_)) if !inbox.acknowledger().is_open() => Err(inbox.failure().await),
            Err(error) => Err(error),
            Ok(ended @ (Ended::Stopped | Ended::Suspect)) => {
                settling.finish().await?;
                // Answered, and held back for a handing over that does not happen any more.
                inbox.acknowledger().acknowledge(share.held_tags().into_iter()).await?;
                Ok(ended)
            }
            Ok(Ended::Clear) => {
                settling.finish().await?;
                inbox.close().await?;
                Ok(Ended::Clear)
            }
        }
    }

    /// Messages under way to us from each queue.
    fn window(&self, care: Care) -> u16 {
        match care {
            Care::OneByOne => 1,
            Care::None => {
                let batch_max = u16::try_from(self.batch_max).unwrap_or(u16::MAX);
                batch_max.saturating_mul(WINDOW_BATCHES).max(WINDOW_MIN)
            }
        }
    }
}

impl<H: Handler> Session<'_, H> {
    async fn consume(&mut self) -> Result<Ended, Error> {
        let settling = self.settling;
        let acknowledger = self.inbox.acknowledger();
        let stop = self.function.stop.clone();
        let mut ticks = every(Duration::from_millis(JOIN_MS));
        loop {
            let is_subscribed = self.inbox.is_subscribed();
            let next = async {
                let room = settling.room().await?;
                Ok::<_, Error>((room, self.inbox.next_batch(self.function.batch_max, is_suspect).await?))
            };
            let (room, batch) = tokio::select! {
                biased;
                () = stopped(stop.clone()) => return Ok(Ended::Stopped),
                _ = ticks.tick() => {
                    if self.joining.is_over() {
                        self.compare_shares();
                    } else if self.join().await? {
                        tracing::info!(queues = self.queues.len(), care = ?self.care, "consuming");
                        self.ready = Some(Ready::announce(self.function.ready_file.as_deref()));
                        ticks = every(Duration::from_millis(SHARE_MS));
                    }
                    continue;
                }
                next = next, if is_subscribed => next?,
            };
            let is_suspect = batch.iter().any(is_suspect);
            if is_suspect && self.care == Care::None {
                return Ok(Ended::Suspect);
            }
            let taken: Vec<_> = batch.iter().map(|delivery| (delivery.partition, delivery.tag)).collect();
            let Some(settled) = process(self.function, batch, || acknowledger.is_open()).await else {
                return if *stop.borrow() { Ok(Ended::Stopped) } else { Err(self.inbox.failure().await) };
            };
            let is_clear = self.care == Care::OneByOne && !is_suspect;
            if is_clear && self.started.elapsed() >= Duration::from_secs(CAREFUL_SECONDS) {
                // The window of one is decided and not acknowledged, so the broker sends nothing that we would return.
                self.inbox.cancel().await?;
                room.send(Decided { settled, held: Vec::new() });
                return Ok(Ended::Clear);
            }
            room.send(Decided { settled, held: self.share.held() });
            self.pushed += 1;
            // Only now, when it is decided: what is noted may be acknowledged. What it makes us hold counts from the
            // next batch on.
            self.take_note(&taken);
            self.hand_over().await?;
        }
    }

    /// One step of joining; true: it was the last.
    async fn join(&mut self) -> Result<bool, Error> {
        let place = self.inbox.place();
        while let Some(step) = self.joining.step(place) {
            match step {
                Step::TakeIfFree(partition) if self.inbox.is_served(partition).await? => continue,
                Step::TakeIfFree(partition) => {
                    self.inbox.join(partition).await?;
                    self.joining.took(partition);
                }
                Step::GetInLine(partition) => self.inbox.join(partition).await?,
                Step::Wait => (),
            }
            if place.is_some() {
                break;
            }
        }
        Ok(self.joining.is_over())
    }

    /// Says what is ours, holds what is more than our share of the workers, and has the windows filled that buyers leave open.
    fn compare_shares(&mut self) {
        self.inbox.claim(self.share.claimed());
        // Those who are still joining get nothing yet: handed over, a partition would come straight back to us.
        let Some(Place { in_line, .. }) = self.inbox.place() else { return };
        if self.share.set_workers(in_line) {
            // We came, or somebody else did or left. What we are active on is known only by what is delivered, so this
            // shares what is idle, too, and has whoever looks on told of it.
            self.fill((0..self.queues.len()).map(|partition| (partition, 1)));
        }
        let to_fill = self.share.unfilled(self.window);
        self.fill(to_fill.into_iter());
        self.hold_surplus();
    }

    /// Has so many messages put into these partitions that mean nothing.
    fn fill(&self, partitions: impl Iterator<Item = (usize, u64)>) {
        let queues: Vec<_> = partitions.map(|(partition, count)| (self.queues[partition].clone(), count)).collect();
        if queues.is_empty() {
            return;
        }
        let (nodes, name) = (self.function.nodes.clone(), self.name.clone());
        tokio::spawn(async move {
            if let Err(error) = amqp::fill(&nodes, &name, &queues).await {
                tracing::warn!(%error, "messages that mean nothing were not sent; handing over takes longer");
            }
        });
    }

    fn take_note(&mut self, taken: &[(usize, u64)]) {
        let now = Instant::now();
        let news = taken.iter().filter(|(partition, tag)| self.share.took(*partition, *tag, now)).count();
        if news > 0 {
            self.hold_surplus();
        }
    }

    fn hold_surplus(&mut self) {
        for partition in self.share.surplus(Instant::now()) {
            tracing::info!(partition, "handing a partition over");
            self.share.hold(partition);
        }
    }

    /// Hands over each partition of which a whole window is decided and answered.
    async fn hand_over(&mut self) -> Result<(), Error> {
        for (partition, last_tag) in self.share.full(self.window) {
            self.settling.settled(self.pushed).await?;
            self.inbox.hand_over(partition, last_tag).await?;
            self.share.handed_over(partition);
            tracing::info!(partition, "handed a partition over");
        }
        Ok(())
    }
}

fn every(pause: Duration) -> Interval {
    let mut ticks = interval(pause);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn is_suspect(delivery: &Delivery) -> bool {
    delivery.deliveries_before >= SUSPECT_AT_DELIVERIES
}
