//! Publishes rows of events, and finds the row that is refused among those that are not.
//!
//! Rows are published in their order, each event of a row before the next one's. A row is given up only when it was refused
//! `REFUSALS_MAX` times in a row, alone, while the broker takes others, or says that this one can never be. A broker that
//! is away, or that takes nothing, costs no row. What refuses one after it has refused another so often is not waited for again.

use crate::decide::{Message, Refusal, given_up};
use anyhow::anyhow;
use shared::amqp::{self, EventError, Nodes, OutgoingEvent, Publisher};
use shared::retry::RetryPolicy;
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use tokio::time::timeout;

/// How often a row is refused, alone, before it is given up.
const REFUSALS_MAX: u32 = 5;
/// What may lie between two refusals: a queue that changes its leader refuses for a moment.
const REFUSED: RetryPolicy = RetryPolicy { wait_ms: 100, factor: 2.0, wait_ms_max: 800, attempts_max: REFUSALS_MAX };

/// A key that matches `#` alone.
const NOBODY: &str = "nobody";

/// The least time between two marks: each is a write to two disks.
const MARK_PAUSE: Duration = Duration::from_secs(1);
/// The same where the broker let us leave none.
const REFUSED_MARK_PAUSE: Duration = Duration::from_secs(60);

/// A connection to publish on.
pub struct EventPublisher {
    nodes: Nodes,
    name: String,
    worker_id: String,
    publisher: Publisher,
    /// The last mark that RabbitMQ has, or the beginning of time; `None` until it was asked.
    mark: Option<OffsetDateTime>,
    /// When one was to be left here, and whether anything may have been published since one was.
    left: Option<Instant>,
    is_unmarked: bool,
    /// Whether the broker refuses marks, which was said then.
    is_refused: bool,
}

impl EventPublisher {
    /// Connects; the broker's operators see the connection as `name`.
    pub async fn connect(nodes: &Nodes, name: &str, worker_id: &str) -> Result<Self, amqp::Error> {
        let publisher = Publisher::open(nodes, name, worker_id).await?;
        let (name, worker_id) = (name.to_owned(), worker_id.to_owned());
        let (nodes, mark, left) = (nodes.clone(), None, None);
        Ok(Self { nodes, name, worker_id, publisher, mark, left, is_unmarked: true, is_refused: false })
    }

    /// The last mark that RabbitMQ has. To be asked by one at a time: by who has the turn.
    pub(crate) async fn mark(&mut self) -> Result<OffsetDateTime, amqp::Error> {
        if let Some(mark) = self.mark {
            return Ok(mark);
        }
        let mut mark = self.publisher.mark().await;
        if mark.as_ref().is_err_and(|error| self.nodes.learns_user(error)) {
            self.reconnect().await?;
            mark = self.publisher.mark().await;
        }
        let mark = match mark {
            Err(error) if is_refusal(&error) => {
                self.go_without(&error).await?;
                None
            }
            mark => mark?,
        };
        Ok(*self.mark.insert(mark.unwrap_or(OffsetDateTime::UNIX_EPOCH)))
    }

    /// Whether the mark is to be moved on; `is_published`: whether anything was published just now.
    pub(crate) fn is_mark_due(&mut self, is_published: bool) -> bool {
        self.is_unmarked |= is_published;
        let pause = if self.is_refused { REFUSED_MARK_PAUSE } else { MARK_PAUSE };
        self.is_unmarked && self.left.is_none_or(|left| left.elapsed() >= pause)
    }

    /// Leaves the mark in RabbitMQ, once it is on the database's disk; where that does not work `within` this time, it is
    /// tried again in a later round. The turn is over, so a slow instance may leave an older mark than another one has just
    /// left: what a backup from between them lost is then not noticed until the next mark.
    pub(crate) async fn leave_mark(&mut self, at: OffsetDateTime, within: Duration) -> Result<(), amqp::Error> {
        self.left = Some(Instant::now());
        match timeout(within, self.publisher.leave_mark(at)).await {
            Ok(Ok(())) => (self.mark, self.is_unmarked, self.is_refused) = (Some(at), false, false),
            Ok(Err(error)) if is_refusal(&error) => self.go_without(&error).await?,
            // The next one names us as the broker does.
            Ok(Err(error)) if self.nodes.learns_user(&error) => self.reconnect().await?,
            Ok(Err(error)) => return Err(error),
            Err(_) => tracing::warn!("the mark of what is published is not confirmed in time; trying again"),
        }
        Ok(())
    }

    /// Events are published all the same. The refusal may have cost the channel.
    async fn go_without(&mut self, error: &amqp::Error) -> Result<(), amqp::Error> {
        if !self.is_refused {
            tracing::error!(
                %error,
                "should a backup be restored, that would not be noticed: let our user configure and read the queue \
                 `events.mark` and write to `amq.default` (`rabbitmqctl set_permissions`, see functions/README.md)"
            );
        }
        self.is_refused = true;
        self.reconnect().await
    }

    /// Whether the broker reads nothing at present, being short of memory or disk.
    pub(crate) fn is_blocked(&self) -> bool {
        self.publisher.is_blocked()
    }

    /// Publishes rows in order, `within` this time. Returns what became of each, from the first on: confirmed, or given up
    /// for a reason. Where one had to be looked for, that is not always of all of them: the rest is to be published the
    /// next time.
    ///
    /// # Errors
    /// The broker is away, or takes none of them. Some may be published, so publish all of them again, on a new connection.
    pub(crate) async fn publish(
        &mut self,
        rows: &[Vec<Message>],
        within: Duration,
    ) -> anyhow::Result<Vec<Result<(), String>>> {
        let until = Instant::now() + within;
        let events: Vec<_> = rows.iter().flatten().map(outgoing).collect();
        match self.publisher.publish_events(&events, within).await {
            Ok(()) => Ok(vec![Ok(()); rows.len()]),
            Err(EventError::Away(error)) => Err(error.into()),
            Err(EventError::Unfit(reason) | EventError::NotTaken(reason)) => {
                tracing::info!(reason, rows = rows.len(), "an event is refused; publishing row by row");
                self.reconnect().await?;
                // The other half is for what the waits, and the last one begun, take longer.
                let last_begin = Instant::now() + until.saturating_duration_since(Instant::now()) / 2;
                self.publish_row_by_row(rows, until, last_begin).await
            }
        }
    }

    /// Publishes each row alone, and begins no further one when `last_begin` has passed. Whoever refuses for a moment is waited for
    /// in place, so that the order stays; and once for all rows, so that many that are refused cost no more than one.
    async fn publish_row_by_row(
        &mut self,
        rows: &[Vec<Message>],
        until: Instant,
        last_begin: Instant,
    ) -> anyhow::Result<Vec<Result<(), String>>> {
        let (mut outcomes, mut waits) = (Vec::new(), REFUSED.waits_without_jitter());
        for row in rows.iter().take_while(|_| Instant::now() <= last_begin) {
            let events: Vec<_> = row.iter().map(outgoing).collect();
            let mut outcome = self.publish_once(&events, until).await?;
            while outcome.is_err()
                && let Some(wait) = waits.next()
            {
                tokio::time::sleep(wait).await;
                outcome = self.publish_once(&events, until).await?;
            }
            outcomes.push(outcome);
        }
        let takes_others = outcomes.iter().any(Result::is_ok) || self.takes_others(rows, until).await?;
        given_up(outcomes, takes_others).map_err(|reason| {
            anyhow!("RabbitMQ takes no event ({reason}); is a queue full that is bound to all of `events`, or a permission missing?")
        })
    }

    /// Whether the broker takes an event that is for nobody: the first one, once more, by a key of no event. Who listens to
    /// all hears it again, as a repeat.
    async fn takes_others(&mut self, rows: &[Vec<Message>], until: Instant) -> anyhow::Result<bool> {
        let for_nobody = |event| OutgoingEvent { routing_key: NOBODY, ..outgoing(event) };
        let events: Vec<_> = rows.iter().flatten().take(1).map(for_nobody).collect();
        Ok(self.publish_once(&events, until).await?.is_ok())
    }

    async fn publish_once(
        &mut self,
        events: &[OutgoingEvent<'_>],
        until: Instant,
    ) -> anyhow::Result<Result<(), Refusal>> {
        let within = until.saturating_duration_since(Instant::now());
        let refusal = match self.publisher.publish_events(events, within).await {
            Ok(()) => return Ok(Ok(())),
            Err(EventError::Away(error)) => return Err(error.into()),
            Err(EventError::Unfit(reason)) => Refusal::Unfit(reason),
            Err(EventError::NotTaken(reason)) => Refusal::NotTaken(reason),
        };
        // The refusal may have cost the channel.
        if !self.publisher.channel().status().connected() {
            self.reconnect().await?;
        }
        Ok(Err(refusal))
    }

    async fn reconnect(&mut self) -> Result<(), amqp::Error> {
        let publisher = Publisher::open(&self.nodes, &self.name, &self.worker_id).await?;
        std::mem::replace(&mut self.publisher, publisher).close().await;
        Ok(())
    }
}

/// Whether the queue of the mark is missing, or a right to it.
fn is_refusal(error: &amqp::Error) -> bool {
    matches!(error, amqp::Error::Missing(_) | amqp::Error::NotAllowed(_))
}

fn outgoing(message: &Message) -> OutgoingEvent<'_> {
    let Message { event_id, kind, routing_key, at, body } = message;
    OutgoingEvent { id: event_id, kind: *kind, routing_key, at: *at, body }
}
