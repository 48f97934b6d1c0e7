//! A TCP address in front of a server, for tests of what a network does: connections that exist are made to stand still, as
//! behind a proxy or a firewall that has forgotten them, while new ones work.

use anyhow::{Context, Result};
use sqlx::postgres::PgConnectOptions;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// Forwards until it is dropped; then its connections end, too.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    /// Goes up when those that exist are to stand still.
    era: watch::Sender<u64>,
    accepting: JoinHandle<()>,
}

impl Forwarder {
    async fn to(socket: PathBuf) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen on a free port")?;
        let address = listener.local_addr()?;
        let (era, eras) = watch::channel(0);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mut eras = eras.clone();
                eras.mark_unchanged();
                tokio::spawn(forward(client, socket.clone(), eras));
            }
        });
        Ok(Self { address, era, accepting })
    }

    /// In front of the server of this database, with the URL that leads there.
    pub async fn before(database_url: &str) -> Result<(Self, String)> {
        let options = PgConnectOptions::from_str(database_url)?;
        let folder = options.get_socket().context("our PostgreSQL is reached through a Unix socket")?;
        let forwarder = Self::to(folder.join(format!(".s.PGSQL.{}", options.get_port()))).await?;
        let (user, database) = (options.get_username(), options.get_database().unwrap_or_default());
        let url = format!("postgres://{user}@{}/{database}", forwarder.address);
        Ok((forwarder, url))
    }

    /// From here on, nothing passes through the connections that exist, in either direction, and neither end learns of it.
    pub fn strand(&self) {
        self.era.send_modify(|era| *era += 1);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn forward(mut client: TcpStream, socket: PathBuf, mut eras: watch::Receiver<u64>) {
    // What cannot be reached closes the connection.
    let Ok(mut server) = UnixStream::connect(socket).await else { return };
    client.set_nodelay(true).ok();
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => (),
        // Both are kept open until the forwarder is dropped.
        stranded = eras.changed() => if stranded.is_ok() { while eras.changed().await.is_ok() {} },
    }
}
