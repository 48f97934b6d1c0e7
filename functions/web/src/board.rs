//! The board: a page of what the engine does at this moment, on a listener of its own; with `--board-changes`, also what an
//! operator may do about it.
//!
//! Invariants: broker and database are asked by one reader, however many look; and whatever changes something was asked for by this
//! very page, or by no page at all.

mod admission;
mod operator;
mod reader;
mod store;
mod workers;

use crate::door::Id;
use crate::problem::Problem;
use crate::tickets::Tickets;
use crate::{pages, server};
use admission::{admitted, from_this_page};
use anyhow::Context;
use axum::extract::State;
use axum::http::header;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use clap::Args;
use futures_util::{Stream, StreamExt, stream};
use operator::Operator;
use reader::{Reader, SAMPLES_MAX, Samples};
use serde_json::{Value, json};
use shared::amqp::{Error, Nodes, RequestOutcome};
use shared::config::Unusable;
use shared::messages::Operation;
use shared::worker::Service;
use sqlx::PgPool;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// How many pages may look at a time.
const LOOKING_MAX: usize = 100;
const CONNECTIONS_MAX: usize = 1_000;

#[derive(Debug, Clone, Args)]
pub(crate) struct BoardOptions {
    /// Show the board, a page of what the engine does at this moment, at /board of the board's address.
    #[arg(long, env = "BOARD")]
    pub(crate) board: bool,
    /// Where the board listens: an address and a port. Where others than this machine reach it, give it a password.
    #[arg(long, env = "BOARD_ADDRESS", default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    pub(crate) board_address: SocketAddr,
    /// The password that the board asks for, whoever says to be whom.
    #[arg(long, env = "BOARD_PASSWORD", hide_env_values = true, value_name = "PASSWORD")]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    board_password: Option<String>,
    /// Have the board change things, too: replay or drop dead letters, open or close a sale.
    #[arg(long, env = "BOARD_CHANGES", requires = "board")]
    board_changes: bool,
    /// Where RabbitMQ is for the board, as a user such as `operator`, who may read dead letters and hear the workers. As AMQP_URL
    /// says where absent.
    #[arg(long, env = "BOARD_AMQP_URL", hide_env_values = true, value_name = "URL")]
    board_amqp_url: Option<String>,
    /// The broker's users that the workers are, with commas between them: by their word, and that of the board's user, a message is
    /// sent again for its sender.
    #[arg(long, env = "WORKER_USERS", value_delimiter = ',', default_value = "worker", value_name = "USER,…")]
    worker_users: Vec<String>,
    /// Have the board send a thousand buyers at a click: for a shop in which nothing is really sold.
    #[arg(long, env = "BOARD_DEMO", requires = "board")]
    board_demo: bool,
}

/// What every look at the board has at hand.
#[derive(Clone)]
struct Board {
    service: Service,
    password: Option<Arc<str>>,
    operator: Arc<Operator>,
    tickets: Arc<Tickets>,
    samples: Samples,
    state: watch::Receiver<Arc<str>>,
    dead: watch::Receiver<Arc<str>>,
    looking: Arc<Semaphore>,
}

impl BoardOptions {
    fn check(&self) -> Result<(), Unusable> {
        let is_open = self.board_password.is_none() && !self.board_address.ip().is_loopback();
        if is_open && (self.board_changes || self.board_demo) {
            let text = "a board that changes things, where others than this machine reach it, needs a password: BOARD_PASSWORD, or \
                        BOARD_PASSWORD_FILE";
            return Err(Unusable(text.to_owned()));
        }
        Ok(())
    }
}

/// A board that listens, and is read for.
pub(crate) struct Started {
    listener: TcpListener,
    routes: Router,
    /// For as long as it lasts.
    _reading: JoinSet<()>,
}

impl Started {
    pub(crate) async fn serve(self, service: &Service) {
        server::serve(self.listener, self.routes, CONNECTIONS_MAX, service).await;
    }
}

pub(crate) fn start(
    options: BoardOptions,
    service: &Service,
    pool: &PgPool,
    tickets: &Arc<Tickets>,
    name: &str,
) -> anyhow::Result<Started> {
    options.check()?;
    let listener = server::listen(options.board_address, "--board-address")?;
    let nodes = match &options.board_amqp_url {
        Some(url) => Nodes::read_with(url, service.worker.broker.amqp_ca.as_deref()).context("BOARD_AMQP_URL")?,
        None => service.nodes.clone(),
    };
    let (name, samples, in_hand) = (format!("{name} board"), Samples::default(), Arc::default());
    let may = json!({ "change": options.board_changes, "demo": options.board_demo });
    let shown = json!({ "samples_max": SAMPLES_MAX, "may": may });
    let broker = reader::Broker::new(nodes.clone(), name.clone());
    let reader = Reader::new(pool.clone(), broker, Arc::clone(tickets), samples.clone(), Arc::clone(&in_hand), shown);
    let operator = Arc::new(Operator { nodes, name, worker_users: options.worker_users, in_hand });
    let ((states, state), (deads, dead)) = (watch::channel(Arc::from("")), watch::channel(Arc::from("")));
    let (counts, count) = watch::channel(0);
    let (mut reading, looking) = (JoinSet::new(), Arc::clone(&operator));
    reading.spawn(reader.run(states, counts));
    reading.spawn(async move { looking.watch_dead(count, deads).await });
    let (service, tickets, password) = (service.clone(), Arc::clone(tickets), options.board_password.map(Arc::from));
    let looking = Arc::new(Semaphore::new(LOOKING_MAX));
    let board = Board { service, password, operator, tickets, samples, state, dead, looking };
    let routes = routes(board, options.board_changes, options.board_demo);
    Ok(Started { listener, routes, _reading: reading })
}

fn routes(board: Board, may_change: bool, may_demo: bool) -> Router {
    let no = || post(async || Problem::ChangesOff);
    let when = |may, route| if may { route } else { no() };
    let changes = Router::new()
        .route("/board/dead/{id}/{change}", when(may_change, post(change_dead)))
        .route("/board/items/{item}/buyers", when(may_demo, post(send_buyers)))
        .route("/board/items/{item}/{change}", when(may_change, post(change_sale)))
        .layer(from_fn(from_this_page));
    Router::new()
        .route("/", get(async || Redirect::temporary("/board")))
        .route("/board", get(pages::board))
        .route("/board/events", get(events))
        .merge(changes)
        .merge(pages::files())
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .fallback(async || Problem::NotFound)
        .layer(from_fn_with_state(board.clone(), admitted))
        .with_state(board)
}

/// `GET /board/events`: what was, then what is, whenever it is read.
async fn events(State(board): State<Board>) -> Response {
    let Ok(_looking) = Arc::clone(&board.looking).try_acquire_owned() else {
        return Problem::TooManyRequests.into_response();
    };
    let history = stream::iter([Ok(Event::default().event("history").data(board.samples.json()))]);
    let news = stream::select(changes("state", board.state), changes("dead", board.dead));
    let stopped = async move { board.service.stopped().await };
    let events = history.chain(news).take_until(stopped).map(move |event| {
        // It has a place for as long as it lasts.
        let _ = &_looking;
        event
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

/// What is shown, and each time that it is shown anew.
fn changes(name: &'static str, mut shown: watch::Receiver<Arc<str>>) -> impl Stream<Item = Result<Event, Infallible>> {
    // Of what was not read yet, nothing.
    if !shown.borrow().is_empty() {
        shown.mark_changed();
    }
    stream::unfold(shown, move |mut shown| async move {
        shown.changed().await.ok()?;
        let event = Event::default().event(name).data(&**shown.borrow_and_update());
        Some((Ok(event), shown))
    })
}

fn away(error: Error) -> Problem {
    tracing::warn!(%error, "what was asked for on the board cannot be done");
    Problem::NotReady
}

async fn change_dead(
    State(board): State<Board>,
    Id((id, change)): Id<(String, String)>,
) -> Result<Json<Value>, Problem> {
    let is_replayed = match change.as_str() {
        "replay" => true,
        "drop" => false,
        _ => return Err(Problem::NotFound),
    };
    let changed = board.operator.change_dead(&id, is_replayed).await.map_err(away)?;
    changed.map(Json).ok_or(Problem::UnknownDeadLetter)
}

/// What is answered is the verdict.
async fn change_sale(
    State(board): State<Board>,
    Id((item, change)): Id<(String, String)>,
) -> Result<Response, Problem> {
    let operation = match change.as_str() {
        "open" => Operation::Open { opens_at: None, closes_at: None },
        "close" => Operation::Close,
        _ => return Err(Problem::NotFound),
    };
    match board.operator.change_sale(item, operation).await.map_err(away)? {
        RequestOutcome::Verdict(verdict) => Ok(([(header::CONTENT_TYPE, "application/json")], verdict).into_response()),
        RequestOutcome::NotYet | RequestOutcome::NoQueue => Err(Problem::NobodyAnswers),
    }
}

async fn send_buyers(State(board): State<Board>, Id(item): Id) -> Result<Json<Value>, Problem> {
    let sent = operator::send_buyers(&board.tickets, &item)?;
    Ok(Json(json!({ "done": true, "message": format!("{sent} buyers are on their way: {item}.") })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_changes_things_from_another_machine_without_a_password() {
        #[derive(clap::Parser)]
        struct Command {
            #[command(flatten)]
            board: BoardOptions,
        }
        let of = |more: &[&str]| {
            let line = [&["web", "--board", "--board-changes"], more].concat();
            <Command as clap::Parser>::try_parse_from(line).ok().map(|command| command.board.check().is_ok())
        };
        assert_eq!((of(&[]), of(&["--board-address", "0.0.0.0:1"])), (Some(true), Some(false)));
        assert_eq!(of(&["--board-address", "0.0.0.0:1", "--board-password", "secret"]), Some(true));
        assert_eq!(of(&["--board-password", ""]), None, "an empty one is none");
    }
}
