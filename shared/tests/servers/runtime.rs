//! The runtime with a handler that fails: one message pays for it, its batch and the process do not.

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use shared::{
    broker,
    config::WorkerOptions,
    contract::{Rejection, Verdict},
    devstack::Fixture,
    error::Error,
    handler::{Answer, Handler},
    runtime,
    topology::Topology,
};

/// Answers with what it got, but panics over `panic` and gives up over `error`.
struct Touchy;

impl Handler for Touchy {
    const NAME: &'static str = "purchase";
    type Request = String;

    fn decode(body: &[u8], _message_id: Option<&str>) -> Result<String, Rejection> {
        Ok(String::from_utf8_lossy(body).into_owned())
    }

    fn request_id(request: &String) -> &str {
        request
    }

    async fn handle(&self, requests: &[String]) -> Result<Vec<Answer>, Error> {
        assert!(!requests.iter().any(|request| request == "panic"), "as the test wants it");
        if requests.iter().any(|request| request == "error") {
            return Err(Error::Unhandled("as the test wants it".to_owned()));
        }
        Ok(requests.iter().cloned().map(Answer::Verdict).collect())
    }
}

#[tokio::test]
async fn a_panic_or_an_error_of_the_handler_costs_one_message_and_not_its_batch() {
    let fixture = Fixture::new().await;
    let connection = Connection::connect(&fixture.amqp_url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    broker::declare(&channel, &Topology::read()).await.unwrap();
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap().name().clone();
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut replies = channel.basic_consume(queue.clone(), "".into(), no_ack, FieldTable::default()).await.unwrap();
    let sent = ["first", "panic", "second", "error", "third"];
    for body in sent {
        let properties = BasicProperties::default().with_reply_to(queue.clone());
        let options = BasicPublishOptions::default();
        let published =
            channel.basic_publish("purchase".into(), "one-item".into(), options, body.as_bytes(), properties);
        drop(published.await.unwrap());
    }
    let options = WorkerOptions {
        amqp_url: fixture.amqp_url.clone(),
        worker_id: "touchy".to_owned(),
        ready_file: None,
        batch_max: 100,
        startup_seconds_max: 30,
        log: String::new(),
        log_json: false,
    };
    let worker = tokio::spawn(async move { runtime::serve(Touchy, &options).await });
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
