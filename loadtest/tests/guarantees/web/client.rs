//! A door, and what a browser says to it and hears.

use super::described;
use crate::support::free_address;
use crate::support::shop::{Shop, until};
use serde_json::Value;
use shared::devstack::Supervised;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing here takes this long.
const WAIT_MAX: Duration = Duration::from_secs(100);

pub(super) struct Door {
    pub(super) process: Supervised,
    pub(super) address: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

impl Door {
    /// A door of this shop that is ready.
    pub(super) async fn open(shop: &Shop, id: &str, environment: &[(&str, &str)]) -> Self {
        let address = free_address().await;
        let listen = [("LISTEN", address.as_str())];
        let process = shop.worker_of("web", id, &[&listen[..], environment].concat()).await;
        let door = Self { process, address };
        until("the door is ready", async || {
            let is_open = TcpStream::connect(&door.address).await.is_ok();
            is_open && door.get("/readyz").await.status == 200
        })
        .await;
        door
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.ask("GET", path, &[], "").await
    }

    pub(super) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        ask(&self.address, method, path, headers, body).await
    }

    /// Asks for a ticket, and waits as it says.
    pub(super) async fn buy(&self, id: &str, wait: &str) -> Response {
        buy_at(&self.address, id, wait).await
    }
}

pub(super) async fn buy_at(address: &str, id: &str, wait: &str) -> Response {
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", id), ("Prefer", wait)];
    let body = format!(r#"{{"buyer":"b-{id}","quantity":1}}"#);
    ask(address, "POST", "/items/ticket/purchases", &headers, &body).await
}

/// On a connection of its own.
pub(super) async fn ask(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A door that has heard enough may close before all is said.
    drop(stream.write_all(format!("{}{body}", head(method, path, headers, body.len())).as_bytes()).await);
    let response = read(stream).await;
    described::check(method, path, &response);
    response
}

pub(super) fn head(method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let host = if headers.contains("Host: ") { "" } else { "Host: door\r\n" };
    format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {length}\r\n{headers}\r\n")
}

pub(super) async fn read(mut stream: TcpStream) -> Response {
    let mut bytes = Vec::new();
    // What is cut off behind the response is no response.
    drop(timeout(WAIT_MAX, stream.read_to_end(&mut bytes)).await.expect("the door answers"));
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response::new(status, head, body)
}

impl Response {
    pub(super) fn new(status: u16, head: &str, body: &str) -> Self {
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(super) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }

    /// A problem as RFC 9457 has it: its status and its code.
    pub(super) fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.json()["status"], self.status);
        assert!(self.json()["detail"].as_str().is_some_and(|said| said.ends_with('.')), "{self:?}");
        assert_eq!(self.header("retry-after").is_some(), self.status == 503, "{self:?}");
        (self.status, self.code())
    }
}

/// Events as they come; told by HTTP/1.0, they have nothing around them.
pub(super) struct Stream {
    socket: TcpStream,
    heard: String,
}

impl Stream {
    pub(super) async fn open(door: &Door, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut socket = TcpStream::connect(&door.address).await.unwrap();
        let head = head("GET", path, headers, 0).replace("HTTP/1.1", "HTTP/1.0");
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut stream = Self { socket, heard: String::new() };
        let head = stream.until("\r\n\r\n").await.unwrap();
        assert!(head.contains(" 200 ") && head.contains("text/event-stream"), "{head}");
        stream
    }

    /// Its name, its data, and its id, or an id alone; `None`: the door has ended the stream.
    pub(super) async fn next(&mut self) -> Option<(String, Value, Option<String>)> {
        loop {
            let event = self.until("\n\n").await?;
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            if let (Some(name), Some(data)) = (field("event"), field("data")) {
                return Some((name.to_owned(), serde_json::from_str(data).unwrap(), field("id").map(str::to_owned)));
            }
            if let Some(id) = field("id") {
                return Some((String::new(), Value::Null, Some(id.to_owned())));
            }
        }
    }

    /// The next one of another name.
    pub(super) async fn next_but(&mut self, name: &str) -> Option<(String, Value, Option<String>)> {
        loop {
            let next = self.next().await?;
            if next.0 != name {
                return Some(next);
            }
        }
    }

    async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some((before, rest)) = self.heard.split_once(end) {
                let (before, rest) = (before.to_owned(), rest.to_owned());
                self.heard = rest;
                return Some(before);
            }
            let mut bytes = [0; 4_096];
            let read = timeout(WAIT_MAX, self.socket.read(&mut bytes)).await.expect("something is said").ok()?;
            if read == 0 {
                return None;
            }
            self.heard += std::str::from_utf8(&bytes[..read]).unwrap();
        }
    }
}
