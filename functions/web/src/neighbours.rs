//! Hears what the purchase workers say of themselves, by which it is known whether anybody else publishes.

use crate::place::Others;
use crate::tickets::Tickets;
use shared::amqp::{Error, Observer};
use shared::messages::PURCHASE_EXCHANGE;
use shared::retry::RetryPolicy;
use shared::worker::Service;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How often: twice as often as a worker says it.
const LOOK: Duration = Duration::from_millis(250);

/// For ever. Whatever is out meanwhile: purchases go on without it.
pub(crate) async fn hear(tickets: Arc<Tickets>, service: Service, name: String) {
    let (mut waits, mut others) = (RetryPolicy::SERVER_AWAY.waits(), Others::default());
    loop {
        others.begin_again();
        let Err(error) = hear_connected(&tickets, &mut others, &service, &name).await;
        tickets.know_others(false);
        tracing::debug!(%error, "workers are not heard, so no place in line is known");
        sleep(waits.next().unwrap_or_default()).await;
    }
}

async fn hear_connected(
    tickets: &Tickets,
    others: &mut Others,
    service: &Service,
    name: &str,
) -> Result<Infallible, Error> {
    let mut observer = Observer::open(&service.nodes, &format!("{name} hear"), PURCHASE_EXCHANGE).await?;
    loop {
        let heard = observer.look(&[]).await?.heard.into_iter();
        let said = heard.map(|worker| (worker.process, worker.verdicts.values().sum()));
        others.hear(said, tickets.told_in_all(), Instant::now());
        tickets.know_others(others.are_none(Instant::now()));
        sleep(LOOK).await;
    }
}
