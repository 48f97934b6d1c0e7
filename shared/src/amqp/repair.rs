//! What somebody deletes of the topology under running functions is declared again.
//!
//! Invariant: it is looked at before it is declared. So whoever may not declare leaves no error in the broker's log while
//! nothing is missing.

use super::{
    Error, answered,
    connect::{Nodes, connect},
    topology::{Binding, Exchange, Queue, Topology, bind, declare_exchange, declare_queue, state},
};
use futures_util::future::BoxFuture;
use lapin::{Channel, Connection, ExchangeKind, options::ExchangeDeclareOptions, types::FieldTable};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A queue is declared again only so long after it was missed: who was subscribed to it must find it gone, or could not
/// tell its end from a subscription that the broker cancelled for another reason.
const QUEUE_GRACE: Duration = Duration::from_secs(1);
/// Bindings cannot be looked at: they are made again once in so many looks, and with whatever was declared.
const LOOKS_A_BINDING: u32 = 12;

/// Looks after the topology, on a connection of its own.
pub struct Repair {
    connection: Connection,
    channel: Channel,
    topology: Topology,
    /// What we may not look at: it is taken to be there.
    hidden: BTreeSet<String>,
    may_bind: bool,
    looks: u32,
}

/// What a look has found.
#[derive(Debug, Default)]
pub struct Found {
    /// It was gone, and is there again.
    pub declared: Vec<String>,
    /// It is gone, and why it could not be declared.
    pub missing: BTreeMap<String, String>,
}

impl Repair {
    pub fn open<'a>(nodes: &'a Nodes, name: &'a str) -> BoxFuture<'a, Result<Self, Error>> {
        Box::pin(async move {
            let connection = connect(nodes, &format!("{name} repair")).await?;
            let channel = answered(async { Ok(connection.create_channel().await?) }).await?;
            let (topology, hidden) = (Topology::read(), BTreeSet::new());
            Ok(Self { connection, channel, topology, hidden, may_bind: true, looks: 0 })
        })
    }

    /// Looks once, and declares what is gone. An error is the connection's.
    pub fn look(&mut self) -> BoxFuture<'_, Result<Found, Error>> {
        Box::pin(async move {
            let Topology { exchanges, queues, bindings } = std::mem::take(&mut self.topology);
            let looked = self.look_at(&exchanges, &queues, &bindings).await;
            self.topology = Topology { exchanges, queues, bindings };
            looked
        })
    }

    async fn look_at(
        &mut self,
        exchanges: &[Exchange],
        queues: &[Queue],
        bindings: &[Binding],
    ) -> Result<Found, Error> {
        let mut found = Found::default();
        for exchange in exchanges {
            let name = &exchange.name;
            if !self.is_there(name, async |channel| passive(channel, name).await).await? {
                let declared = self.ask(async |channel| declare_exchange(channel, exchange).await).await?;
                found.note(name, declared);
            }
        }
        let mut gone = Vec::new();
        for queue in queues {
            let name = &queue.name;
            if !self.is_there(name, async |channel| Ok(state(channel, name).await.map(drop)?)).await? {
                gone.push(queue);
            }
        }
        if !gone.is_empty() {
            tokio::time::sleep(QUEUE_GRACE).await;
        }
        for queue in gone {
            let declared = self.ask(async |channel| declare_queue(channel, queue).await).await?;
            found.note(&queue.name, declared);
        }
        self.looks += 1;
        if self.may_bind && (!found.declared.is_empty() || self.looks.is_multiple_of(LOOKS_A_BINDING)) {
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
        }
        Ok(found)
    }

    async fn is_there(
        &mut self,
        name: &str,
        look: impl AsyncFnOnce(&Channel) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        if self.hidden.contains(name) {
            return Ok(true);
        }
        match self.ask(look).await? {
            Ok(()) => Ok(true),
            Err(Error::Missing(_)) => Ok(false),
            // RabbitMQ 4.2.6 and 4.3.0 want the right to configure for it, later ones any right.
            Err(Error::NotAllowed(_)) => {
                self.hidden.insert(name.to_owned());
                Ok(true)
            }
            // Its node is away, or does not answer: nobody knows.
            Err(_) => Ok(true),
        }
    }

    /// What the broker says; the outer error is the connection's.
    async fn ask(&mut self, ask: impl AsyncFnOnce(&Channel) -> Result<(), Error>) -> Result<Result<(), Error>, Error> {
        let said = tokio::time::timeout(Duration::from_secs(super::ANSWER_SECONDS_MAX), ask(&self.channel)).await;
        let said = said.unwrap_or_else(|_| Err(Error::Lost("no answer".to_owned())));
        // To be told no costs the channel.
        if said.is_err() {
            self.channel = answered(async { Ok(self.connection.create_channel().await?) }).await?;
        }
        Ok(said)
    }
}

impl Found {
    fn note(&mut self, name: &str, declared: Result<(), Error>) {
        match declared {
            Ok(()) => self.declared.push(name.to_owned()),
            Err(error) => drop(self.missing.insert(name.to_owned(), error.to_string())),
        }
    }
}

async fn passive(channel: &Channel, exchange: &str) -> Result<(), Error> {
    let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    // Which type it is asked for does not matter.
    Ok(channel.exchange_declare(exchange.into(), ExchangeKind::Direct, options, FieldTable::default()).await?)
}
