//! What the buyer sends, and what comes back.

use super::{Reply, Shop, WAIT_MAX, cancellation, payment, request, until};
use crate::contract::assert_describes;
use futures_util::StreamExt;
use lapin::options::{BasicGetOptions, BasicPublishOptions};
use lapin::types::AMQPValue;
use lapin::{BasicProperties, PublisherConfirm};
use shared::messages::{PAYMENT_QUEUE, RELEASE_QUEUE};
use std::collections::HashMap;

impl Shop {
    /// What a buyer's properties usually are.
    pub(crate) fn properties(&self, correlation_id: &str) -> BasicProperties {
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_correlation_id(correlation_id.into())
            .with_reply_to(self.reply_queue.clone());
        match &self.user {
            Some(user) => properties.with_user_id(user.as_str().into()),
            None => properties,
        }
    }

    /// Publishes any bytes with any properties, confirmed.
    pub(crate) async fn send(&self, item: &str, body: &[u8], properties: BasicProperties) {
        self.send_to("purchase", item, body, properties).await;
    }

    /// The same, to any exchange.
    pub(crate) async fn send_to(&self, exchange: &str, routing_key: &str, body: &[u8], properties: BasicProperties) {
        let confirmation = self.publish(exchange, routing_key, body, properties).await.await.unwrap();
        assert!(confirmation.is_ack() && confirmation.take_message().is_none(), "the broker took it and routed it");
    }

    /// Sends a well-formed request for one unit.
    pub(crate) async fn buy(&self, id: &str, item: &str) {
        self.send(item, request(id, item, 1).as_bytes(), self.properties(id)).await;
    }

    /// The same, without waiting for the broker's confirm.
    pub(crate) async fn buy_unconfirmed(&self, id: &str, item: &str) {
        drop(self.publish("purchase", item, request(id, item, 1).as_bytes(), self.properties(id)).await);
    }

    /// Any bytes, to any exchange, without waiting for the broker's confirm.
    pub(crate) async fn send_unconfirmed(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
        drop(self.publish(exchange, key, body, properties).await);
    }

    async fn publish(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) -> PublisherConfirm {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.unwrap()
    }

    /// Buys a ticket, and waits for the verdict.
    pub(crate) async fn purchase(&mut self, id: &str) -> Reply {
        self.buy(id, "ticket").await;
        self.reply_to(id).await
    }

    /// Sends to a function's exchange, and waits for the reply, which is one that is described.
    pub(crate) async fn ask(&mut self, exchange: &str, id: &str, body: &str) -> Reply {
        self.ask_at(exchange, "", id, body).await
    }

    /// The same, by any routing key.
    pub(crate) async fn ask_at(&mut self, exchange: &str, key: &str, id: &str, body: &str) -> Reply {
        self.send_to(exchange, key, body.as_bytes(), self.properties(id)).await;
        let reply = self.reply_to(id).await;
        assert_describes(&reply.verdict);
        reply
    }

    pub(crate) async fn cancel(&mut self, id: &str, order: &str) -> Reply {
        self.ask(RELEASE_QUEUE, id, &cancellation(id, order)).await
    }

    pub(crate) async fn pay(&mut self, id: &str, order: &str) -> Reply {
        self.ask(PAYMENT_QUEUE, id, &payment(id, order)).await
    }

    /// These ask for a unit each, in one message; one of them alone without an array.
    pub(crate) async fn buy_together(&self, ids: &[String], item: &str) {
        let requests: Vec<String> = ids.iter().map(|id| request(id, item, 1)).collect();
        let body = if let [request] = &requests[..] { request.clone() } else { format!("[{}]", requests.join(",")) };
        drop(self.publish("purchase", item, body.as_bytes(), self.properties(&ids.join(" "))).await);
    }

    /// So many buyers ask for a ticket, one after the other, some alone and some together.
    pub(crate) async fn line_up(&self, count: usize) {
        let ids: Vec<String> = (0..count).map(|number| format!("r-{number:04}")).collect();
        for together in ids.chunks(6).flat_map(|six| six.chunks(5)) {
            self.buy_together(together, "ticket").await;
        }
        self.channel.wait_for_confirms().await.unwrap();
    }

    /// Each of those who lined up gets one reply, and who came first was served first.
    pub(crate) async fn assert_served_in_order(
        &mut self,
        mut replies: HashMap<String, Reply>,
        count: usize,
        stock: usize,
    ) {
        while replies.len() < count {
            let reply = self.reply().await;
            assert!(replies.insert(reply.correlation_id.clone(), reply).is_none(), "nothing is delivered twice");
        }
        for number in 0..count {
            let expected = if number < stock { "reserved" } else { "sold_out" };
            assert_eq!(replies[&format!("r-{number:04}")].code(), expected, "first come, first served: {number}");
        }
    }

    /// The next reply; of an array one after the other.
    pub(crate) async fn reply(&mut self) -> Reply {
        if self.came_along.is_empty() {
            let delivery = tokio::time::timeout(WAIT_MAX, self.replies.next()).await.expect("a reply comes");
            self.came_along = Reply::all_of(delivery.unwrap().unwrap()).into();
        }
        self.came_along.pop_front().unwrap()
    }

    /// The next reply, which is to this request.
    pub(crate) async fn reply_to(&mut self, id: &str) -> Reply {
        let reply = self.reply().await;
        assert_eq!(reply.correlation_id, id, "{}", reply.body);
        reply
    }

    /// This many replies, by correlation id; a second one for the same id must not differ.
    pub(crate) async fn replies(&mut self, count: usize) -> HashMap<String, Reply> {
        let mut replies: HashMap<String, Reply> = HashMap::new();
        while replies.len() < count {
            let reply = self.reply().await;
            if let Some(first) = replies.get(&reply.correlation_id) {
                assert_eq!(first.body, reply.body, "a repeat is the same byte for byte");
            }
            replies.insert(reply.correlation_id.clone(), reply);
        }
        replies
    }

    /// Takes this many messages out of `dead` and `dead.invalid`: (reason header, body).
    pub(crate) async fn dead(&self, count: usize) -> Vec<(String, Vec<u8>)> {
        let mut dead = Vec::new();
        until("messages are in dead", async || {
            let options = BasicGetOptions { no_ack: true };
            let mut message = self.channel.basic_get("dead".into(), options).await.unwrap();
            if message.is_none() {
                message = self.channel.basic_get("dead.invalid".into(), options).await.unwrap();
            }
            if let Some(message) = message {
                let headers = message.properties.headers().clone().unwrap_or_default();
                let reason = match headers.inner().get("x-dead-reason") {
                    Some(AMQPValue::LongString(reason)) => reason.to_string(),
                    _ => "by the broker".to_owned(),
                };
                dead.push((reason, message.delivery.data));
            }
            dead.len() == count
        })
        .await;
        dead
    }
}
