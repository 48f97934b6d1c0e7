//! openapi.yaml says what a door answers: each answer that a test gets is held against it.

use super::client::Response;
use crate::support::yaml;
use serde_json::{Value, json};
use shared::messages::{ID_BYTES_MAX, QUANTITY_MAX};
use std::sync::LazyLock;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| yaml(include_str!("../../../../functions/web/openapi.yaml")));

/// Panics where the document does not have this answer: its status, its type, or its fields. Of paths that it does not have (pages,
/// the board), nothing is asked.
pub(super) fn check(method: &str, path: &str, response: &Response) {
    let Some(operation) = operation(method, path) else { return };
    let responses = &operation["responses"];
    let status = response.status.to_string();
    let described = resolved(responses.get(&status).or(responses.get("default")).unwrap_or(&Value::Null));
    assert!(described.is_object(), "{method} {path} has no {status}: {response:?}");
    let content_type = response.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default();
    if described["content"].is_null() {
        assert_eq!((content_type, response.body.as_str()), ("", ""), "{method} {path}: {status} has no content");
        return;
    }
    let schema = &described["content"][content_type]["schema"];
    assert!(schema.is_object(), "{method} {path}: {status} is not described as {content_type}: {response:?}");
    if content_type.ends_with("json") {
        check_value(schema, &response.json(), &format!("{method} {path}: {status}"));
    }
}

fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let path = path.split('?').next().unwrap_or_default();
    let is_it = |template: &str| {
        let (template, path) = (template.split('/'), path.split('/'));
        template.clone().count() == path.clone().count()
            && template.zip(path).all(|(template, part)| template == part || template.starts_with('{'))
    };
    let operations = DOCUMENT["paths"].as_object().unwrap().iter().find(|(template, _)| is_it(template))?.1;
    operations.get(method.to_ascii_lowercase())
}

/// No field is missing, none has another name, and what is one of a few words is one of them.
fn check_value(schema: &'static Value, value: &Value, place: &str) {
    let schema = resolved(schema);
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{place}: {value}");
    }
    if let Value::Array(values) = value {
        values.iter().for_each(|value| check_value(&schema["items"], value, place));
    }
    let (Value::Object(fields), Some(known)) = (value, schema["properties"].as_object()) else { return };
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(fields.contains_key(name.as_str().unwrap()), "{place} lacks {name}: {value}");
    }
    for (name, value) in fields {
        let schema = known.get(name).unwrap_or_else(|| panic!("{place}: {name} is not described"));
        check_value(schema, value, &format!("{place}, {name}"));
    }
}

fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(place) => DOCUMENT.pointer(place.trim_start_matches('#')).unwrap_or_else(|| panic!("{place}")),
        None => value,
    }
}

#[test]
fn limits_are_the_codes_own() {
    let at = |place: &str| DOCUMENT.pointer(place).unwrap_or_else(|| panic!("{place}"));
    let quantity =
        "/paths/~1items~1{item}~1purchases/post/requestBody/content/application~1json/schema/properties/quantity";
    for (place, limit) in [
        ("/components/schemas/RequestId/pattern", json!(format!("^[!#-\\[\\]-~]{{1,{ID_BYTES_MAX}}}$"))),
        ("/components/parameters/Item/schema/pattern", json!(format!("^[A-Za-z0-9._:-]{{1,{ID_BYTES_MAX}}}$"))),
        (&format!("{quantity}/minimum"), json!(1)),
        (&format!("{quantity}/maximum"), json!(QUANTITY_MAX)),
    ] {
        assert_eq!(at(place), &limit, "{place}");
    }
}

#[test]
fn an_answer_that_is_not_described_is_found() {
    let verdict = r#"{"status":"reserved","code":"reserved","message":"1 unit."}"#;
    let problem =
        |code: &str| format!(r#"{{"type":"about:blank","title":"","status":404,"code":"{code}","detail":"."}}"#);
    for (path, status, content_type, body, is_described) in [
        ("/purchases/r-1", 200, "application/json", verdict.to_owned(), true),
        ("/purchases/r-1?item=ticket", 200, "application/json", verdict.to_owned(), true),
        ("/purchases/r-1", 200, "text/plain", verdict.to_owned(), false),
        ("/livez", 404, "application/json", verdict.to_owned(), false),
        ("/purchases/r-1", 200, "application/json", verdict.replace("message", "text"), false),
        ("/purchases/r-1", 200, "application/json", verdict.replace("\"reserved\",\"code", "\"sold\",\"code"), false),
        ("/purchases/r-1", 404, "application/problem+json", problem("unknown_purchase"), true),
        ("/purchases/r-1", 404, "application/problem+json", problem("lost"), false),
        ("/pages/of/people", 200, "text/html", String::new(), true),
    ] {
        let response = Response::new(status, &format!("content-type: {content_type}"), &body);
        let checked = std::panic::catch_unwind(|| check("GET", path, &response));
        assert_eq!(checked.is_ok(), is_described, "{path} {response:?}");
    }
}
