//! Hears what the purchase workers say of themselves, by which it is known whether anybody else publishes.

use crate::{place::Others, tickets::Tickets};
use shared::{
    amqp::{Error, Observer},
    messages::PURCHASE_EXCHANGE,
    retry::RetryPolicy,
    worker::Service,
};
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// How often: as often as workers say it.
const LOOK: Duration = Duration::from_millis(500);

/// For ever. Whatever is out meanwhile: purchases go on without it.
pub(crate) async fn hear(tickets: Arc<Tickets>, service: Service, name: String) {
    let mut waits = RetryPolicy::SERVER_AWAY.waits();
    loop {
        let Err(error) = hear_connected(&tickets, &service, &name).await;
        tickets.know_others(false);
        tracing::debug!(%error, "workers are not heard, so no place in line is known");
        sleep(waits.next().unwrap_or_default()).await;
    }
}

async fn hear_connected(tickets: &Tickets, service: &Service, name: &str) -> Result<Infallible, Error> {
    let mut observer = Observer::open(&service.nodes, &format!("{name} hear"), PURCHASE_EXCHANGE).await?;
    let mut others = Others::default();
    loop {
        let heard = observer.look(&[]).await?.heard.into_iter();
        let said = heard.map(|worker| (worker.process, worker.verdicts.values().sum()));
        let (told, undecided) = tickets.told_and_undecided();
        others.hear(said, told, undecided, Instant::now());
        tickets.know_others(others.are_none(Instant::now()));
        sleep(LOOK).await;
    }
}
