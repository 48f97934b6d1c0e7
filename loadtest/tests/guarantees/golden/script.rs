//! Plays a file of requests against real workers, and writes each reply below its request.
//!
//! A line is `KIND BODY` or `KIND?PROPERTY=VALUE BODY` (a request), `worker FUNCTION NAME=VALUE …` (instead of the one
//! before it), `sql STATEMENT`, `wait QUERY` (until it says true), or begins with `dead` (what is there) or `properties`
//! (those of the replies). `<ID>` is the order that the request ID got.

use super::annotated;
use crate::support::shop::{Reply, Shop, until};
use lapin::BasicProperties;
use serde_json::Value;
use shared::devstack::Supervised;
use std::collections::{BTreeSet, HashMap};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

pub(super) struct Script<'a> {
    pub(super) shop: &'a mut Shop,
    pub(super) workers: HashMap<String, Supervised>,
    orders: Vec<(String, String)>,
    replies: HashMap<String, String>,
    properties: BTreeSet<String>,
    dead: usize,
}

impl<'a> Script<'a> {
    pub(super) fn new(shop: &'a mut Shop) -> Self {
        let (workers, orders, replies, properties) = Default::default();
        Self { shop, workers, orders, replies, properties, dead: 0 }
    }

    /// The text with the replies of now.
    pub(super) async fn play(&mut self, text: &str) -> String {
        annotated(text, async |line| self.step(line).await).await
    }

    async fn step(&mut self, line: &str) -> Vec<String> {
        let (word, rest) = line.split_once(' ').unwrap();
        let rest = self.orders.iter().fold(rest.to_owned(), |rest, (id, order)| rest.replace(id, order));
        match word {
            "worker" => self.start(&rest).await,
            "sql" => drop(sqlx::raw_sql(&rest).execute(&self.shop.pool).await.unwrap()),
            "wait" => {
                let holds = async || sqlx::query_scalar(&rest).fetch_one(&self.shop.pool).await.unwrap();
                until(&rest, holds).await;
            }
            "dead" => {
                let dead = self.shop.dead(std::mem::take(&mut self.dead)).await;
                let line = |(reason, body)| format!("  {reason} {}", mask(&String::from_utf8(body).unwrap()));
                return dead.into_iter().map(line).collect();
            }
            "properties" => return std::mem::take(&mut self.properties).into_iter().collect(),
            request => return self.request(request, &rest).await.into_iter().collect(),
        }
        Vec::new()
    }

    async fn start(&mut self, text: &str) {
        let mut words = text.split(' ');
        let function = words.next().unwrap();
        let environment: Vec<_> = words.map(|word| word.split_once('=').unwrap()).collect();
        if let Some(mut before) = self.workers.remove(function) {
            before.stop().await.unwrap();
        }
        let worker = self.shop.worker_of(function, &format!("w-{function}"), &environment).await;
        self.workers.insert(function.to_owned(), worker);
    }

    /// Sends the request, and says what comes back. Who sends the same again gets the same.
    async fn request(&mut self, request: &str, body: &str) -> Option<String> {
        let (kind, option) = request.split_once('?').map_or((request, None), |(kind, option)| (kind, Some(option)));
        let item = serde_json::from_str::<Value>(body).ok().and_then(|body| Some(body["item"].as_str()?.to_owned()));
        let (exchange, key) = match kind {
            "purchase" => ("purchase", item.unwrap_or_else(|| "ticket".to_owned())),
            queue => ("", queue.to_owned()),
        };
        let properties = with_option(self.shop.properties("c"), option);
        self.shop.send_to(exchange, &key, body.as_bytes(), properties).await;
        if option.is_some_and(|option| option.starts_with("reply_to")) {
            self.dead += 1;
            return None;
        }
        let reply = self.shop.reply().await;
        let read = &reply.verdict;
        self.dead += usize::from(read["status"] == "invalid");
        if let (Some(id), Some(order)) = (read["request_id"].as_str(), read["order"]["id"].as_str()) {
            self.orders.push((format!("<{id}>"), order.to_owned()));
        }
        self.properties.insert(described(&reply));
        let first = self.replies.entry(format!("{request} {body}")).or_insert_with(|| reply.body.clone());
        assert_eq!(*first, reply.body, "a repeat is the same byte for byte");
        Some(format!("  {}", mask(&reply.body)))
    }
}

fn with_option(properties: BasicProperties, option: Option<&str>) -> BasicProperties {
    match option.map(|option| option.split_once('=').unwrap()) {
        None => properties,
        Some(("content_type", value)) => properties.with_content_type(value.into()),
        Some(("content_encoding", value)) => properties.with_content_encoding(value.into()),
        Some(("correlation_id", value)) => properties.with_correlation_id(value.into()),
        Some(("message_id", value)) => properties.with_message_id(value.into()),
        Some(("reply_to", value)) => properties.with_reply_to(value.into()),
        Some((other, _)) => panic!("{other} cannot be set"),
    }
}

fn described(reply: &Reply) -> String {
    let properties = &reply.properties;
    let headers = properties.headers().clone().unwrap_or_default();
    let headers: Vec<_> = headers.inner().keys().map(|name| name.as_str()).collect();
    format!(
        "  content_type={:?} delivery_mode={:?} type={:?} message_id={} app_id={} headers={headers:?}",
        properties.content_type().as_ref().map(|text| text.as_str()),
        properties.delivery_mode(),
        properties.kind().as_ref().map(|text| text.as_str()),
        properties.message_id().is_some(),
        reply.worker_id,
    )
}

/// The text without what is another each time: UUIDs, and times of about now.
pub(super) fn mask(text: &str) -> String {
    let (mut masked, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let uuid = rest.get(..36).filter(|text| Uuid::try_parse(text).is_ok());
        let time = rest.find('Z').map(|end| &rest[..=end]).filter(|text| is_now(text));
        let (word, length) = match (uuid, time) {
            (Some(uuid), _) => ("<uuid>", uuid.len()),
            (None, Some(time)) => ("<time>", time.len()),
            (None, None) => (&rest[..first.len_utf8()], first.len_utf8()),
        };
        masked.push_str(word);
        rest = &rest[length..];
    }
    masked
}

fn is_now(text: &str) -> bool {
    let now = OffsetDateTime::now_utc();
    OffsetDateTime::parse(text, &Rfc3339).is_ok_and(|time| (time - now).whole_days().abs() < 2)
}
