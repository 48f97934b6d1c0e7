//! rabbitmq/asyncapi.yaml says what the code does: names, limits, fields, codes, examples, and what lands in `dead`.

use crate::support::shop::{Shop, until};
use crate::support::yaml;
use lapin::BasicProperties;
use lapin::message::BasicGetMessage;
use lapin::options::BasicGetOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde::Serialize;
use serde_json::Value;
use shared::messages::{
    ARRAY_BYTES_MAX, BODY_BYTES_MAX, CONTENT_TYPE, Code, EVENTS_EXCHANGE, Event, EventKind, HOLD_MS_DEFAULT,
    ID_BYTES_MAX, PAYMENT_QUEUE, PURCHASE_EXCHANGE, PaymentMessage, PurchaseRequest, QUANTITY_MAX, REASON_CHARS_MAX,
    RELEASE_QUEUE, REQUESTS_MAX, RESTOCK_QUEUE, RULE_NAMES, Rejection, ReleaseRequest, Request, RestockRequest,
    STOCK_MAX, Status, TIERS_MAX, TIME_MS_MAX, Verdict,
};
use shared::topology::Topology;
use std::collections::BTreeSet;

/// Restock requests: one for each operation.
const RESTOCK: [&str; 6] =
    ["restockCreate", "restockAdd", "restockRemove", "restockOpen", "restockClose", "restockRules"];

/// What payment takes: requests to pay, and those that end a payment.
const PAYMENT: [&str; 4] = ["paymentRequest", "paymentCaptured", "paymentDeclined", "paymentVoid"];

#[test]
fn names_and_limits_are_the_codes_own() {
    let (document, topology) = (document(), Topology::read());
    for (channel, name, kind) in [
        ("purchase", PURCHASE_EXCHANGE, "x-exchange-type"),
        ("events", EVENTS_EXCHANGE, "exchange/type"),
        ("payment", PAYMENT_QUEUE, "exchange/type"),
        ("release", RELEASE_QUEUE, "exchange/type"),
        ("restock", RESTOCK_QUEUE, "exchange/type"),
    ] {
        let exchange = topology.exchanges.iter().find(|exchange| exchange.name == name).unwrap();
        let binding = &document["channels"][channel]["bindings"]["amqp"];
        assert_eq!(binding["exchange"]["name"], exchange.name.as_str());
        assert_eq!(binding["exchange"]["durable"], exchange.durable);
        assert_eq!(binding.pointer(&format!("/{kind}")), Some(&exchange.kind.as_str().into()));
    }
    for name in ["dead", "dead.invalid"] {
        let channel = &document["channels"][name.replace(".invalid", "Invalid")];
        assert_eq!(channel["address"], name);
        assert_eq!(topology.queues_of(name), [channel["bindings"]["amqp"]["queue"]["name"].as_str().unwrap()]);
    }
    for name in [PAYMENT_QUEUE, RELEASE_QUEUE, RESTOCK_QUEUE] {
        assert_eq!(document["channels"][name]["address"], name);
        let bound = topology.bindings.iter().filter(|binding| binding.source == name || binding.destination == name);
        assert_eq!(bound.map(|it| [&it.source, &it.destination]).collect::<Vec<_>>(), [[name, name]]);
    }
    assert_eq!(document["channels"]["events"]["address"], "{kind}.{item}");
    assert_eq!(document["defaultContentType"], CONTENT_TYPE);

    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["id"]["pattern"], format!("^[A-Za-z0-9._:-]{{1,{ID_BYTES_MAX}}}$"));
    assert_eq!(schemas["opaqueId"]["pattern"], format!("^[!#-\\[\\]-~]{{1,{ID_BYTES_MAX}}}$"));
    for (schema, field, minimum, maximum) in [
        ("purchaseRequest", "quantity", 1, i64::from(QUANTITY_MAX)),
        ("order", "quantity", 1, i64::from(QUANTITY_MAX)),
        ("restockCreate", "stock", 0, STOCK_MAX),
        ("restockCreate", "hold_ms", 1, TIME_MS_MAX),
        ("restockAdd", "quantity", 1, STOCK_MAX),
        ("restockRemove", "quantity", 1, STOCK_MAX),
        ("rules", "max_per_buyer", 1, STOCK_MAX),
        ("rules", "cooldown_ms", 1, TIME_MS_MAX),
    ] {
        let bounds = &schemas[schema]["properties"][field];
        assert_eq!((&bounds["minimum"], &bounds["maximum"]), (&minimum.into(), &maximum.into()), "{schema} {field}");
    }
    assert_eq!(schemas["restockCreate"]["properties"]["hold_ms"]["default"], HOLD_MS_DEFAULT);
    assert_eq!(schemas["paymentDeclined"]["properties"]["reason"]["maxLength"], REASON_CHARS_MAX);
    let rules = &schemas["rules"]["properties"];
    assert_eq!((&rules["tiers"]["minItems"], &rules["tiers"]["maxItems"]), (&1.into(), &TIERS_MAX.into()));
    assert_eq!(names(rules), RULE_NAMES.into());
    for request in ["purchaseRequest", "releaseRequest"].into_iter().chain(PAYMENT).chain(RESTOCK) {
        let description = schemas[request]["description"].as_str().unwrap();
        assert!(description.contains(&format!("{} KiB", BODY_BYTES_MAX / 1024)), "{description}");
    }
}

#[test]
fn arrays_have_the_codes_own_limits() {
    let (document, readme) = (document(), readme());
    let [array, one] = [ARRAY_BYTES_MAX, BODY_BYTES_MAX].map(|bytes| bytes / 1024);
    let most = format!("{},{:03}", REQUESTS_MAX / 1_000, REQUESTS_MAX % 1_000);
    let limits = format!("| limits | 1 to {most} requests, {array} KiB in all, {one} KiB each;");
    assert!(readme.contains(&limits), "{limits}");
    for (message, arrays) in [("purchaseRequest", "purchaseRequests"), ("verdict", "verdicts")] {
        let kinds = document["components"]["messages"][message]["payload"]["oneOf"].as_array().unwrap();
        let kinds: Vec<_> = kinds.iter().map(|kind| kind["$ref"].as_str().unwrap()).collect();
        assert_eq!(kinds, [message, arrays].map(|schema| format!("#/components/schemas/{schema}")));
        let schema = &document["components"]["schemas"][arrays];
        assert_eq!((&schema["minItems"], &schema["maxItems"]), (&1.into(), &REQUESTS_MAX.into()), "{arrays}");
    }
    let description = document["components"]["schemas"]["purchaseRequests"]["description"].as_str().unwrap();
    assert!(description.starts_with(&format!("At most {array} KiB, each request at most {one} KiB.")), "{description}");
}

#[test]
fn every_code_stands_under_its_status_for_programs_and_for_people() {
    let mut known = Code::ALL.map(|(_, status, word)| (status.as_str().to_owned(), word.to_owned()));
    known.sort();
    let document = document();
    let of_status = |(status, schema): &(Status, Value)| {
        let words = codes(&document, schema).into_iter().map(|word| word.as_str().unwrap().to_owned());
        words.map(|word| (status.as_str().to_owned(), word)).collect::<Vec<_>>()
    };
    let mut listed: Vec<_> = statuses(&document).iter().flat_map(of_status).collect();
    listed.sort();
    assert_eq!(listed, known);

    let readme = readme();
    let table = readme.split("| status | code | meaning |").nth(1).unwrap().split("\n\n").next().unwrap();
    let (mut status, mut listed) = (String::new(), Vec::new());
    for row in table.lines().filter(|row| row.contains('`')) {
        let words = |cell| row.split('|').nth(cell).unwrap().split('`').skip(1).step_by(2).map(ToOwned::to_owned);
        status = words(1).next().unwrap_or(status);
        listed.extend(words(2).map(|code| (status.clone(), code)));
    }
    listed.sort();
    assert_eq!(listed, known);
}

#[test]
fn the_examples_are_what_the_code_reads_and_writes() {
    let document = document();
    assert_reads(&document, "purchaseRequest", PurchaseRequest::decode);
    for request in PAYMENT {
        assert_reads(&document, request, PaymentMessage::decode);
    }
    assert_reads(&document, "releaseRequest", ReleaseRequest::decode);
    for request in RESTOCK {
        assert_reads(&document, request, RestockRequest::decode);
    }
    let mut shown = Vec::new();
    for example in examples(&document, "verdict") {
        assert_describes(&example["payload"]);
        for payload in all(&example["payload"]) {
            let verdict: Verdict = serde_json::from_value(payload.clone()).unwrap();
            assert_eq!(serde_json::to_value(&verdict).unwrap(), *payload);
            shown.push(verdict.status);
        }
    }
    assert!(Code::ALL.iter().all(|(_, status, _)| shown.contains(status)), "each status has its example: {shown:?}");
}

#[test]
fn events_are_described_as_they_are_told() {
    let document = document();
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
            let order = payload.get("order").map(|order| ("eventOrder", order));
            for (schema, object) in [(name, payload), ("eventHeaders", headers)].into_iter().chain(order) {
                // All fields of a schema that has no others are there.
                let required = strings(&schemas[schema]["required"]).collect();
                assert_eq!(
                    (names(&schemas[schema]["properties"]), names(object)),
                    (BTreeSet::clone(&required), required)
                );
            }
        }
    }
    assert_eq!(listed, EventKind::ALL.map(|(_, word)| word));
}

/// The examples of a request are read, and written again as they stand; one of them has every field that is described.
fn assert_reads<Request: Serialize>(
    document: &Value,
    name: &str,
    decode: impl Fn(&[u8], Option<&str>) -> Result<Request, Rejection>,
) {
    let requests = examples(document, name);
    let mut most = BTreeSet::new();
    for (example, payload) in
        requests.iter().flat_map(|example| all(&example["payload"]).iter().map(move |it| (example, it)))
    {
        let message_id = example["headers"]["message_id"].as_str();
        let request = decode(payload.to_string().as_bytes(), message_id).unwrap();
        let mut written = serde_json::to_value(&request).unwrap();
        if payload.get("request_id").is_none() {
            assert_eq!(written.as_object_mut().unwrap().remove("request_id"), message_id.map(Value::from));
        }
        assert_eq!(written, *payload);
        most = std::cmp::max_by_key(most, names(payload), BTreeSet::len);
    }
    assert_eq!(names(&document["components"]["schemas"][name]["properties"]), most);
}

#[tokio::test]
async fn what_lands_in_dead_has_the_headers_that_are_described() {
    let document = document();
    let mut shop = Shop::open(&[]).await;
    let _worker = shop.worker("w", &[]).await;

    let [example] = &examples(&document, "rejectedMessage")[..] else { panic!("one example") };
    let (item, body) = (example["payload"]["item"].as_str().unwrap(), example["payload"].to_string());
    // Alone, and as one request of an array.
    for (sent, message_id) in [(body.clone(), Some("m-1")), (format!("[{body}]"), None)] {
        let properties = shop.properties("c-1").with_message_id("m-1".into()).with_expiration("60000".into());
        shop.send(item, sent.as_bytes(), properties.with_priority(3)).await;
        let reply = shop.reply().await.verdict;
        assert_describes(&reply);
        let kept = dead_message(&shop, "dead.invalid").await;
        assert_eq!(kept.data, body.as_bytes());
        assert_eq!(kept.properties.message_id().as_ref().map(|id| id.as_str()), message_id);
        assert_is_kept_as_described(&document, example, &kept.properties, &all(&reply)[0]);
    }
}

#[tokio::test]
async fn the_example_of_an_array_is_answered_by_the_array_that_is_shown() {
    let array_of =
        |message: &str| examples(&document(), message).into_iter().find(|it| it["payload"].is_array()).unwrap();
    let (request, expected) = (array_of("purchaseRequest"), array_of("verdict"));
    let mut shop = Shop::open(&[("concert-42", 4)]).await;
    let _worker = shop.worker("w", &[]).await;
    let correlation_id = request["headers"]["correlation_id"].as_str().unwrap();
    assert_eq!(expected["headers"]["correlation_id"], correlation_id);
    shop.send("concert-42", request["payload"].to_string().as_bytes(), shop.properties(correlation_id)).await;
    let reply = shop.reply_to(correlation_id).await.verdict;
    assert_describes(&reply);
    let codes = |verdicts: &Value| {
        let code = |verdict: &Value| (verdict["request_id"].clone(), verdict["code"].clone());
        verdicts.as_array().unwrap().iter().map(code).collect::<Vec<_>>()
    };
    assert_eq!(codes(&reply), codes(&expected["payload"]));
}

fn assert_is_kept_as_described(document: &Value, example: &Value, kept: &BasicProperties, reply: &Value) {
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
    assert_eq!(kept.correlation_id().as_ref().map(|id| id.as_str()), Some("c-1"));
    assert_eq!((kept.expiration(), kept.priority()), (&None, &None), "left out");
}

/// Holds a reply, as it is on the wire, against the schema of its status; one to an array, each of its verdicts.
pub(crate) fn assert_describes(reply: &Value) {
    let document = document();
    for verdict in all(reply) {
        let of_status = |(status, _): &(Status, Value)| verdict["status"] == status.as_str();
        let (_, schema) = statuses(&document).into_iter().find(of_status).expect("the status is described");
        assert!(codes(&document, &schema).contains(&verdict["code"]), "{verdict}");
        let (found, described) = (names(verdict), names(&schema["properties"]));
        assert!(strings(&schema["required"]).all(|field| found.contains(field)), "required: {verdict}");
        assert!(found.is_subset(&described), "a field is not described: {verdict}");
    }
}

/// What is in a message: in an array, or the one that it is.
fn all(payload: &Value) -> &[Value] {
    payload.as_array().map_or(std::slice::from_ref(payload), Vec::as_slice)
}

/// The alternatives of the schema `verdict`, with the status that each is for.
fn statuses(document: &Value) -> Vec<(Status, Value)> {
    let of_reference = |reference: &Value| {
        let schema = document.pointer(&reference["$ref"].as_str().unwrap()[1..]).unwrap().clone();
        (serde_json::from_value(schema["properties"]["status"]["const"].clone()).unwrap(), schema)
    };
    document["components"]["schemas"]["verdict"]["oneOf"].as_array().unwrap().iter().map(of_reference).collect()
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

fn names(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

async fn dead_message(shop: &Shop, queue: &str) -> BasicGetMessage {
    until("a message is there", async || shop.depth(queue).await == 1).await;
    shop.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap().unwrap()
}

fn text(headers: &FieldTable, name: &str) -> Option<String> {
    match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => Some(text.to_string()),
        Some(_) | None => None,
    }
}

fn readme() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../rabbitmq/README.md")).unwrap()
}

fn document() -> Value {
    yaml(include_str!("../../../rabbitmq/asyncapi.yaml"))
}
