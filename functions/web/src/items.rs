//! Items as they are now.

use crate::door::{Door, Id};
use crate::lookup::Away;
use crate::on_sale::Reading;
use crate::problem::Problem;
use crate::streams::{Sender, stream};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use shared::messages::CONTENT_TYPE;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often an item is looked at for those who watch it.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How old a list may be that is told where the next one does not come, ...
const KNOWN_SECONDS_MAX: u64 = 10;
/// ... how long the next one is waited for where there is such a list, and where there is none.
const NEXT_SECONDS_MAX: u64 = 1;
const FIRST_SECONDS_MAX: u64 = 5;

/// `GET /items`: once, or as events, whenever something has changed.
pub(crate) async fn on_sale(State(door): State<Arc<Door>>, headers: HeaderMap) -> Result<Response, Problem> {
    let mut reading = door.on_sale.look();
    let accepts = headers.get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok()).unwrap_or_default();
    if !accepts.contains("text/event-stream") {
        let is_known = |reading: &Reading| reading.at.elapsed().as_secs() < KNOWN_SECONDS_MAX;
        let wait = if reading.borrow().as_ref().is_some_and(is_known) { NEXT_SECONDS_MAX } else { FIRST_SECONDS_MAX };
        drop(timeout(Duration::from_secs(wait), reading.changed()).await);
        let known = reading.borrow().clone().filter(is_known).ok_or(Problem::DatabaseAway)?;
        return Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], known.list.to_string()).into_response());
    }
    stream(door, async move |_, sender: Sender| {
        let mut told: Arc<str> = Arc::from("");
        loop {
            let is_news = |next: &Option<Reading>| next.as_ref().is_some_and(|next| !Arc::ptr_eq(&next.list, &told));
            let Ok(Some(next)) = reading.wait_for(is_news).await.map(|next| next.clone()) else { return };
            sender.say("items", &next.list).await;
            told = next.list;
        }
    })
}

/// `GET /items/{item}`
pub(crate) async fn get(State(door): State<Arc<Door>>, Id(id): Id) -> Result<Response, Problem> {
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], look(&door, id).await?).into_response())
}

/// `GET /items/{item}/events`
pub(crate) async fn events(State(door): State<Arc<Door>>, Id(id): Id) -> Result<Response, Problem> {
    let first = look(&door, id.clone()).await?;
    stream(door, move |door, sender| watch(door, id, first, sender))
}

/// Says each change; while the database is away, nothing.
async fn watch(door: Arc<Door>, id: String, first: String, sender: Sender) {
    let mut known = first;
    sender.say("item", &known).await;
    loop {
        sleep(LOOK_AGAIN).await;
        match look(&door, id.clone()).await {
            Ok(item) if item != known => {
                sender.say("item", &item).await;
                known = item;
            }
            Ok(_) | Err(_) => (),
        }
    }
}

async fn look(door: &Door, id: String) -> Result<String, Problem> {
    match door.items.get(id).await {
        Ok(item) => item.ok_or(Problem::UnknownItem),
        Err(Away) => Err(Problem::DatabaseAway),
    }
}
