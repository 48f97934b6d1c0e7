//! What somebody deletes of the topology under running functions is declared again.
//!
//! Invariant: it is looked at before it is declared. So whoever may not declare leaves no error in the broker's log while
//! nothing is missing.

use super::connect::{Nodes, channel, connect};
use super::topology::{Binding, DEAD_QUEUES, Topology, bind, declare_exchange, declare_queue, state};
use super::{Error, in_time};
use futures_util::future::BoxFuture;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ExchangeKind};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A queue is declared again only so long after it was missed: who was subscribed to it must find it gone, or could not
/// tell its end from a subscription that the broker cancelled for another reason.
const QUEUE_GRACE: Duration = Duration::from_secs(1);
/// Bindings cannot be looked at: they are made again once in so many looks, and with whatever was declared.
const LOOKS_A_BINDING: u32 = 12;

/// Looks after the topology, on a connection of its own.
pub struct Repair {
    connection: Connection,
    channel: Channel,
    /// What we may not look at: it is taken to be there.
    hidden: BTreeSet<&'static str>,
    may_bind: bool,
    looks: u32,
}

/// What was gone, and whether it could be declared again.
pub type Found = BTreeMap<&'static str, Result<(), Error>>;

/// What was seen of the topology.
#[derive(Debug, Default)]
pub struct Looked {
    pub found: Found,
    /// The queues of dead letters, each with how many wait there, as far as we may look.
    pub dead: Vec<(&'static str, u32)>,
}

impl Repair {
    pub fn open<'a>(nodes: &'a Nodes, name: &'a str) -> BoxFuture<'a, Result<Self, Error>> {
        Box::pin(async move {
            let connection = connect(nodes, &format!("{name} repair")).await?;
            let channel = channel(&connection).await?;
            Ok(Self { connection, channel, hidden: BTreeSet::new(), may_bind: true, looks: 0 })
        })
    }

    /// Looks once, and declares what is gone. An error is the connection's.
    pub fn look(&mut self) -> BoxFuture<'_, Result<Looked, Error>> {
        Box::pin(async move {
            let (topology, Looked { mut found, mut dead }) = (Topology::read(), Looked::default());
            for exchange in &topology.exchanges {
                let name = exchange.name.as_str();
                if self.is_gone(name, async |channel| passive(channel, name).await).await? {
                    found.insert(name, self.ask(async |channel| declare_exchange(channel, exchange).await).await?);
                }
            }
            let mut gone = Vec::new();
            for queue in &topology.queues {
                let (name, mut waiting) = (queue.name.as_str(), None);
                let is_gone = self.is_gone(name, async |channel| {
                    waiting = Some(state(channel, name).await?.waiting);
                    Ok(())
                });
                if is_gone.await? {
                    gone.push(queue);
                }
                dead.extend(waiting.filter(|_| DEAD_QUEUES.contains(&name)).map(|waiting| (name, waiting)));
            }
            if !gone.is_empty() {
                tokio::time::sleep(QUEUE_GRACE).await;
            }
            for queue in gone {
                found.insert(&queue.name, self.ask(async |channel| declare_queue(channel, queue).await).await?);
            }
            self.looks += 1;
            if self.may_bind && (found.values().any(Result::is_ok) || self.looks.is_multiple_of(LOOKS_A_BINDING)) {
                self.bind(&topology.bindings).await?;
            }
            Ok(Looked { found, dead })
        })
    }

    async fn bind(&mut self, bindings: &[Binding]) -> Result<(), Error> {
        for binding in bindings {
            match self.ask(async |channel| bind(channel, binding).await).await? {
                Ok(()) | Err(Error::Missing(_)) => (),
                Err(error) => {
                    tracing::info!(%error, "bindings are left as they are");
                    self.may_bind = false;
                    break;
                }
            }
        }
        Ok(())
    }

    async fn is_gone(
        &mut self,
        name: &'static str,
        look: impl AsyncFnOnce(&Channel) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        if self.hidden.contains(name) {
            return Ok(false);
        }
        match self.ask(look).await? {
            Err(Error::Missing(_)) => Ok(true),
            // RabbitMQ 4.2.6 and 4.3.0 want the right to configure for it, later ones any right.
            Err(Error::NotAllowed(_)) => {
                self.hidden.insert(name);
                Ok(false)
            }
            // It is there; or its node is away, or does not answer, and nobody knows.
            Ok(()) | Err(_) => Ok(false),
        }
    }

    /// What the broker says; the outer error is the connection's.
    async fn ask(&mut self, ask: impl AsyncFnOnce(&Channel) -> Result<(), Error>) -> Result<Result<(), Error>, Error> {
        let said = in_time(ask(&self.channel)).await;
        // To be told no costs the channel.
        if said.is_err() {
            self.channel = channel(&self.connection).await?;
        }
        Ok(said)
    }
}

async fn passive(channel: &Channel, exchange: &str) -> Result<(), Error> {
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    // Which type it is asked for does not matter.
    Ok(channel.exchange_declare(exchange.into(), ExchangeKind::Direct, options, FieldTable::default()).await?)
}
