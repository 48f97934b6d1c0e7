//! A real HTTP server on a port of its own that answers each connection as a script says, well or badly.

use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// What it does with a request, once it has read all of it.
#[derive(Clone)]
pub(crate) enum Act {
    /// Answers with this status and body.
    Answer(u16, &'static str),
    /// Says that it has so many bytes more to send, and cuts the connection.
    Cut(u16, &'static str, usize),
    /// Cuts the connection without a word.
    HangUp,
    /// Says nothing until the test lets it.
    Stall,
    /// Sends the same answer twice.
    AnswerTwice(u16, &'static str),
    /// Sends this, which is no HTTP.
    Babble(&'static str),
    /// Sends elsewhere.
    Redirect(String),
}

/// The server. The last act of its script is repeated.
pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<String>>>,
    pub(crate) stalled: Arc<Semaphore>,
}

impl Server {
    pub(crate) async fn start(script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (requests, stalled) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let (seen, stall) = (requests.clone(), stalled.clone());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(socket, script.clone(), seen.clone(), stall.clone()));
            }
        });
        Self { url, requests, stalled }
    }

    /// Every request as it came, head and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Serves the requests of one connection, one after the other.
async fn serve(mut socket: TcpStream, script: Vec<Act>, seen: Arc<Mutex<Vec<String>>>, stall: Arc<Semaphore>) {
    while let Some(request) = read(&mut socket).await {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(request);
            seen.len()
        };
        let act = &script[(number - 1).min(script.len() - 1)];
        let (text, goes_on) = match act {
            Act::Answer(status, body) => (answer(*status, body, body.len()), true),
            Act::AnswerTwice(status, body) => (answer(*status, body, body.len()).repeat(2), true),
            Act::Cut(status, body, missing) => (answer(*status, body, body.len() + missing), false),
            Act::HangUp => (String::new(), false),
            Act::Babble(text) => ((*text).to_owned(), false),
            Act::Redirect(to) => {
                (format!("HTTP/1.1 307 Elsewhere\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"), true)
            }
            Act::Stall => {
                drop(stall.acquire().await);
                (String::new(), false)
            }
        };
        if socket.write_all(text.as_bytes()).await.is_err() || !goes_on {
            return;
        }
    }
}

fn answer(status: u16, body: &str, length: usize) -> String {
    format!("HTTP/1.1 {status} As-The-Test-Wants\r\ncontent-length: {length}\r\n\r\n{body}")
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
