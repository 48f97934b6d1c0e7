//! rabbitmq/asyncapi.yaml says what the code does: names, limits, fields, codes, examples, and what lands in `dead`.

use crate::support::shop::{Shop, until};
use futures_util::StreamExt;
use lapin::{
    BasicProperties,
    options::{BasicConsumeOptions, BasicGetOptions, BasicRejectOptions},
    types::{AMQPValue, FieldTable},
};
use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use shared::{
    messages::{
        BODY_BYTES_MAX, CONTENT_TYPE, Code, EVENTS_EXCHANGE, Event, EventKind, HOLD_MS_DEFAULT, ID_BYTES_MAX,
        PAYMENT_QUEUE, PURCHASE_EXCHANGE, PaymentRequest, PurchaseRequest, QUANTITY_MAX, RELEASE_QUEUE, RESTOCK_QUEUE,
        RULE_NAMES, Rejection, ReleaseRequest, Request, RestockRequest, STOCK_MAX, Status, TIERS_MAX, TIME_MS_MAX,
        Verdict,
    },
    topology::Topology,
};
use std::time::Duration;

/// Restock requests: one for each operation.
const RESTOCK: [&str; 6] =
    ["restockCreate", "restockAdd", "restockRemove", "restockOpen", "restockClose", "restockRules"];

#[test]
fn names_and_limits_are_the_codes_own() {
    let document = document();
    let topology = Topology::read();
    let binding = &document["channels"]["purchase"]["bindings"]["amqp"];
    let exchange = topology.exchanges.iter().find(|exchange| exchange.name == PURCHASE_EXCHANGE).unwrap();
    assert_eq!(binding["exchange"]["name"], exchange.name.as_str());
    assert_eq!(binding["exchange"]["durable"], exchange.durable);
    assert_eq!(binding["x-exchange-type"], exchange.kind.as_str());
    for name in ["dead", PAYMENT_QUEUE, RELEASE_QUEUE, RESTOCK_QUEUE] {
        assert_eq!(document["channels"][name]["address"], name);
        let queue = &document["channels"][name]["bindings"]["amqp"]["queue"];
        assert_eq!(topology.queues_of(name), [queue["name"].as_str().unwrap()]);
    }
    assert_eq!(document["defaultContentType"], CONTENT_TYPE);

    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["id"]["pattern"], format!("^[A-Za-z0-9._:-]{{1,{ID_BYTES_MAX}}}$"));
    for quantity in [&schemas["purchaseRequest"]["properties"]["quantity"], &schemas["order"]["properties"]["quantity"]]
    {
        assert_eq!((&quantity["minimum"], &quantity["maximum"]), (&Value::from(1), &Value::from(QUANTITY_MAX)));
    }
    for request in ["purchaseRequest", "paymentRequest", "releaseRequest"].into_iter().chain(RESTOCK) {
        let description = schemas[request]["description"].as_str().unwrap();
        assert!(description.contains(&format!("{} KiB", BODY_BYTES_MAX / 1024)), "{description}");
    }
}

#[test]
fn the_bounds_of_restock_are_the_codes_own() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let bounds = |schema: &Value| (schema["minimum"].as_i64().unwrap(), schema["maximum"].as_i64().unwrap());
    let create = &schemas["restockCreate"]["properties"];
    assert_eq!((bounds(&create["stock"]), bounds(&create["hold_ms"])), ((0, STOCK_MAX), (1, TIME_MS_MAX)));
    assert_eq!(create["hold_ms"]["default"], HOLD_MS_DEFAULT);
    for request in ["restockAdd", "restockRemove"] {
        assert_eq!(bounds(&schemas[request]["properties"]["quantity"]), (1, STOCK_MAX));
    }
    let rules = schemas["rules"]["properties"].as_object().unwrap();
    assert_eq!(bounds(&rules["max_per_buyer"]), (1, STOCK_MAX));
    assert_eq!(bounds(&rules["cooldown_ms"]), (1, TIME_MS_MAX));
    assert_eq!((&rules["tiers"]["minItems"], &rules["tiers"]["maxItems"]), (&1.into(), &TIERS_MAX.into()));
    assert!(rules.len() == RULE_NAMES.len() && RULE_NAMES.iter().all(|name| rules.contains_key(*name)));
}

#[test]
fn every_code_stands_under_its_status_and_no_other_word_does() {
    let document = document();
    let mut listed = Vec::new();
    for (status, schema) in statuses(&document) {
        for word in codes(&document, &schema) {
            let code: Code = serde_json::from_value(word.clone()).unwrap();
            assert_eq!(code.status(), status, "{word}");
            listed.push(word.as_str().unwrap().to_owned());
        }
    }
    let mut known = Code::ALL.map(|(_, _, word)| word.to_owned());
    known.sort();
    listed.sort();
    assert_eq!(listed, known);
}

#[test]
fn the_table_for_people_has_every_code_under_its_status_too() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../rabbitmq/README.md")).unwrap();
    let table = readme.split("| status | code | meaning |").nth(1).unwrap().split("\n\n").next().unwrap();
    let (mut status, mut listed) = (String::new(), Vec::new());
    for row in table.lines().filter(|row| row.contains('`')) {
        let words =
            |cell: usize| row.split('|').nth(cell).unwrap().split('`').skip(1).step_by(2).map(ToOwned::to_owned);
        status = words(1).next().unwrap_or(status);
        listed.extend(words(2).map(|code| (status.clone(), code)));
    }
    let mut known = Code::ALL.map(|(_, status, word)| (status.as_str().to_owned(), word.to_owned()));
    known.sort();
    listed.sort();
    assert_eq!(listed, known);
}

#[test]
fn the_examples_are_what_the_code_reads_and_writes() {
    let document = document();
    assert_reads(&document, "purchaseRequest", PurchaseRequest::decode);
    assert_reads(&document, "paymentRequest", PaymentRequest::decode);
    assert_reads(&document, "releaseRequest", ReleaseRequest::decode);
    for request in RESTOCK {
        assert_reads(&document, request, RestockRequest::decode);
    }

    let mut shown = Vec::new();
    for example in examples(&document, "verdict") {
        let verdict: Verdict = serde_json::from_value(example["payload"].clone()).unwrap();
        assert_eq!(serde_json::to_value(&verdict).unwrap(), example["payload"]);
        assert_describes(&example["payload"]);
        shown.push(verdict.status.as_str().to_owned());
    }
    shown.dedup();
    assert!(words::<Status>().iter().all(|status| shown.contains(status)), "each status has its example: {shown:?}");
}

#[test]
fn events_are_described_as_they_are_told() {
    let document = document();
    let topology = Topology::read();
    let exchange = topology.exchanges.iter().find(|exchange| exchange.name == EVENTS_EXCHANGE).unwrap();
    let binding = &document["channels"]["events"]["bindings"]["amqp"]["exchange"];
    assert_eq!((&binding["name"], &binding["type"]), (&exchange.name.as_str().into(), &exchange.kind.as_str().into()));
    assert_eq!(binding["durable"], exchange.durable);
    assert_eq!(document["channels"]["events"]["address"], "{kind}.{item}");

    let schemas = &document["components"]["schemas"];
    let mut listed = Vec::new();
    for (name, prefix) in [("orderEvent", "order."), ("itemEvent", "item.")] {
        let kinds: Vec<&str> = strings(&schemas[name]["properties"]["event"]["enum"]).collect();
        assert!(kinds.iter().all(|kind| kind.starts_with(prefix)), "{kinds:?}");
        listed.extend(kinds);
        for example in examples(&document, name) {
            let (payload, headers) = (&example["payload"], &example["headers"]);
            let event: Event = serde_json::from_value(payload.clone()).unwrap();
            assert_eq!(&serde_json::to_value(&event).unwrap(), payload);
            assert_eq!((&headers["message_id"], &headers["type"]), (&payload["event_id"], &payload["event"]));
            assert_eq!(headers["timestamp"], event.at.unix_timestamp());
            assert_has_what_is_required(&schemas[name], payload);
            assert_has_what_is_required(&schemas["eventHeaders"], headers);
            if let Some(order) = payload.get("order") {
                assert_has_what_is_required(&schemas["eventOrder"], order);
            }
        }
    }
    assert_eq!(listed, EventKind::ALL.map(|(_, word)| word));
}

/// All fields of a schema that has no others are there.
fn assert_has_what_is_required(schema: &Value, object: &Value) {
    let mut required: Vec<&str> = strings(&schema["required"]).collect();
    required.sort_unstable();
    for fields in [&schema["properties"], object] {
        let mut names: Vec<&str> = fields.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, required);
    }
}

/// The examples of a request are read, and written again as they stand; one of them has every field that is described.
fn assert_reads<Request: Serialize>(
    document: &Value,
    name: &str,
    decode: impl Fn(&[u8], Option<&str>) -> Result<Request, Rejection>,
) {
    let requests = examples(document, name);
    for example in &requests {
        let message_id = example["headers"]["message_id"].as_str();
        let request = decode(example["payload"].to_string().as_bytes(), message_id).unwrap();
        let mut written = serde_json::to_value(&request).unwrap();
        if example["payload"].get("request_id").is_none() {
            assert_eq!(written.as_object_mut().unwrap().remove("request_id"), message_id.map(Value::from));
        }
        assert_eq!(written, example["payload"]);
    }
    let fields = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let most = requests.iter().map(|example| fields(&example["payload"])).max_by_key(Vec::len).unwrap();
    assert_eq!(fields(&document["components"]["schemas"][name]["properties"]), most);
}

#[tokio::test]
async fn what_lands_in_dead_has_the_headers_that_are_described() {
    let document = document();
    let mut shop = Shop::open(&[]).await;
    let _worker = shop.worker("w", &[]).await;

    let [example] = &examples(&document, "rejectedMessage")[..] else { panic!("one example") };
    let sent = shop.properties("c-1").with_message_id("m-1".into()).with_expiration("60000".into()).with_priority(3);
    let item = example["payload"]["item"].as_str().unwrap();
    shop.send(item, example["payload"].to_string().as_bytes(), sent).await;
    let reply = shop.reply().await.verdict();
    assert_describes(&reply);
    let (kept, body) = buried(&shop).await;
    let headers = kept.headers().clone().unwrap_or_default();
    let described = &document["components"]["messages"]["rejectedMessage"]["headers"];
    for name in strings(&described["required"]) {
        let found = text(&headers, name).unwrap_or_else(|| panic!("{name} is there: {headers:?}"));
        // Which partition an item has is the broker's to say.
        let is_described = match name {
            "x-dead-queue" => Topology::read().queues_of("purchase").contains(&found),
            name => example["headers"][name] == found,
        };
        assert!(is_described, "{name}: {found}");
    }
    let ours = headers.inner().keys().filter(|name| name.as_str().starts_with("x-dead-")).count();
    assert_eq!(ours, described["properties"].as_object().unwrap().len(), "{headers:?}");
    assert_eq!(text(&headers, "x-dead-reason").as_deref(), reply["code"].as_str());
    assert_eq!(text(&headers, "x-dead-message").as_deref(), reply["message"].as_str());
    assert_eq!(body, example["payload"].to_string().as_bytes());
    assert_eq!(kept.message_id().as_ref().map(|id| id.as_str()), Some("m-1"));
    assert_eq!(kept.correlation_id().as_ref().map(|id| id.as_str()), Some("c-1"));
    assert_eq!((kept.expiration(), kept.priority()), (&None, &None), "left out");
}

#[tokio::test]
async fn what_the_broker_moves_to_dead_has_the_headers_that_are_described() {
    let document = document();
    let shop = Shop::open(&[]).await;
    shop.send("ticket", b"{}", BasicProperties::default()).await;
    let mut queue = String::new();
    until("it is in a partition", async || {
        for partition in Topology::read().queues_of("purchase") {
            if shop.depth(&partition).await == 1 {
                queue = partition;
            }
        }
        !queue.is_empty()
    })
    .await;
    // Like a worker that comes down each time: nobody settles the message, until its queue gives it up.
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut deliveries = shop.channel.basic_consume(queue.as_str().into(), "".into(), options, none).await.unwrap();
    until("the broker has moved it", async || {
        let next = tokio::time::timeout(Duration::from_millis(50), deliveries.next()).await;
        if let Ok(Some(delivery)) = next {
            delivery.unwrap().reject(BasicRejectOptions { requeue: true }).await.unwrap();
        }
        shop.depth("dead").await == 1
    })
    .await;
    let (kept, _) = buried(&shop).await;
    let headers = kept.headers().clone().unwrap_or_default();
    let schema = &document["components"]["messages"]["undeliverableMessage"]["headers"];
    assert!(strings(&schema["required"]).all(|name| headers.contains_key(name)), "{headers:?}");
    let reason = &schema["properties"]["x-first-death-reason"]["const"];
    assert_eq!(text(&headers, "x-first-death-reason").as_deref(), reason.as_str());
    assert_eq!(text(&headers, "x-first-death-queue"), Some(queue));
    assert_eq!(text(&headers, "x-dead-reason"), None, "that is how the two are told apart");
}

/// Holds a verdict, as it is on the wire, against the schema of its status.
pub(crate) fn assert_describes(verdict: &Value) {
    let document = document();
    let of_status = |(status, _): &(Status, Value)| verdict["status"] == status.as_str();
    let (_, schema) = statuses(&document).into_iter().find(of_status).expect("the status is described");
    assert!(codes(&document, &schema).contains(&verdict["code"]), "{verdict}");
    for field in strings(&schema["required"]) {
        assert!(verdict.get(field).is_some(), "{field} is required: {verdict}");
    }
    for field in verdict.as_object().unwrap().keys() {
        assert!(schema["properties"].get(field).is_some(), "{field} is not described: {verdict}");
    }
}

/// The alternatives of the schema `verdict`, with the status that each is for.
fn statuses(document: &Value) -> Vec<(Status, Value)> {
    let schemas = &document["components"]["schemas"];
    let of_reference = |reference: &Value| {
        let name = reference["$ref"].as_str().unwrap().strip_prefix("#/components/schemas/").unwrap();
        let schema = schemas[name].clone();
        (serde_json::from_value(schema["properties"]["status"]["const"].clone()).unwrap(), schema)
    };
    schemas["verdict"]["oneOf"].as_array().unwrap().iter().map(of_reference).collect()
}

fn codes(document: &Value, schema: &Value) -> Vec<Value> {
    let code = &schema["properties"]["code"];
    let code = code["$ref"].as_str().map_or(code, |reference| document.pointer(&reference[1..]).unwrap());
    code["enum"].as_array().unwrap().clone()
}

fn examples(document: &Value, message: &str) -> Vec<Value> {
    document["components"]["messages"][message]["examples"].as_array().unwrap().clone()
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap())
}

/// All words of an enum: serde lists them when it is shown one that it does not know.
fn words<Enum: DeserializeOwned>() -> Vec<String> {
    let Err(error) = serde_json::from_str::<Enum>(r#""""#) else { panic!("the empty word is none of them") };
    error.to_string().split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect()
}

/// Takes the one message out of `dead`.
async fn buried(shop: &Shop) -> (BasicProperties, Vec<u8>) {
    until("a message is in dead", async || shop.depth("dead").await == 1).await;
    let message = shop.channel.basic_get("dead".into(), BasicGetOptions { no_ack: true }).await.unwrap().unwrap();
    (message.delivery.properties, message.delivery.data)
}

fn text(headers: &FieldTable, name: &str) -> Option<String> {
    match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => Some(text.to_string()),
        Some(_) | None => None,
    }
}

fn document() -> Value {
    let text = include_str!("../../../rabbitmq/asyncapi.yaml");
    let [document] = &Yaml::load_from_str(text).unwrap()[..] else { panic!("one document") };
    json(document)
}

fn json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Value(Scalar::Null) => Value::Null,
        Yaml::Value(Scalar::Boolean(value)) => Value::from(*value),
        Yaml::Value(Scalar::Integer(value)) => Value::from(*value),
        Yaml::Value(Scalar::String(value)) => Value::from(value.as_ref()),
        Yaml::Sequence(values) => values.iter().map(json).collect(),
        Yaml::Mapping(fields) => fields.iter().map(|(name, value)| (name.as_str().unwrap(), json(value))).collect(),
        Yaml::Value(Scalar::FloatingPoint(_))
        | Yaml::Representation(..)
        | Yaml::Tagged(..)
        | Yaml::Alias(_)
        | Yaml::BadValue => panic!("the document has no such value: {yaml:?}"),
    }
}
