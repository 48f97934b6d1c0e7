//! The door for browsers: takes requests by HTTP, puts them into the queue, and tells each client the verdict.
//!
//! It is stateless: what it knows of a request that is under way is lost with it, and nothing else. The broker has the request, the
//! database will have its verdict, and the same id asked again, at any door, gets that verdict. It speaks to the broker for all that
//! decides (`broker`), and reads the database to look up what was decided (`lookup`).

mod board;
mod broker;
mod collector;
mod cors;
mod door;
mod follow;
mod items;
mod lookup;
mod metrics;
mod neighbours;
mod on_sale;
#[cfg(test)]
mod openapi;
mod options;
mod orders;
mod pages;
mod place;
mod problem;
mod purchases;
mod request;
mod server;
mod store;
mod streams;
mod tickets;
mod verdict;
mod webhooks;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use board::BoardOptions;
use broker::Broker;
use clap::Args;
use door::Door;
use metrics::Metrics;
use options::Options;
use problem::Problem;
use shared::config::StoreOptions;
use shared::db;
use shared::worker::{Program, Service};
use sqlx::PgPool;
use std::process::ExitCode;
use std::sync::Arc;
use tickets::Tickets;

/// What `--help` says.
const PROGRAM: Program = Program {
    name: "web",
    about: "A Turnstile function: takes requests by HTTP, puts them into the queue, and tells each client the verdict.",
    after_help: "Any number of them, behind any load balancer. SIGTERM and Ctrl-C answer what is open, then the program exits with 0.\n\n\
                 Exit codes: 0 done, 2 usage, 69 a server is unreachable, 78 configuration.",
    without: &["batch_max", "metrics_address", "migrate", "refuse_default_exchange", "trusted_users", "replay_users"],
};

/// The whole program. Here and not in `main.rs`, which would compile much of it once more.
pub fn main() -> ExitCode {
    shared::worker::main_of_service(PROGRAM, serve)
}

#[derive(Debug, Clone, Args)]
struct All {
    #[command(flatten)]
    door: Options,
    #[command(flatten)]
    board: BoardOptions,
}

async fn serve(service: Service, All { door: options, board }: All) -> anyhow::Result<()> {
    let name = service.worker.name(PROGRAM.name);
    let listener = server::listen(options.listen, "--listen")?;
    let webhook_key = options.webhook_secret.as_deref().map(webhooks::key).transpose()?;
    let connections_max = server::connections_within(options.connections_max as usize);
    let pool = open(&options.store, &name).await?;
    let (tickets, asked) = Tickets::new(options.undecided_max as usize);
    let (tickets, metrics) = (Arc::new(tickets), Metrics::of(PROGRAM.name));
    let broker = Broker::new(Arc::clone(&tickets), asked, metrics.clone());
    let board = match board.board {
        true => Some(board::start(board, &service, &pool, &tickets, &name)?),
        false => None,
    };
    let hearing = tokio::spawn(neighbours::hear(Arc::clone(&tickets), service.clone(), name.clone()));
    let publishing = tokio::spawn(broker.run(service.clone(), name));
    let door = Door::new(service.clone(), tickets, &pool, options, webhook_key, metrics);
    let serving = server::serve(listener, routes(Arc::new(door)), connections_max, &service);
    let board = async {
        if let Some(board) = board {
            board.serve(&service).await;
        }
    };
    tokio::join!(serving, board);
    publishing.abort();
    hearing.abort();
    Ok(())
}

/// The database may be away: all but what is looked up goes on without it.
async fn open(options: &StoreOptions, name: &str) -> anyhow::Result<PgPool> {
    match db::open_as_it_is(options, name).await {
        Err(error) if !error.is_configuration() => {
            tracing::warn!(%error, "nothing can be looked up yet");
            Ok(db::pool(&options.database_url, name, options.database_connections_max)?)
        }
        opened => Ok(opened?),
    }
}

fn routes(door: Arc<Door>) -> Router {
    let bounded = Router::new()
        .route("/", get(pages::shop))
        .merge(pages::files())
        .route("/items", get(items::on_sale))
        .route("/items/{item}/purchases", post(purchases::post))
        .route("/purchases/{id}", get(purchases::get))
        .route("/purchases/{id}/events", get(follow::events))
        .route("/orders/{id}", delete(orders::cancel))
        .route("/orders/{id}/payment", post(orders::pay))
        .route("/webhooks/payments", post(webhooks::post))
        .route("/items/{item}", get(items::get))
        .route("/items/{item}/events", get(items::events))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .fallback(async || Problem::NotFound)
        .layer(from_fn_with_state(Arc::clone(&door), door::within_bounds));
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(measured))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .merge(bounded)
        .layer(from_fn_with_state(Arc::clone(&door), cors::let_in))
        .layer(from_fn_with_state(Arc::clone(&door), door::counted))
        .layer(map_response(unkept))
        .with_state(door)
}

async fn ready(State(door): State<Arc<Door>>) -> Response {
    match door.service.is_ready() && !door.service.is_stopped() {
        true => "ready\n".into_response(),
        false => Problem::NotReady.into_response(),
    }
}

async fn measured(State(door): State<Arc<Door>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, shared::metrics::CONTENT_TYPE)], door.metrics.written())
}

/// No answer of ours is anybody else's, nor the same a moment later.
async fn unkept(mut response: Response) -> Response {
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(header::HeaderValue::from_static("no-store"));
    response
}
