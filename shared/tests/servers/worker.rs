//! A worker with a handler that fails, or cannot say yet: one message pays for it, its batch and the process do not.

use crate::buyer::{Buyer, Text, options, until};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use shared::config::WorkerOptions;
use shared::devstack::Folder;
use shared::devstack::fixture::rabbitmq;
use shared::error::Error;
use shared::handler::{Answer, Handler};
use shared::messages::Verdict;
use shared::worker;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// How often a message is put off: more often than the queue would deliver one that fails.
const PUT_OFF: u32 = 40;

/// Large messages, and how large.
const LARGE: usize = 300;
const LARGE_BYTES: usize = 60 * 1024;

/// A file tells nobody that it has come, or gone.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Answers with what it got, but panics over `panic`, gives up over `error`, answers `slow` only after it was put off so many
/// times, and `row` and `away` once it has what they need.
struct Touchy {
    put_off: AtomicU32,
    has_all: Arc<AtomicBool>,
}

impl Handler for Touchy {
    type Request = Text;
    const NAME: &'static str = "payment";

    async fn handle(&self, requests: &[Text]) -> Result<Vec<Answer>, Error> {
        assert!(!requests.iter().any(|request| request.0 == "panic"), "as the test wants it");
        if requests.iter().any(|request| request.0 == "error") {
            return Err(Error::Unhandled("as the test wants it".to_owned()));
        }
        let has_all = self.has_all.load(Ordering::Relaxed);
        if !has_all && requests.iter().any(|request| request.0 == "away") {
            return Err(Error::Away("as the test wants it".to_owned()));
        }
        let is_put_off =
            |request: &Text| request.0.starts_with("slow") && self.put_off.fetch_add(1, Ordering::Relaxed) < PUT_OFF;
        let answer = |request: &Text| match request {
            request if is_put_off(request) => Answer::Requeue,
            request if request.0.starts_with("row") && !has_all => Answer::Later,
            request => Answer::Verdict(request.0.clone()),
        };
        Ok(requests.iter().map(answer).collect())
    }
}

#[tokio::test]
async fn a_panic_or_an_error_of_the_handler_costs_one_message_and_not_its_batch() {
    let mut buyer = Buyer::new().await;
    let sent = ["first", "{", "panic", "second", "error", "third"];
    for body in sent {
        buyer.ask(body, BasicProperties::default()).await;
    }
    // Where nobody listens, a moment ago.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let worker = buyer.serve_with(Arc::new(AtomicBool::new(true)), Some(address), None);
    for body in sent {
        let (reply, _) = buyer.reply().await;
        let rejected = serde_json::from_str(&reply)
            .map(|verdict: Verdict| (verdict.request_id.unwrap_or_default(), verdict.code.as_str()));
        match body {
            "panic" | "error" => assert_eq!(rejected.unwrap(), (body.to_owned(), "not_handled")),
            "{" => assert_eq!(rejected.unwrap(), (String::new(), "malformed")),
            answered => assert_eq!(reply, answered),
        }
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
    let mut shown = String::new();
    stream.read_to_string(&mut shown).await.unwrap();
    for (answer, count) in [("verdict", 3), ("rejected", 3)] {
        let line = format!(r#"turnstile_answers_total{{function="payment",answer="{answer}"}} {count}"#);
        assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
    }
    assert!(!worker.is_finished(), "the process goes on");
}

#[tokio::test]
async fn what_is_put_off_comes_again_as_it_was_behind_the_others_and_however_often() {
    let mut buyer = Buyer::new().await;
    let trace = AMQPValue::LongString("00-1-2-01".into());
    for body in ["slow", "quick"] {
        let mut headers = FieldTable::default();
        headers.insert("traceparent".into(), trace.clone());
        let properties = BasicProperties::default().with_message_id(" m-1".into()).with_correlation_id(body.into());
        buyer.ask(body, properties.with_headers(headers)).await;
    }
    let _worker = buyer.serve(true);
    for body in ["quick", "slow"] {
        let (reply, properties) = buyer.reply().await;
        assert_eq!(reply, format!("{body} m-1"));
        assert_eq!(properties.correlation_id().as_ref().map(ShortString::as_str), Some(body));
        assert_eq!(properties.headers().as_ref().unwrap().inner().get("traceparent"), Some(&trace));
    }
    assert_eq!(buyer.depth("dead").await, 0, "it never counted as a failure");
}

#[tokio::test]
async fn what_waits_for_a_row_is_kept_in_order_while_what_came_after_it_is_answered_and_acknowledged() {
    let mut buyer = Buyer::new().await;
    let worker = buyer.serve(false);
    for body in ["first", "row-1", "second", "row-2", "third"] {
        buyer.ask(body, BasicProperties::default()).await;
    }
    for body in ["first", "second", "third", "fourth"] {
        if body == "fourth" {
            buyer.ask(body, BasicProperties::default()).await;
        }
        assert_eq!(buyer.reply().await.0, body);
    }
    worker.abort();
    let _worker = buyer.serve(true);
    buyer.ask("last", BasicProperties::default()).await;
    let mut replies = Vec::new();
    while replies.last().is_none_or(|last| last != "last") {
        replies.push(buyer.reply().await.0);
    }
    // What was answered last may not have been acknowledged.
    replies.retain(|reply| reply != "fourth");
    assert_eq!(replies, ["row-1", "row-2", "last"]);
}

#[tokio::test]
async fn a_worker_that_makes_no_progress_is_not_ready_until_it_makes_some() {
    let mut buyer = Buyer::new().await;
    let folder = Folder::create().unwrap();
    let (ready_file, has_all) = (folder.path().join("ready"), Arc::new(AtomicBool::new(false)));
    let is_ready = async |is_ready| until("it is ready, or not", async || ready_file.exists() == is_ready).await;
    let _worker = buyer.serve_with(has_all.clone(), None, Some(ready_file.clone()));
    is_ready(true).await;
    buyer.ask("away", BasicProperties::default()).await;
    is_ready(false).await;
    has_all.store(true, Ordering::Relaxed);
    assert_eq!(buyer.reply().await.0, "away");
    is_ready(true).await;
}

#[tokio::test]
async fn a_window_of_large_messages_waits_on_disk_and_is_answered_in_order() {
    let mut buyer = Buyer::new().await;
    let has_all = Arc::new(AtomicBool::new(false));
    let worker = buyer.serve_with(has_all.clone(), None, None);
    buyer.ask("away", BasicProperties::default()).await;
    let large: Vec<_> = (0..LARGE).map(|number| format!("{number:<LARGE_BYTES$}")).collect();
    for body in &large {
        buyer.ask(body, BasicProperties::default().with_correlation_id("large".into())).await;
    }
    // Whoever hands deliveries over is not asked for more while a batch cannot be decided.
    while nameless_files_bytes() < (LARGE * LARGE_BYTES) as u64 {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    has_all.store(true, Ordering::Relaxed);
    assert_eq!(buyer.reply().await.0, "away");
    for body in &large {
        assert!(buyer.reply().await.0 == *body, "as it was sent, in order");
    }
    worker.abort();
    // What they took is free again.
    while nameless_files_bytes() > 0 {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// How much this process has in files that are deleted already.
fn nameless_files_bytes() -> u64 {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let is_ours = |link: &PathBuf| {
        std::fs::read_link(link)
            .is_ok_and(|target| target.file_name().unwrap().to_string_lossy().contains("turnstile-"))
    };
    // What is closed meanwhile takes nothing.
    open.filter(is_ours).map(|link| std::fs::metadata(link).map_or(0, |file| file.len())).sum()
}

#[tokio::test]
async fn every_subscription_says_how_long_its_worker_may_hold_what_it_got() {
    let buyer = Buyer::new().await;
    let _worker = buyer.serve(false);
    let vhost = buyer.amqp_url.rsplit('/').next().unwrap();
    let arguments = async || {
        let mut listing = rabbitmq().await.rabbitmqctl();
        listing.args(["--silent", "--vhost", vhost, "list_consumers", "queue_name", "arguments"]);
        let listed = String::from_utf8(listing.output().await.unwrap().stdout).unwrap();
        listed.lines().find(|line| line.starts_with("payment")).map(str::to_owned)
    };
    let arguments = loop {
        // There is no event to wait for.
        if let Some(arguments) = arguments().await {
            break arguments;
        }
    };
    assert!(arguments.contains(r#"{"x-consumer-timeout",86400000}"#), "{arguments}");
}

impl Buyer {
    async fn ask(&self, body: &str, properties: BasicProperties) {
        assert!(self.send("", Touchy::NAME, body, properties).await);
    }

    fn serve(&self, has_all: bool) -> JoinHandle<anyhow::Result<()>> {
        self.serve_with(Arc::new(AtomicBool::new(has_all)), None, None)
    }

    fn serve_with(
        &self,
        has_all: Arc<AtomicBool>,
        metrics_address: Option<SocketAddr>,
        ready_file: Option<PathBuf>,
    ) -> JoinHandle<anyhow::Result<()>> {
        let handler = Touchy { put_off: AtomicU32::new(0), has_all };
        let options = WorkerOptions { metrics_address, ready_file, ..options("touchy", &self.amqp_url) };
        tokio::spawn(async move { worker::serve(handler, &options).await })
    }
}
