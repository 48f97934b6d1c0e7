//! What the tests share: a shop, sales by the load generator, a consumer of events, AMQP by hand, HTTP.

pub(crate) mod browser;
#[path = "../../src/fixtures.rs"]
pub(crate) mod fixtures;
pub(crate) mod listener;
pub(crate) mod queue;
mod reply;
pub(crate) mod sale;
pub(crate) mod shop;
pub(crate) mod tab;

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::Value;
use std::io::Write;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where nobody listens, a moment ago.
pub(crate) async fn free_address() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The whole response, from its status line on.
pub(crate) async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

/// Past the test harness, which would keep it to itself.
pub(crate) fn not_shown(what: &str, reason: &str) {
    let said = format!("Not shown: {what}, as what that needs cannot be had here: {}\n", reason.trim());
    drop(std::io::stderr().write_all(said.as_bytes()));
}

/// The one document of this text, as JSON has it.
pub(crate) fn yaml(text: &str) -> Value {
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
