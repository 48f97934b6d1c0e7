//! The HTTP servers that Turnstile is measured against, open until Ctrl-C, for whatever load tester there is.

use super::{Baseline, BaselineStrategy, Opened, Purchase, lua, serve_on_loopback};
use crate::cli::{BaselineOptions, BaselineServer};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::servers::{Needs, with_servers};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use std::future::pending;
use std::io::Write;
use tokio::task::JoinSet;

/// More than any tester buys.
const STOCK: u64 = 1 << 40;
const ITEM: &str = "ticket";

/// Opens it, says what to ask, and stays.
pub(crate) async fn execute(options: &BaselineOptions) -> Result<bool, Failure> {
    let progress = Progress::new();
    let redis = (options.server == BaselineServer::Redis).then_some(&options.redis);
    with_servers(&options.urls, Needs { redis, ..Needs::PLAIN }, &progress, async |endpoints, _servers| {
        let in_database = |strategy| Baseline { payment: options.payment(), ..Baseline::new(strategy, 0, STOCK) };
        let strategy = match options.server {
            BaselineServer::Optimistic => Some(BaselineStrategy::Optimistic),
            BaselineServer::Pessimistic => Some(BaselineStrategy::Pessimistic),
            BaselineServer::Atomic => Some(BaselineStrategy::Atomic),
            BaselineServer::Redis | BaselineServer::AtOnce => None,
        };
        // Served for as long as they are held.
        let (mut opened, mut serving) = (None, JoinSet::new());
        let (address, item) = match (strategy, &endpoints.redis_url) {
            (Some(strategy), _) => {
                let opened = opened.insert(Opened::new(&endpoints.database_url, &in_database(strategy)).await?);
                (opened.address, opened.item().to_owned())
            }
            (None, Some(url)) => (serve_on_loopback(&mut serving, lua::routes(url, ITEM, STOCK).await?).await?, ITEM.to_owned()),
            (None, None) => (serve_on_loopback(&mut serving, at_once()).await?, ITEM.to_owned()),
        };
        progress.clear();
        let said = format!(
            "POST http://{address}/purchase  {{\"item\":\"{item}\",\"buyer\":\"ann\",\"quantity\":1}}\nCtrl-C ends it.\n"
        );
        // Nobody needs to read it.
        drop(std::io::stdout().write_all(said.as_bytes()));
        pending().await
    })
    .await
}

/// What HTTP itself takes.
fn at_once() -> Router {
    Router::new().route("/purchase", post(async |Json(_): Json<Purchase>| StatusCode::OK))
}
