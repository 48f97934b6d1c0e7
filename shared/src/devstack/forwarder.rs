//! A TCP address in front of a server, for tests of what a network does to connections that exist, while new ones work: they
//! slow down, stand still as behind a firewall that has forgotten them, or end at the worst moment.

use anyhow::{Context, Result};
use sqlx::postgres::PgConnectOptions;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// As much is passed on at once, at most: a frame of AMQP and a few messages of PostgreSQL.
const CHUNK_BYTES: usize = 64 * 1024;
/// How long the server may work at what it was sent before the connection is cut in doubt.
const IN_DOUBT_WAIT: Duration = Duration::from_millis(50);
/// Before a client is accepted after one that could not be.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What is done to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// Whatever is sent, in either direction, comes so much later, for so long.
    Delay { each: Duration, lasting: Duration },
    /// Nothing passes, in either direction, and neither end learns of it before so long, when both are cut.
    HalfOpen(Duration),
    /// Both ends learn that it is over.
    Cut,
    /// What the client sends next still reaches the server, whose answer nobody hears.
    CutInDoubt,
    /// Of what is sent next, in either direction, the first half arrives.
    CutInMidFrame,
}

/// Forwards until it is dropped; then its connections end, too.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    connections: Connections,
    accepting: JoinHandle<()>,
}

/// By these, each connection hears what is done to it; `None` ends a disturbance.
type Connections = Arc<Mutex<Vec<UnboundedSender<Option<Disturbance>>>>>;
type State = watch::Sender<Option<(Disturbance, Instant)>>;

#[derive(Debug, Clone)]
enum Server {
    Tcp(String),
    Unix(PathBuf),
}

impl Forwarder {
    /// In front of the private server at this URL, `postgres://…` or `amqp://…`, with the URL that leads there.
    pub async fn before(url: &str) -> Result<(Self, String)> {
        if url.starts_with("amqp") {
            let parts = url.split_once('@').and_then(|(user, rest)| Some((user, rest.split_once('/')?)));
            let (user, (host, vhost)) = parts.context("a broker's URL has a user and a virtual host")?;
            let forwarder = Self::to(Server::Tcp(host.to_owned())).await?;
            let url = format!("{user}@{}/{vhost}", forwarder.address);
            return Ok((forwarder, url));
        }
        let options = PgConnectOptions::from_str(url)?;
        let (server, parameters) = match options.get_socket() {
            Some(folder) => (Server::Unix(folder.join(format!(".s.PGSQL.{}", options.get_port()))), ""),
            None => {
                let parameters = url.split_once('?').unwrap_or_default().1;
                (Server::Tcp(format!("{}:{}", options.get_host(), options.get_port())), parameters)
            }
        };
        let forwarder = Self::to(server).await?;
        let (user, database) = (options.get_username(), options.get_database().unwrap_or_default());
        let url = format!("postgres://{user}@{}/{database}?{parameters}", forwarder.address);
        Ok((forwarder, url))
    }

    async fn to(server: Server) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen on a free port")?;
        let address = listener.local_addr()?;
        let connections = Connections::default();
        let known = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let (sender, orders) = unbounded_channel();
                known.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
                tokio::spawn(connect(client, server.clone(), orders));
            }
        });
        Ok(Self { address, connections, accepting })
    }

    /// Does this to the connections that exist: to the one that this number chooses, or to all. False where there is none.
    pub fn disturb(&self, disturbance: Disturbance, chosen: Option<u64>) -> bool {
        self.tell(Some(disturbance), chosen)
    }

    /// From here on, everything passes again; what stood still is cut.
    pub fn calm(&self) {
        self.tell(None, None);
    }

    fn tell(&self, order: Option<Disturbance>, chosen: Option<u64>) -> bool {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| !connection.is_closed());
        let chosen = chosen.and_then(|chosen| chosen.checked_rem(connections.len() as u64));
        for (place, connection) in connections.iter().enumerate() {
            if chosen.is_none_or(|chosen| chosen == place as u64) {
                connection.send(order).ok();
            }
        }
        !connections.is_empty()
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn connect(client: TcpStream, server: Server, orders: UnboundedReceiver<Option<Disturbance>>) {
    client.set_nodelay(true).ok();
    // What cannot be reached closes the connection.
    match server {
        Server::Tcp(address) => {
            let Ok(server) = TcpStream::connect(address).await else { return };
            server.set_nodelay(true).ok();
            forward(client, server, orders).await;
        }
        Server::Unix(path) => {
            let Ok(server) = UnixStream::connect(path).await else { return };
            forward(client, server, orders).await;
        }
    }
}

/// Until one end is closed, or it is over by an order.
async fn forward(
    client: TcpStream,
    server: impl AsyncRead + AsyncWrite,
    mut orders: UnboundedReceiver<Option<Disturbance>>,
) {
    let state = State::new(None);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = split(server);
    tokio::select! {
        // What is ordered first is done first.
        biased;
        () = obey(&mut orders, &state) => (),
        () = pass(from_client, to_server, true, &state) => (),
        () = pass(from_server, to_client, false, &state) => (),
    }
}

async fn obey(orders: &mut UnboundedReceiver<Option<Disturbance>>, state: &State) {
    while let Some(order) = orders.recv().await {
        state.send_replace(order.map(|disturbance| (disturbance, Instant::now())));
        match order {
            None | Some(Disturbance::Delay { .. } | Disturbance::CutInDoubt | Disturbance::CutInMidFrame) => {}
            Some(Disturbance::Cut) => return,
            Some(Disturbance::HalfOpen(lasting)) => {
                let cut = async { while !matches!(orders.recv().await, None | Some(None | Some(Disturbance::Cut))) {} };
                drop(timeout(lasting, cut).await);
                return;
            }
        }
    }
}

/// Passes on what one end sends, until that or the other is closed, or a disturbance ends the connection.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, is_request: bool, state: &State) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let bytes = from.read(&mut chunk).await.unwrap_or(0);
        let disturbed = *state.borrow();
        if let Some((Disturbance::Delay { each, lasting }, since)) = disturbed
            && since.elapsed() < lasting
        {
            sleep(each).await;
        }
        let disturbance = state.borrow().map(|(disturbance, _)| disturbance);
        let passed = match disturbance {
            // Not even the end of the other side.
            Some(Disturbance::HalfOpen(_)) => pending().await,
            Some(Disturbance::CutInMidFrame) => bytes / 2,
            None | Some(Disturbance::Delay { .. } | Disturbance::Cut | Disturbance::CutInDoubt) => bytes,
        };
        if to.write_all(&chunk[..passed]).await.is_err() || bytes == 0 {
            return;
        }
        match disturbance {
            Some(Disturbance::CutInMidFrame) => return,
            Some(Disturbance::CutInDoubt) if is_request => {
                state.send_replace(Some((Disturbance::HalfOpen(IN_DOUBT_WAIT), Instant::now())));
                return sleep(IN_DOUBT_WAIT).await;
            }
            None | Some(_) => {}
        }
    }
}
