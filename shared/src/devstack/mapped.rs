//! A private broker that calls a user otherwise than their URL does, as one with OAuth 2 or mapped names.

use anyhow::{Context, Result};
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

/// The name in the URL; as long as the broker's, so that no length changes on the way.
pub const MAPPED: &str = "alias";
const GUEST: &str = "guest";
/// As much is passed on at once, at most; a login is much smaller.
const CHUNK_BYTES: usize = 64 * 1024;

/// The URL by which [`MAPPED`] is taken for `guest`, in front of the private broker at this one, until the runtime ends.
pub async fn as_mapped(amqp_url: &str) -> Result<String> {
    let behind_user = amqp_url.split_once('@').and_then(|(_, rest)| rest.split_once('/'));
    let (host, vhost) = behind_user.context("a broker's URL has a user and a virtual host")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen on a free port")?;
    let url = format!("amqp://{MAPPED}:{GUEST}@{}/{vhost}", listener.local_addr()?);
    let host = host.to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // What cannot be passed on ends this client's connection.
            tokio::spawn(pass(client, host.clone()));
        }
    });
    Ok(url)
}

async fn pass(client: TcpStream, host: String) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(host).await?.into_split();
    let there = async {
        // As `PLAIN` has it: between two zeros.
        let [mapped, guest] = [MAPPED, GUEST].map(|name| format!("\0{name}\0"));
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let bytes = from_client.read(&mut chunk).await?;
            if let Some(place) = chunk[..bytes].windows(mapped.len()).position(|part| part == mapped.as_bytes()) {
                chunk[place..place + guest.len()].copy_from_slice(guest.as_bytes());
            }
            to_server.write_all(&chunk[..bytes]).await?;
            if bytes == 0 {
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = there => ended,
        ended = copy(&mut from_server, &mut to_client) => ended.map(drop),
    }
}
