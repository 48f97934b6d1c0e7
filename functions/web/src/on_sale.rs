//! What is on sale: one list, read again and again while somebody looks, however many look.

use crate::store;
use serde_json::json;
use sqlx::PgPool;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

/// How often they are read, at most.
const EVERY: Duration = Duration::from_millis(250);

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

    /// What is read from now on.
    pub(crate) fn look(&self) -> watch::Receiver<Arc<str>> {
        let list = self.list.subscribe();
        self.looked_at.notify_one();
        list
    }
}

async fn read(on_sale: Arc<OnSale>, pool: PgPool) {
    loop {
        while on_sale.list.receiver_count() == 0 {
            on_sale.looked_at.notified().await;
        }
        let (started, mut pause) = (Instant::now(), EVERY);
        // Where it fails, whoever looks sees what was; the look-up of verdicts says so in the log.
        if let Ok(items) = store::on_sale(&pool).await {
            let known = on_sale.list.borrow().clone();
            let list = json!({ "items": items }).to_string();
            on_sale.list.send_replace(if *known == *list { known } else { list.into() });
            pause = store::pause_behind(started.elapsed(), EVERY);
        }
        sleep(pause).await;
    }
}
