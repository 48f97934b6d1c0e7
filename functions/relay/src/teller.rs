//! Publishes rows of events, and finds the row that is refused among those that are not.
//!
//! Never sees the database. Invariants: rows are published in their order, each event of a row before the next one's; a
//! row is given up only when it was refused [`REFUSALS_MAX`] times in a row, alone, and the broker takes others, or says
//! that this one can never be; a broker that is away, or that takes nothing, costs no row.

use crate::tell::Told;
use shared::{
    amqp::{self, EventError, Nodes, OutgoingEvent, Publisher},
    retry::RetryPolicy,
};
use std::time::{Duration, Instant};

/// How often a row is refused, alone, before it is given up.
pub const REFUSALS_MAX: u32 = 5;
/// What may lie between two refusals: a queue that changes its leader refuses for a moment.
const REFUSED: RetryPolicy = RetryPolicy { wait_ms: 100, factor: 2.0, wait_ms_max: 800, attempts_max: REFUSALS_MAX };

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has taken every event of it.
    Told,
    /// It is given up, for this reason. Some of its events may have been taken.
    Refused(String),
}

/// Why no row could be told.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The broker is away.
    #[error(transparent)]
    Broker(#[from] amqp::Error),
    /// It is there, and takes none of them.
    #[error("RabbitMQ takes no event ({0}); is a queue full that is bound to `events`, or a permission missing?")]
    TakesNothing(String),
}

/// A connection to tell on.
pub struct Teller {
    nodes: Nodes,
    name: String,
    worker_id: String,
    outgoing: Publisher,
}

/// How a row fared alone.
enum Alone {
    Told,
    /// By the broker's word on this very message.
    Unfit(String),
    /// Which may be the broker's fault, or that of who listens.
    NotTaken(String),
}

impl Teller {
    /// Connects; the broker's operators see the connection as `name`.
    ///
    /// # Errors
    /// The broker cannot be used.
    pub async fn connect(nodes: &Nodes, name: &str, worker_id: &str) -> Result<Self, amqp::Error> {
        let outgoing = Publisher::open(nodes, name, worker_id).await?;
        Ok(Self { nodes: nodes.clone(), name: name.to_owned(), worker_id: worker_id.to_owned(), outgoing })
    }

    /// Whether the broker reads nothing at present, being short of memory or disk.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.outgoing.is_blocked()
    }

    /// Publishes rows in order, `within` this time. Returns what became of each, from the first on; where one had to be
    /// looked for, not always of all of them: the rest is to be told the next time.
    ///
    /// # Errors
    /// [`Trouble`]: some may have been told, so tell all of them again; after [`Trouble::Broker`], on a new connection.
    pub async fn tell(&mut self, rows: &[&[Told]], within: Duration) -> Result<Vec<Outcome>, Trouble> {
        let until = Instant::now() + within;
        let events: Vec<_> = rows.iter().copied().flatten().map(out).collect();
        match self.outgoing.tell(&events, within).await {
            Ok(()) => Ok(vec![Outcome::Told; rows.len()]),
            Err(EventError::Away(error)) => Err(error.into()),
            Err(EventError::Unfit(reason) | EventError::NotTaken(reason)) => {
                tracing::info!(reason, rows = rows.len(), "an event is refused; telling row by row");
                self.connect_anew().await?;
                self.tell_row_by_row(rows, until, within / 2).await
            }
        }
    }

    /// Tells each row alone, and begins no further one when `beginning` is over.
    async fn tell_row_by_row(
        &mut self,
        rows: &[&[Told]],
        until: Instant,
        beginning: Duration,
    ) -> Result<Vec<Outcome>, Trouble> {
        let started = Instant::now();
        let mut fared = Vec::new();
        for row in rows {
            if started.elapsed() > beginning {
                break;
            }
            fared.push(self.tell_alone(row, until).await?);
        }
        judge(fared)
    }

    async fn tell_alone(&mut self, row: &[Told], until: Instant) -> Result<Alone, Trouble> {
        let events: Vec<_> = row.iter().map(out).collect();
        let mut waits = REFUSED.waits();
        loop {
            let outcome = self.outgoing.tell(&events, until.saturating_duration_since(Instant::now())).await;
            let refused = match outcome {
                Ok(()) => return Ok(Alone::Told),
                Err(EventError::Away(error)) => return Err(error.into()),
                Err(EventError::Unfit(reason)) => Alone::Unfit(reason),
                Err(EventError::NotTaken(reason)) => Alone::NotTaken(reason),
            };
            // The refusal may have cost the channel.
            self.connect_anew().await?;
            let Some(wait) = waits.next() else { return Ok(refused) };
            tokio::time::sleep(wait).await;
        }
    }

    async fn connect_anew(&mut self) -> Result<(), amqp::Error> {
        let outgoing = Publisher::open(&self.nodes, &self.name, &self.worker_id).await?;
        std::mem::replace(&mut self.outgoing, outgoing).close().await;
        Ok(())
    }
}

/// Whose fault it is: that of a row which is refused while others are taken, and the broker's where none is.
fn judge(fared: Vec<Alone>) -> Result<Vec<Outcome>, Trouble> {
    let is_any_told = fared.iter().any(|row| matches!(row, Alone::Told));
    let mut outcomes = Vec::with_capacity(fared.len());
    for row in fared {
        outcomes.push(match row {
            Alone::Told => Outcome::Told,
            Alone::Unfit(reason) => Outcome::Refused(reason),
            Alone::NotTaken(reason) if is_any_told => Outcome::Refused(reason),
            // None behind it was told, so it may wait, and its item's order stays.
            Alone::NotTaken(reason) if outcomes.is_empty() => return Err(Trouble::TakesNothing(reason)),
            Alone::NotTaken(_) => break,
        });
    }
    Ok(outcomes)
}

fn out(event: &Told) -> OutgoingEvent<'_> {
    OutgoingEvent { id: &event.id, kind: event.kind, routing_key: &event.routing_key, at: event.at, body: &event.body }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_taken() -> Alone {
        Alone::NotTaken("full".to_owned())
    }

    fn unfit() -> Alone {
        Alone::Unfit("too large".to_owned())
    }

    fn refused(reason: &str) -> Outcome {
        Outcome::Refused(reason.to_owned())
    }

    #[test]
    fn a_row_that_is_refused_while_others_are_taken_is_given_up_wherever_it_stands() {
        for place in 0..3 {
            let mut fared = vec![Alone::Told, Alone::Told];
            fared.insert(place, not_taken());
            let mut expected = vec![Outcome::Told, Outcome::Told];
            expected.insert(place, refused("full"));
            assert_eq!(judge(fared).unwrap(), expected);
        }
    }

    #[test]
    fn where_none_is_taken_none_is_given_up() {
        for fared in [vec![not_taken()], vec![not_taken(), not_taken()], vec![not_taken(), unfit()]] {
            assert!(matches!(judge(fared), Err(Trouble::TakesNothing(_))));
        }
    }

    #[test]
    fn a_row_that_can_never_be_is_given_up_even_if_it_is_the_only_one() {
        assert_eq!(judge(vec![unfit()]).unwrap(), [refused("too large")]);
        assert_eq!(judge(vec![unfit(), not_taken(), unfit()]).unwrap(), [refused("too large")], "the next one waits");
    }
}
