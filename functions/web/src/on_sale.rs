//! What is on sale: one list, read again and again while somebody looks, however many look.

use crate::problem::Problem;
use axum::{
    http::{HeaderMap, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{StreamExt, stream};
use serde_json::json;
use shared::{
    db,
    items::{ITEMS, Item},
    messages::CONTENT_TYPE,
};
use sqlx::PgPool;
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

/// The most that are shown, the hottest.
const ITEMS_MAX: i64 = 50;
/// How often they are read, at most; what takes long is read less often, so that it costs a tenth of the time.
const EVERY: Duration = Duration::from_millis(250);
const SHARE: u32 = 10;
/// How long whoever asks once waits for the next reading.
const READING_MAX: Duration = Duration::from_secs(5);

/// The list, as long as it is the same the very same; empty until it was read.
pub(crate) struct OnSale {
    list: watch::Sender<Arc<str>>,
    looked_at: Notify,
}

impl OnSale {
    pub(crate) fn start(pool: &PgPool) -> Arc<Self> {
        let on_sale = Arc::new(Self { list: watch::channel(Arc::from("")).0, looked_at: Notify::new() });
        tokio::spawn(read(Arc::clone(&on_sale), pool.clone()));
        on_sale
    }

    /// Once; or as events, whenever something has changed, until `stopped`.
    pub(crate) async fn shown(
        &self,
        headers: &HeaderMap,
        stopped: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Response, Problem> {
        let mut list = self.list.subscribe();
        self.looked_at.notify_one();
        let accepts = headers.get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok()).unwrap_or_default();
        if !accepts.contains("text/event-stream") {
            timeout(READING_MAX, list.changed()).await.ok().and_then(Result::ok).ok_or(Problem::DatabaseAway)?;
            let list = list.borrow().to_string();
            return Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], list).into_response());
        }
        let events = stream::unfold((list, Arc::from("")), async |(mut list, told)| {
            let next = list.wait_for(|list| !Arc::ptr_eq(list, &told) && !list.is_empty()).await.ok()?.clone();
            let event = Event::default().event("items").data(&*next);
            Some((Ok::<_, Infallible>(event), (list, next)))
        });
        Ok(Sse::new(events.take_until(stopped)).keep_alive(KeepAlive::default()).into_response())
    }
}

async fn read(on_sale: Arc<OnSale>, pool: PgPool) {
    loop {
        while on_sale.list.receiver_count() == 0 {
            on_sale.looked_at.notified().await;
        }
        let started = Instant::now();
        // Where it fails, whoever looks sees what was; the look-up of verdicts says so in the log.
        if let Ok(items) = db::answered(sqlx::query_as(ITEMS).bind(ITEMS_MAX).fetch_all(&pool)).await {
            let (items, known): (Vec<Item>, _) = (items, on_sale.list.borrow().clone());
            let list = json!({ "items": items }).to_string();
            on_sale.list.send_replace(if *known == *list { known } else { list.into() });
        }
        sleep(EVERY.max(started.elapsed() * SHARE)).await;
    }
}
