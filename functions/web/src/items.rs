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
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// How often an item is looked at for those who watch it.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How old a list may be that is told, ...
const KNOWN_SECONDS_MAX: u64 = 10;
/// ... how long the next one is waited for where there is such a list, and where there is none.
const NEXT_SECONDS_MAX: u64 = 1;
const FIRST_SECONDS_MAX: u64 = 5;

/// `GET /items`: once, or as events, whenever something has changed.
pub(crate) async fn on_sale(State(door): State<Arc<Door>>, headers: HeaderMap) -> Result<Response, Problem> {
    let mut reading = door.on_sale.look();
    let accepts = headers.get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok()).unwrap_or_default();
    if !accepts.contains("text/event-stream") {
        let wait = if reading.borrow().as_ref().is_some_and(is_known) { NEXT_SECONDS_MAX } else { FIRST_SECONDS_MAX };
        drop(timeout(Duration::from_secs(wait), reading.changed()).await);
        let known = reading.borrow().clone().filter(is_known).ok_or(Problem::DatabaseAway)?;
        return Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], known.list.to_string()).into_response());
    }
    stream(door, async move |_, sender: Sender| {
        let mut told: Arc<str> = Arc::from("");
        while let Some(list) = next(&mut reading, &told).await {
            sender.say("items", &list).await;
            told = list;
        }
    })
}

/// Whether it is of now, as far as anybody can tell. The last reading stays, however long nobody looks.
fn is_known(reading: &Reading) -> bool {
    reading.at.elapsed().as_secs() < KNOWN_SECONDS_MAX
}

/// The list, once it is another than the one that was told; `None`: nobody reads any more.
async fn next(reading: &mut watch::Receiver<Option<Reading>>, told: &Arc<str>) -> Option<Arc<str>> {
    let is_news = |next: &Reading| is_known(next) && !Arc::ptr_eq(&next.list, told);
    let next = reading.wait_for(|next| next.as_ref().is_some_and(is_news)).await.ok()?;
    next.as_ref().map(|next| Arc::clone(&next.list))
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::time::Instant;

    #[test]
    fn a_stream_tells_a_list_that_is_known_and_another_than_the_last_one() {
        let (told, other): (Arc<str>, Arc<str>) = (Arc::from("[]"), Arc::from("[1]"));
        for (list, seconds, expected) in [
            (&other, 0, Some(Some(Arc::clone(&other)))),
            (&other, KNOWN_SECONDS_MAX - 1, Some(Some(Arc::clone(&other)))),
            (&other, KNOWN_SECONDS_MAX, None),
            (&told, 0, None),
        ] {
            let at = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
            let (_sender, mut reading) = watch::channel(Some(Reading { list: Arc::clone(list), at }));
            assert_eq!(next(&mut reading, &told).now_or_never(), expected, "{list}, {seconds} s");
        }
    }
}
