//! Publishes rows of events, and finds the row that is refused among those that are not.
//!
//! Rows are published in their order, each event of a row before the next one's. A row is given up only when it was refused
//! `REFUSALS_MAX` times in a row, alone, while the broker takes others, or says that this one can never be. A broker that
//! is away, or that takes nothing, costs no row.

use crate::decide::{Message, Refusal, given_up};
use anyhow::anyhow;
use shared::{
    amqp::{self, EventError, Nodes, OutgoingEvent, Publisher},
    retry::RetryPolicy,
};
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// How often a row is refused, alone, before it is given up.
const REFUSALS_MAX: u32 = 5;
/// What may lie between two refusals: a queue that changes its leader refuses for a moment.
const REFUSED: RetryPolicy = RetryPolicy { wait_ms: 100, factor: 2.0, wait_ms_max: 800, attempts_max: REFUSALS_MAX };

/// The least time between two marks: each is a write to two disks.
const MARK_PAUSE: Duration = Duration::from_secs(1);

/// A connection to publish on.
pub struct EventPublisher {
    nodes: Nodes,
    name: String,
    worker_id: String,
    publisher: Publisher,
    /// The last mark that RabbitMQ has, or the beginning of time; `None` until it was asked.
    mark: Option<OffsetDateTime>,
    /// When it was left here, and whether anything was published since.
    left: Option<Instant>,
    is_unmarked: bool,
}

impl EventPublisher {
    /// Connects; the broker's operators see the connection as `name`.
    pub async fn connect(nodes: &Nodes, name: &str, worker_id: &str) -> Result<Self, amqp::Error> {
        let publisher = Publisher::open(nodes, name, worker_id).await?;
        let (name, worker_id) = (name.to_owned(), worker_id.to_owned());
        Ok(Self { nodes: nodes.clone(), name, worker_id, publisher, mark: None, left: None, is_unmarked: false })
    }

    /// The last mark that RabbitMQ has. To be asked by one at a time: by who has the turn.
    pub(crate) async fn mark(&mut self) -> Result<OffsetDateTime, amqp::Error> {
        if self.mark.is_none() {
            self.mark = Some(self.publisher.mark().await?.unwrap_or(OffsetDateTime::UNIX_EPOCH));
        }
        Ok(self.mark.expect("it was just asked for"))
    }

    /// Whether the mark is to be moved on; `is_published`: whether anything was published just now.
    pub(crate) fn is_mark_due(&mut self, is_published: bool) -> bool {
        self.is_unmarked |= is_published;
        self.is_unmarked && self.left.is_none_or(|left| left.elapsed() >= MARK_PAUSE)
    }

    /// Leaves the mark in RabbitMQ, once it is on the database's disk.
    pub(crate) async fn leave_mark(&mut self, at: OffsetDateTime) -> Result<(), amqp::Error> {
        self.publisher.leave_mark(at).await?;
        (self.mark, self.left, self.is_unmarked) = (Some(at), Some(Instant::now()), false);
        Ok(())
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
                self.publish_row_by_row(rows, until, Instant::now() + within / 2).await
            }
        }
    }

    /// Publishes each row alone, and begins no further one when `last_begin` has passed.
    async fn publish_row_by_row(
        &mut self,
        rows: &[Vec<Message>],
        until: Instant,
        last_begin: Instant,
    ) -> anyhow::Result<Vec<Result<(), String>>> {
        let mut outcomes = Vec::new();
        for row in rows.iter().take_while(|_| Instant::now() <= last_begin) {
            outcomes.push(self.publish_alone(row, until).await?);
        }
        given_up(outcomes).map_err(|reason| {
            anyhow!("RabbitMQ takes no event ({reason}); is a queue full that is bound to `events`, or a permission missing?")
        })
    }

    async fn publish_alone(&mut self, row: &[Message], until: Instant) -> anyhow::Result<Result<(), Refusal>> {
        let events: Vec<_> = row.iter().map(outgoing).collect();
        let mut waits = REFUSED.waits();
        loop {
            let within = until.saturating_duration_since(Instant::now());
            let refusal = match self.publisher.publish_events(&events, within).await {
                Ok(()) => return Ok(Ok(())),
                Err(EventError::Away(error)) => return Err(error.into()),
                Err(EventError::Unfit(reason)) => Refusal::Unfit(reason),
                Err(EventError::NotTaken(reason)) => Refusal::NotTaken(reason),
            };
            // The refusal may have cost the channel.
            self.reconnect().await?;
            let Some(wait) = waits.next() else { return Ok(Err(refusal)) };
            tokio::time::sleep(wait).await;
        }
    }

    async fn reconnect(&mut self) -> Result<(), amqp::Error> {
        let publisher = Publisher::open(&self.nodes, &self.name, &self.worker_id).await?;
        std::mem::replace(&mut self.publisher, publisher).close().await;
        Ok(())
    }
}

fn outgoing(message: &Message) -> OutgoingEvent<'_> {
    let Message { event_id, kind, routing_key, at, body } = message;
    OutgoingEvent { id: event_id, kind: *kind, routing_key, at: *at, body }
}
