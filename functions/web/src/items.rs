//! Items as they are now.

use crate::{
    door::{Door, Id},
    lookup::Away,
    problem::Problem,
    streams::{Sender, stream},
};
use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use shared::messages::CONTENT_TYPE;
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// How often an item is looked at for those who watch it.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long whoever asks once waits for the next reading.
const READING_MAX: Duration = Duration::from_secs(5);

/// `GET /items`: once, or as events, whenever something has changed.
pub(crate) async fn on_sale(State(door): State<Arc<Door>>, headers: HeaderMap) -> Result<Response, Problem> {
    let mut list = door.on_sale.look();
    let accepts = headers.get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok()).unwrap_or_default();
    if !accepts.contains("text/event-stream") {
        timeout(READING_MAX, list.changed()).await.ok().and_then(Result::ok).ok_or(Problem::DatabaseAway)?;
        let list = list.borrow().to_string();
        return Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], list).into_response());
    }
    stream(door, async move |_, sender: Sender| {
        let mut told: Arc<str> = Arc::from("");
        loop {
            let is_news = |list: &Arc<str>| !Arc::ptr_eq(list, &told) && !list.is_empty();
            let Ok(next) = list.wait_for(is_news).await.map(|list| Arc::clone(&list)) else { return };
            sender.say("items", &next).await;
            told = next;
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
