//! What is on sale: one list, read again and again while somebody looks, however many look.

use crate::store;
use serde_json::json;
use sqlx::PgPool;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

/// How often they are read, at most.
const EVERY: Duration = Duration::from_millis(250);

/// What was read; as long as the list is the same, it is the very same.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) list: Arc<str>,
    pub(crate) at: Instant,
}

pub(crate) struct OnSale {
    /// The last one.
    reading: watch::Sender<Option<Reading>>,
    looked_at: Notify,
}

impl OnSale {
    pub(crate) fn start(pool: &PgPool) -> Arc<Self> {
        let on_sale = Arc::new(Self { reading: watch::channel(None).0, looked_at: Notify::new() });
        tokio::spawn(read(Arc::clone(&on_sale), pool.clone()));
        on_sale
    }

    /// What was read, and what is read from now on.
    pub(crate) fn look(&self) -> watch::Receiver<Option<Reading>> {
        let reading = self.reading.subscribe();
        self.looked_at.notify_one();
        reading
    }
}

async fn read(on_sale: Arc<OnSale>, pool: PgPool) {
    loop {
        while on_sale.reading.receiver_count() == 0 {
            on_sale.looked_at.notified().await;
        }
        let (started, mut pause) = (Instant::now(), EVERY);
        // Where it fails, whoever looks sees what was; the look-up of verdicts says so in the log.
        if let Ok(items) = store::on_sale(&pool).await {
            let list = json!({ "items": items }).to_string();
            let known = on_sale.reading.borrow().as_ref().map(|reading| Arc::clone(&reading.list));
            let list = known.filter(|known| **known == *list).unwrap_or_else(|| list.into());
            on_sale.reading.send_replace(Some(Reading { list, at: Instant::now() }));
            pause = store::pause_behind(started.elapsed(), EVERY);
        }
        sleep(pause).await;
    }
}
