//! What each user of `rabbitmq/users.json` can do, and that it is all.

use crate::buyer::{Buyer, WAIT_MAX, options, until};
use crate::topology::Echo;
use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use shared::amqp::{
    self, DeadLetterQueue, Nodes, OutgoingEvent, OutgoingRequest, Publisher, RequestOutcome, request_reply,
};
use shared::devstack::{Folder, RabbitMq, as_mapped, as_user};
use shared::messages::EventKind;
use shared::worker;
use std::sync::Arc;
use std::time::Duration;

/// All that is tried by everybody: `publish EXCHANGE`, `consume QUEUE`, `purge QUEUE`, `delete QUEUE`, `declare QUEUE`, `exchange EXCHANGE`
/// (declared), `bind EXCHANGE` (to what one may write to).
const TRIED: &str = "
publish purchase, publish purchase.workers, publish payment, publish release, publish restock, publish dead, publish events,
publish , consume purchase.0, consume payment, consume release, consume restock, consume dead, consume events.mark,
consume dead.invalid, consume reply.buyer.kept, purge purchase.0, purge payment, purge dead, purge dead.invalid, purge reply.buyer.kept,
delete purchase.0, delete payment, delete dead, delete dead.invalid, exchange purchase, exchange another,
declare purchase.0, declare dead, declare reply.buyer.q, declare reply.shop.q, declare reply.stock_keeper.q, declare reply.web.q, declare ,
declare reply.buyer.x.q, declare reply.shop.x.q, declare reply.stock_keeper.x.q, declare replyxshop.q,
declare events.subscriber.q, declare events.subscriber.x.q, declare events.shop.q,
bind events, bind purchase.workers, bind purchase, bind dead";
/// Of these, what each may.
const MAY: [(&str, &str); 9] = [
    ("buyer", "publish purchase, declare reply.buyer.q, consume reply.buyer.kept, purge reply.buyer.kept"),
    ("shop", "publish purchase, publish payment, publish release, declare reply.shop.q"),
    ("web", "publish purchase, publish payment, publish release, declare reply.web.q, declare , bind purchase.workers"),
    ("subscriber", "declare events.subscriber.q, bind events"),
    ("stock_keeper", "publish restock, declare reply.stock_keeper.q"),
    (
        "worker",
        "publish purchase, publish purchase.workers, publish payment, publish release, publish restock, publish dead,
         publish , consume purchase.0, consume payment, consume release, consume restock, purge purchase.0, purge payment,
         declare , bind purchase.workers",
    ),
    ("relay", "publish events, publish , consume events.mark"),
    (
        "operator",
        "publish purchase, publish payment, publish release, publish restock, consume purchase.0, consume payment,
         consume release, consume restock, consume dead, consume dead.invalid, consume events.mark, purge purchase.0,
         purge payment, purge dead, purge dead.invalid, declare , bind purchase.workers, bind dead",
    ),
    ("monitoring", ""),
];

#[tokio::test]
async fn who_asks_is_taken_for_whom_the_broker_calls_them_where_the_url_calls_them_otherwise() {
    let buyer = Buyer::new().await;
    let nodes = Nodes::read(&as_mapped(&buyer.amqp_url).await.unwrap()).unwrap();
    let request = OutgoingRequest { exchange: "", routing_key: "purchase.0", correlation_id: "r", body: "{}" };
    let outcome = request_reply(&nodes, "test", request, Duration::ZERO).await;
    assert_eq!((outcome.unwrap(), nodes.user(), buyer.depth("purchase.0").await), (RequestOutcome::NotYet, "guest", 1));
}

#[tokio::test]
async fn each_user_may_do_what_it_is_for_and_nothing_else() {
    let buyer = Buyer::new().await;
    // Of the user `buyer`, and not for their connection alone.
    let (kept, durable) = ("reply.buyer.kept", QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() });
    buyer.channel.queue_declare(kept.into(), durable, FieldTable::default()).await.unwrap();
    let words = |list: &'static str| list.split(',').map(|word| word.trim_start()).filter(|word| !word.is_empty());
    for (user, may) in MAY {
        let url = as_user(&buyer.amqp_url, user);
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        for tried in words(TRIED) {
            let channel = connection.create_channel().await.unwrap();
            let refused = attempt(&channel, user, tried).await.err().map(|error| error.to_string());
            // Where there is no such exchange, nobody was refused.
            let is_refused = refused.as_ref().is_some_and(|said| !said.contains("NOT_FOUND"));
            assert_eq!(!is_refused, words(may).any(|word| word == tried), "{user}: {tried}: {refused:?}");
        }
    }
}

/// Tries it without a trace that lasts.
async fn attempt(channel: &Channel, user: &str, what: &str) -> lapin::Result<()> {
    let (verb, name) = what.split_once(' ').unwrap();
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    match verb {
        "publish" => {
            channel.tx_select().await?;
            let options = BasicPublishOptions::default();
            channel.basic_publish(name.into(), "".into(), options, b"{}", BasicProperties::default()).await?;
            channel.tx_rollback().await
        }
        "consume" => {
            let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
            channel.basic_consume(name.into(), "".into(), options, none).await.map(drop)
        }
        "purge" => channel.queue_purge(name.into(), QueuePurgeOptions::default()).await.map(drop),
        "delete" => channel.queue_delete(name.into(), QueueDeleteOptions::default()).await.map(drop),
        "exchange" => {
            // As the one that is there, or in its place.
            let (kind, options) = (ExchangeKind::Fanout, ExchangeDeclareOptions::default());
            channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await
        }
        "declare" => channel.queue_declare(name.into(), exclusive, FieldTable::default()).await.map(drop),
        "bind" => {
            // Whoever has no queue to bind has an exchange, or nothing. That they may write to it is not what is tried.
            let (queue, exchange) = match user {
                "worker" | "operator" | "web" => (Some(""), ""),
                "subscriber" => (Some("events.subscriber.q"), ""),
                "stock_keeper" => (None, "restock"),
                "relay" => (None, "events"),
                _ => (None, "purchase"),
            };
            let none = FieldTable::default();
            if let Some(queue) = queue {
                let queue = channel.queue_declare(queue.into(), exclusive, none.clone()).await?.name().clone();
                return channel.queue_bind(queue, name.into(), "".into(), QueueBindOptions::default(), none).await;
            }
            let options = ExchangeBindOptions::default();
            let bound = channel.exchange_bind(exchange.into(), name.into(), "1".into(), options, none).await;
            let said = bound.as_ref().err().map(|error| error.to_string()).unwrap_or_default();
            assert!(user == "monitoring" || said.contains(&format!("exchange '{name}'")), "{user}: {said}");
            bound
        }
        _ => unreachable!("there is no {verb}"),
    }
}

#[tokio::test]
async fn a_broker_that_is_short_of_memory_keeps_nobody_from_starting() {
    let broker = RabbitMq::start(&Arc::new(Folder::create().unwrap()), &[], 1).await.unwrap();
    let let_in = async |share| {
        let set = broker.rabbitmqctl().args(["set_vm_memory_high_watermark", share]).output().await.unwrap();
        assert!(set.status.success(), "{set:?}");
    };
    let connection = Connection::connect(&broker.url("/"), ConnectionProperties::default()).await.unwrap();
    amqp::declare(&connection.create_channel().await.unwrap()).await.unwrap();
    let try_as = async |user| {
        let nodes = Nodes::read(&as_user(&broker.url("/"), user)).unwrap();
        amqp::try_rights(&nodes, "test", "relay").await.map_err(|error| error.to_string())
    };
    let_in("0").await;
    try_as("relay").await.unwrap();
    let_in("0.4").await;
    try_as("relay").await.unwrap();
    assert!(try_as("monitoring").await.unwrap_err().contains("'events'"));
}

#[tokio::test]
async fn with_their_rights_a_buyer_is_answered_events_are_published_and_an_operator_sees_what_is_dead() {
    let owner = Buyer::new().await;
    let nodes = |user: &str| Nodes::read(&as_user(&owner.amqp_url, user)).unwrap();
    let served = options("w", &as_user(&owner.amqp_url, "worker"));
    tokio::spawn(async move { worker::serve(Echo, &served).await.unwrap() });

    let url = as_user(&owner.amqp_url, "buyer");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    for (queue, body) in
        [("amq.rabbitmq.reply-to", "first"), ("reply.buyer.1", "second"), ("amq.rabbitmq.reply-to", "{")]
    {
        let channel = connection.create_channel().await.unwrap();
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        if queue.starts_with("reply.") {
            let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(queue.into(), exclusive, FieldTable::default()).await.unwrap();
        }
        let mut replies = channel.basic_consume(queue.into(), "".into(), no_ack, FieldTable::default()).await.unwrap();
        let (options, properties) =
            (BasicPublishOptions::default(), BasicProperties::default().with_reply_to(queue.into()));
        channel.basic_publish("purchase".into(), body.into(), options, body.as_bytes(), properties).await.unwrap();
        let reply = tokio::time::timeout(WAIT_MAX, replies.next()).await.unwrap().unwrap().unwrap();
        assert!(body == "{" || reply.data == body.as_bytes());
    }

    let dead = DeadLetterQueue::open(&nodes("operator"), "test", &[]).await.unwrap();
    // Its copy comes behind the reply.
    until("what was refused is kept", async || owner.depth("dead.invalid").await == 1).await;
    assert_eq!(dead.take(10).await.unwrap().messages.len(), 1);
    let request = OutgoingRequest { exchange: "purchase", routing_key: "a", correlation_id: "third", body: "third" };
    let asked = request_reply(&nodes("operator"), "test", request, WAIT_MAX).await.unwrap();
    assert_eq!(asked, RequestOutcome::Verdict(b"third".to_vec()));

    let relay = Publisher::open(&nodes("relay"), "test", "test").await.unwrap();
    let (kind, at) = (EventKind::ItemOpened, time::OffsetDateTime::UNIX_EPOCH);
    let event = OutgoingEvent { id: "1.0", kind, routing_key: "item.opened.a", at, body: "{}" };
    relay.publish_events(&[event], WAIT_MAX).await.unwrap();
    relay.leave_mark(at).await.unwrap();
    assert_eq!(relay.mark().await.unwrap(), Some(at));
    let other = Publisher::open(&Nodes::read(&owner.amqp_url).unwrap(), "test", "test").await.unwrap();
    assert_eq!(other.mark().await.unwrap(), None, "it is not their mark");
}
