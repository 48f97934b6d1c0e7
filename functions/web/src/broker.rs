//! Between the door and the queue: publishes what is asked, and hands out what is replied, through every outage.
//!
//! Invariant: what the broker has confirmed is either decided here, or forgotten here and decided by itself. After a lost connection
//! all that is not decided is published again, in its order: the same ids get the same verdicts.

use crate::collector::{Collected, Collector, Line, body};
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::tickets::{Ticket, Tickets};
use crate::verdict;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use shared::amqp::{Confirmed, Error, IncomingReply, OutgoingRequest, Replies, Requester};
use shared::messages::{self, PURCHASE_EXCHANGE};
use shared::retry::RetryPolicy;
use shared::worker::Service;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// How many that were asked are taken in before replies and confirms have their turn.
const ASKED_AT_ONCE_MAX: usize = 1_000;
/// How often it is looked whether anything is to be forgotten.
const FORGET: Duration = Duration::from_secs(1);

/// What the broker says to the message with this number.
type Confirming = FuturesUnordered<BoxFuture<'static, (u64, Line, Result<Confirmed, Error>)>>;

pub(crate) struct Broker {
    pub(crate) tickets: Arc<Tickets>,
    pub(crate) metrics: Metrics,
    asked: UnboundedReceiver<Arc<Ticket>>,
    collector: Collector<Arc<Ticket>>,
    /// What is not decided, message by message, each under the number by which its reply is known.
    sent: BTreeMap<u64, Vec<Arc<Ticket>>>,
    next: u64,
}

impl Broker {
    pub(crate) fn new(tickets: Arc<Tickets>, asked: UnboundedReceiver<Arc<Ticket>>, metrics: Metrics) -> Self {
        Self { tickets, metrics, asked, collector: Collector::default(), sent: BTreeMap::new(), next: 0 }
    }

    /// For ever.
    pub(crate) async fn run(mut self, service: Service, name: String) {
        let (mut outage, mut waits) =
            (service.outage("requests cannot be published"), RetryPolicy::SERVER_AWAY.waits());
        loop {
            let started = Instant::now();
            let error = match self.collect_during(Requester::open(&service.nodes, &name)).await {
                Ok((requester, replies)) => {
                    outage.is_over();
                    let _ready = service.announce();
                    tracing::info!("taking requests");
                    let Err(error) = self.serve(&requester, replies).await;
                    error
                }
                Err(error) => error,
            };
            // The next connection goes by what the broker has just said of whom it takes us for.
            if !service.nodes.learns_user(&error) {
                service.nodes.go_on();
                outage.goes_on(error);
                let wait = RetryPolicy::SERVER_AWAY.wait_after(started.elapsed(), &mut waits);
                self.collect_during(sleep(wait)).await;
            }
            self.forget_given_up();
            self.forget();
        }
    }

    /// What is asked meanwhile waits for a connection.
    async fn collect_during<T>(&mut self, doing: impl Future<Output = T>) -> T {
        let mut doing = std::pin::pin!(doing);
        loop {
            tokio::select! {
                done = &mut doing => return done,
                Some(ticket) = self.asked.recv() => drop(self.add(ticket)),
            }
        }
    }

    async fn serve(&mut self, requester: &Requester, mut replies: Replies) -> Result<Infallible, Error> {
        let mut confirming = self.publish_again(requester).await;
        let (mut asked, mut forget) = (Vec::new(), interval(FORGET));
        forget.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                1.. = self.asked.recv_many(&mut asked, ASKED_AT_ONCE_MAX) => {
                    for ticket in asked.drain(..) {
                        if let Some(number) = self.add(ticket) {
                            self.publish(requester, &mut confirming, number).await;
                        }
                    }
                }
                Some((number, line, confirmed)) = confirming.next() => {
                    self.confirmed(number, confirmed?);
                    if let Some(message) = self.collector.confirmed(&line) {
                        let number = self.note(message);
                        self.publish(requester, &mut confirming, number).await;
                    }
                }
                reply = replies.next() => {
                    let ended = || Error::Lost("the broker ended the subscription".to_owned());
                    self.replied(&reply.ok_or_else(ended)??);
                }
                _ = forget.tick() => self.forget(),
            }
        }
    }

    /// The number of the message that is to be published now.
    fn add(&mut self, ticket: Arc<Ticket>) -> Option<u64> {
        self.collector.add(ticket).map(|message| self.note(message))
    }

    fn note(&mut self, message: Vec<Arc<Ticket>>) -> u64 {
        self.next += 1;
        self.sent.insert(self.next, message);
        self.next
    }

    async fn publish(&self, requester: &Requester, confirming: &mut Confirming, number: u64) {
        let tickets = &self.sent[&number];
        let line = tickets[0].line.clone();
        self.metrics.published(tickets.len());
        let (body, correlation_id) = (body(tickets), number.to_string());
        let (exchange, routing_key) = (line.exchange, line.routing_key.as_str());
        let request = OutgoingRequest { exchange, routing_key, correlation_id: &correlation_id, body: &body };
        let confirmed = requester.begin(request).await;
        confirming.push(Box::pin(async move { (number, line, confirmed.await) }));
    }

    async fn publish_again(&mut self, requester: &Requester) -> Confirming {
        self.forget_given_up();
        let mut confirming = Confirming::new();
        let lines: Vec<Line> = self.sent.values().map(|tickets| tickets[0].line.clone()).collect();
        let numbers: Vec<u64> = self.sent.keys().copied().collect();
        let next: Vec<u64> =
            self.collector.begin_again(lines.iter()).into_iter().map(|message| self.note(message)).collect();
        for number in numbers.into_iter().chain(next) {
            self.publish(requester, &mut confirming, number).await;
        }
        confirming
    }

    fn confirmed(&mut self, number: u64, confirmed: Confirmed) {
        match confirmed {
            Confirmed::Taken => self.sent.get(&number).into_iter().flatten().for_each(|ticket| ticket.confirm()),
            Confirmed::NoQueue | Confirmed::Refused => {
                let problem = if confirmed == Confirmed::NoQueue { Problem::NotReady } else { Problem::NotTaken };
                for ticket in self.sent.remove(&number).iter().flatten() {
                    self.tickets.not_taken(ticket, problem);
                    // The broker has had it before: what becomes of that is looked up.
                    if ticket.is_confirmed() {
                        self.tickets.forget(ticket);
                    }
                }
            }
        }
    }

    fn replied(&mut self, IncomingReply { correlation_id, body }: &IncomingReply) {
        let found = correlation_id.parse().ok().and_then(|number| self.sent.get_key_value(&number));
        if found.is_none_or(|(_, tickets)| tickets[0].line.exchange == PURCHASE_EXCHANGE) {
            self.tickets.told(messages::bodies(body).len());
        }
        // Of what was published twice, the second one; or somebody else's.
        let Some((number, tickets)) = found else { return };
        let number = *number;
        let ids: Vec<&str> = tickets.iter().map(|ticket| ticket.request_id.as_str()).collect();
        match verdict::split(body, &ids) {
            Some(verdicts) => {
                for (ticket, verdict) in self.sent.remove(&number).iter().flatten().zip(verdicts) {
                    self.tickets.decide(ticket, verdict);
                }
            }
            None => tracing::warn!(correlation_id, "a reply is none to what was asked; it is passed over"),
        }
    }

    /// Of what is to be published again, whatever its sender was told was not taken.
    fn forget_given_up(&mut self) {
        self.sent.retain(|_, tickets| {
            tickets.retain(|ticket| !ticket.is_given_up());
            !tickets.is_empty()
        });
    }

    /// Lets go of what was given up, and, where there is hardly room for more, of what the broker has had for the longest time.
    fn forget(&mut self) {
        self.collector.forget_given_up();
        // Decided by the record, or by a repeat: their own reply is lost, or passed over when it comes.
        self.sent.retain(|_, tickets| !tickets.iter().all(|ticket| ticket.is_over()));
        let mut too_many = self.tickets.too_many();
        while too_many > 0 {
            let is_known = |ticket: &Arc<Ticket>| ticket.is_confirmed() || ticket.is_over();
            let message = self.sent.iter().find(|(_, tickets)| tickets.iter().all(is_known));
            let Some(number) = message.map(|(number, _)| *number) else {
                return;
            };
            for ticket in self.sent.remove(&number).iter().flatten().filter(|ticket| ticket.is_confirmed()) {
                self.tickets.forget(ticket);
                too_many = too_many.saturating_sub(1);
            }
        }
    }
}
