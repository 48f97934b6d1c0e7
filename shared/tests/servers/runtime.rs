//! The runtime with a handler that fails, or cannot say yet: one message pays for it, its batch and the process do not.

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use shared::{
    amqp,
    config::WorkerOptions,
    devstack::Fixture,
    error::Error,
    handler::{Answer, Handler},
    messages::{Code, Rejection, Request, Verdict},
    topology::Topology,
    worker,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use uuid::Uuid;

/// Answers with what it got, but panics over `panic` and gives up over `error`.
struct Touchy;

/// A request that is its own id.
struct Text(String);

impl Request for Text {
    const FUNCTION: &'static str = "purchase";

    fn decode(body: &[u8], _message_id: Option<&str>) -> Result<Self, Rejection> {
        match body {
            b"unreadable" => Err(Rejection::new(Code::Malformed, "As the test wants it.")),
            body => Ok(Self(String::from_utf8_lossy(body).into_owned())),
        }
    }

    fn request_id(&self) -> &str {
        &self.0
    }

    fn fingerprint(&self) -> Uuid {
        unreachable!("these handlers record nothing")
    }
}

impl Handler for Touchy {
    type Request = Text;

    async fn handle(&self, requests: &[Text]) -> Result<Vec<Answer>, Error> {
        assert!(!requests.iter().any(|request| request.0 == "panic"), "as the test wants it");
        if requests.iter().any(|request| request.0 == "error") {
            return Err(Error::Unhandled("as the test wants it".to_owned()));
        }
        Ok(requests.iter().map(|request| Answer::Verdict(request.0.clone())).collect())
    }
}

#[tokio::test]
async fn a_panic_or_an_error_of_the_handler_costs_one_message_and_not_its_batch() {
    let fixture = Fixture::new().await;
    let (_connection, channel, queue, mut replies) = buyer(&fixture).await;
    let sent = ["first", "panic", "second", "error", "third"];
    for body in sent {
        let properties = BasicProperties::default().with_reply_to(queue.clone());
        let options = BasicPublishOptions::default();
        let published =
            channel.basic_publish("purchase".into(), "one-item".into(), options, body.as_bytes(), properties);
        drop(published.await.unwrap());
    }
    let options = options(&fixture);
    let worker = tokio::spawn(async move { worker::serve(Touchy, &options).await });
    for body in sent {
        let reply = replies.next().await.unwrap().unwrap();
        match body {
            "panic" | "error" => {
                let verdict: Verdict = serde_json::from_slice(&reply.data).unwrap();
                assert_eq!((verdict.request_id.as_deref(), verdict.code.as_str()), (Some(body), "not_handled"));
            }
            answered => assert_eq!(reply.data, answered.as_bytes()),
        }
    }
    assert!(!worker.is_finished(), "the process goes on");
    worker.abort();
}

#[tokio::test]
async fn every_message_is_counted_by_what_became_of_it() {
    let fixture = Fixture::new().await;
    let (_connection, channel, queue, mut replies) = buyer(&fixture).await;
    let sent = ["first", "unreadable", "panic", "second", "error", "third"];
    for body in sent {
        let properties = BasicProperties::default().with_reply_to(queue.clone());
        let options = BasicPublishOptions::default();
        let published =
            channel.basic_publish("purchase".into(), "one-item".into(), options, body.as_bytes(), properties);
        drop(published.await.unwrap());
    }
    let address = free_address().await;
    let options = WorkerOptions { metrics_address: Some(address), ..options(&fixture) };
    let worker = tokio::spawn(async move { worker::serve(Touchy, &options).await });
    for _ in sent {
        replies.next().await.unwrap().unwrap();
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
    let mut shown = String::new();
    stream.read_to_string(&mut shown).await.unwrap();
    for (answer, count) in [("verdict", 3), ("rejected", 3)] {
        let line = format!(r#"turnstile_answers_total{{function="purchase",answer="{answer}"}} {count}"#);
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    worker.abort();
}

/// How often [`Undecided`] puts a message off: more often than the queue would deliver one that fails.
const PUT_OFF: u32 = 40;

/// Answers with what it got; `slow` only after it was put off so many times.
struct Undecided(AtomicU32);

struct TextWithId(String);

impl Request for TextWithId {
    const FUNCTION: &'static str = "payment";

    fn decode(body: &[u8], message_id: Option<&str>) -> Result<Self, Rejection> {
        Ok(Self(format!("{} {}", String::from_utf8_lossy(body), message_id.unwrap_or_default())))
    }

    fn request_id(&self) -> &str {
        &self.0
    }

    fn fingerprint(&self) -> Uuid {
        unreachable!("these handlers record nothing")
    }
}

impl Handler for Undecided {
    type Request = TextWithId;

    async fn handle(&self, requests: &[TextWithId]) -> Result<Vec<Answer>, Error> {
        let is_put_off =
            |request: &TextWithId| request.0.starts_with("slow") && self.0.fetch_add(1, Ordering::Relaxed) < PUT_OFF;
        let answer = |request: &TextWithId| {
            if is_put_off(request) { Answer::Requeue } else { Answer::Verdict(request.0.clone()) }
        };
        Ok(requests.iter().map(answer).collect())
    }
}

#[tokio::test]
async fn what_is_put_off_comes_again_as_it_was_behind_the_others_and_however_often() {
    let fixture = Fixture::new().await;
    let (_connection, channel, queue, mut replies) = buyer(&fixture).await;
    for body in ["slow", "quick"] {
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), AMQPValue::LongString("00-1-2-01".into()));
        let properties = BasicProperties::default()
            .with_reply_to(queue.clone())
            .with_message_id("m-1".into())
            .with_correlation_id(body.into())
            .with_headers(headers);
        let options = BasicPublishOptions::default();
        let published = channel.basic_publish("".into(), "payment".into(), options, body.as_bytes(), properties);
        drop(published.await.unwrap());
    }
    let options = options(&fixture);
    let worker = tokio::spawn(async move { worker::serve(Undecided(AtomicU32::new(0)), &options).await });
    for body in ["quick", "slow"] {
        let reply = replies.next().await.unwrap().unwrap();
        assert_eq!(String::from_utf8(reply.data).unwrap(), format!("{body} m-1"));
        assert_eq!(reply.properties.correlation_id().as_ref().map(|id| id.as_str()), Some(body));
        let headers = reply.properties.headers().clone().unwrap();
        assert_eq!(headers.inner().get("traceparent"), Some(&AMQPValue::LongString("00-1-2-01".into())));
    }
    worker.abort();
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let dead = channel.queue_declare("dead".into(), passive, FieldTable::default()).await.unwrap();
    assert_eq!(dead.message_count(), 0, "it never counted as a failure");
}

/// Where nobody listens, a moment ago.
async fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap()
}

/// Somebody who sends, with a queue for the replies.
async fn buyer(fixture: &Fixture) -> (Connection, Channel, ShortString, Consumer) {
    let connection = Connection::connect(&fixture.amqp_url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    amqp::declare(&channel, &Topology::read()).await.unwrap();
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap().name().clone();
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let replies = channel.basic_consume(queue.clone(), "".into(), no_ack, FieldTable::default()).await.unwrap();
    (connection, channel, queue, replies)
}

fn options(fixture: &Fixture) -> WorkerOptions {
    WorkerOptions {
        amqp_url: fixture.amqp_url.clone(),
        worker_id: "touchy".to_owned(),
        ready_file: None,
        batch_max: 100,
        metrics_address: None,
        startup_seconds_max: 30,
        log: String::new(),
        log_json: false,
    }
}
