//! The door for browsers: takes requests by HTTP, puts them into the queue, and tells each client the verdict.
//!
//! It is stateless: what it knows of a request that is under way is lost with it, and nothing else. The broker has the request, the
//! database will have its verdict, and the same id asked again, at any door, gets that verdict. It speaks to the broker for all that
//! decides (`broker`), and reads the database to look up what was decided (`lookup`).

mod board;
mod broker;
mod collector;
mod door;
mod lookup;
mod metrics;
mod on_sale;
mod pages;
mod problem;
mod purchases;
mod request;
mod server;
mod store;
mod tickets;
mod verdict;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderName, header},
    middleware::{from_fn_with_state, map_response},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use board::BoardOptions;
use broker::Broker;
use clap::Args;
use door::Door;
use metrics::Metrics;
use problem::Problem;
use shared::{
    config::StoreOptions,
    db,
    worker::{Program, Service},
};
use sqlx::PgPool;
use std::{net::SocketAddr, process::ExitCode, sync::Arc};
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
struct Options {
    #[command(flatten)]
    store: StoreOptions,
    /// Where to listen: an address and a port.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// A header in which a proxy that is trusted names the buyer. Without it, the body's buyer is believed: for networks that you trust.
    #[arg(long, env = "BUYER_HEADER", value_name = "NAME")]
    buyer_header: Option<HeaderName>,
    /// The most connections open at one time; more are told to come again.
    #[arg(long, env = "CONNECTIONS_MAX", default_value_t = 30_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections_max: u32,
    /// The most requests open at one time; more are told to come again.
    #[arg(long, env = "REQUESTS_MAX", default_value_t = 30_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests_max: u32,
    /// The most requests that are kept in memory until they are decided. Of more, those that have waited longest are left to the queue
    /// alone, which has them all.
    #[arg(long, env = "UNDECIDED_MAX", default_value_t = 60_000, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    undecided_max: u32,
    #[command(flatten)]
    board: BoardOptions,
}

async fn serve(service: Service, options: Options) -> anyhow::Result<()> {
    let name = format!("turnstile-{} {}", PROGRAM.name, service.worker.worker_id);
    let listener = server::listen(options.listen, "--listen")?;
    let connections_max = server::connections_within(options.connections_max as usize);
    let pool = open(&options.store, &name).await?;
    let (tickets, asked) = Tickets::new(options.undecided_max as usize);
    let (tickets, metrics) = (Arc::new(tickets), Metrics::of(PROGRAM.name));
    let broker = Broker::new(Arc::clone(&tickets), asked, metrics.clone());
    let board = match options.board.board {
        true => Some(board::start(options.board, &service, &pool, &tickets, &name)?),
        false => None,
    };
    let publishing = tokio::spawn(broker.run(service.clone(), name));
    let requests_max = options.requests_max as usize;
    let door = Door::new(service.clone(), tickets, &pool, options.buyer_header, metrics, requests_max);
    let serving = server::serve(listener, routes(Arc::new(door)), connections_max, &service);
    let board = async {
        if let Some(board) = board {
            board.serve(&service).await;
        }
    };
    tokio::join!(serving, board);
    publishing.abort();
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
        .route("/items", get(items))
        .route("/items/{item}/purchases", post(purchases::post))
        .route("/purchases/{id}", get(purchases::get))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .fallback(async || Problem::NotFound)
        .layer(from_fn_with_state(Arc::clone(&door), door::within_bounds));
    Router::new()
        .route("/", get(pages::shop))
        .merge(pages::files())
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(measured))
        .merge(bounded)
        .layer(from_fn_with_state(Arc::clone(&door), door::counted))
        .layer(map_response(unkept))
        .with_state(door)
}

/// `GET /items`
async fn items(State(door): State<Arc<Door>>, headers: HeaderMap) -> Result<Response, Problem> {
    let service = door.service.clone();
    door.on_sale.shown(&headers, async move { service.stopped().await }).await
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
