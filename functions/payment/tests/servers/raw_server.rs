//! A TCP server that answers as a script says, byte by byte: what no HTTP library would send.

use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What it does with a request, once it has read all of it.
#[derive(Clone)]
pub(crate) enum Act {
    /// Sends this, and waits for the next request. Nothing: it stalls.
    Send(String),
    /// Sends this, and cuts the connection.
    Cut(String),
}

/// An answer with this status and body.
pub(crate) fn answer(status: u16, body: &str) -> String {
    incomplete(status, body, 0)
}

/// An answer that says that it has so many bytes more.
pub(crate) fn incomplete(status: u16, body: &str, missing: usize) -> String {
    format!("HTTP/1.1 {status} As-The-Test-Wants\r\ncontent-length: {}\r\n\r\n{body}", body.len() + missing)
}

/// The server. The last act of its script is repeated.
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) async fn start(script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, script.clone(), seen.clone()));
            }
        });
        Self { url, requests }
    }

    /// Every request as it came, head and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Serves the requests of one connection, one after the other.
async fn serve(mut socket: TcpStream, script: Vec<Act>, seen: Arc<Mutex<Vec<String>>>) {
    while let Some(request) = read(&mut socket).await {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(request);
            seen.len()
        };
        let (text, goes_on) = match &script[(number - 1).min(script.len() - 1)] {
            Act::Send(text) => (text, true),
            Act::Cut(text) => (text, false),
        };
        if socket.write_all(text.as_bytes()).await.is_err() || !goes_on {
            return;
        }
    }
}

/// The next request; `None`: the client is gone.
async fn read(socket: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let so_far = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = so_far.split_once("\r\n\r\n") {
            let of_length = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned);
            let length: usize = head.lines().find_map(of_length).map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return Some(so_far);
            }
        }
        if socket.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
    }
}
