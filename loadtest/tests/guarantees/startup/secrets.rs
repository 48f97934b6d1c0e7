//! What is secret is shown in no error.

use super::{WENT_ON, outputs};
use futures_util::{StreamExt, stream};
use shared::devstack::{Fixture, Folder, fixture};

/// URLs tried at once: most of the time, doors alone are listened to.
const AT_ONCE_MAX: usize = 4;

/// A URL with a password, and ways to write it wrongly.
const WRITTEN: [&str; 23] = [
    "SCHEME://guest:geheim@127.0.0.1:1/x",
    "guest:geheim@127.0.0.1:1/x",
    "SCHEME:guest:geheim@127.0.0.1:1/x",
    "SCHEME:/guest:geheim@127.0.0.1:1/x",
    "other://guest:geheim@127.0.0.1:1/x",
    "SCHEME://guest:1/geheim@127.0.0.1:1/x",
    "SCHEME://guest:1?geheim@127.0.0.1:1/x",
    "SCHEME://guest:1#geheim@127.0.0.1:1/x",
    "SCHEME://guest:1\\geheim@127.0.0.1:1/x",
    "SCHEME://guest:1@geheim@127.0.0.1:1/x",
    "SCHEME://guest:1[geheim@127.0.0.1:1/x",
    "SCHEME://guest:1,geheim@127.0.0.1:1/x",
    "SCHEME://guest:%ffgeheim@127.0.0.1:1/x",
    "SCHEME://guest:geheim@127.0.0.1:none/x",
    "SCHEME://guest:geheim",
    "SCHEME://127.0.0.1:1/x?passwort=geheim",
    "SCHEME://guest:1@127.0.0.1:1/x,guest:geheim@127.0.0.1:1/x",
    "host=127.0.0.1 password=geheim",
    "jdbc:SCHEME://127.0.0.1:1/x?user=guest&password=geheim",
    "\"SCHEME://guest:geheim@127.0.0.1:1/x\"",
    "SCHEME://guest:1%geheim@127.0.0.1:1/x",
    "SCHEME://guest:geheim@127.0.0.1:1,127.0.0.1:2/x",
    "SCHEME://guest:geheim@127.0.0.1:1",
];

#[tokio::test]
async fn no_error_about_a_url_has_a_part_of_the_password_in_it() {
    let fixture = Fixture::new().await;
    let redis = fixture::redis().await.url();
    let all = ["purchase", "payment", "release", "restock", "relay"];
    let simulated = ["atomic", "simulated"];
    for (variable, scheme, [strategy, gateway], programs) in [
        (
            "AMQP_URL",
            "amqp",
            simulated,
            [
                &all[..],
                &["web", "admin --json queues", "admin dead list", "loadtest run", "loadtest compare"],
                &["loadtest up", "loadtest cost", "loadtest ceiling"],
            ]
            .concat(),
        ),
        ("BOARD_AMQP_URL", "amqp", simulated, vec!["web"]),
        (
            "DATABASE_URL",
            "postgres",
            simulated,
            [
                &all[..],
                &["web", "admin --json audit", "admin items", "loadtest contend", "loadtest up", "loadtest cost"],
            ]
            .concat(),
        ),
        ("REDIS_URL", "redis", ["redis", "simulated"], vec!["purchase", "loadtest run --buyers 1 --strategy redis"]),
        ("GATEWAY_URL", "http", ["atomic", "http"], vec!["payment"]),
    ] {
        let shows_no_password = async |written: &str| {
            let url = written.replace("SCHEME", scheme);
            let (board, operator) = (("BOARD", "true"), ("BOARD_AMQP_URL", fixture.amqp_url.as_str()));
            let of_function = [("GATEWAY", gateway), ("STRATEGY", strategy), ("REDIS_URL", &redis)];
            let of_door = [board, operator, ("LISTEN", "127.0.0.1:0"), ("BOARD_ADDRESS", "127.0.0.1:0")];
            let environment = [&of_function[..], &of_door, &[(variable, &url)]].concat();
            for (line, output) in outputs(&fixture, &programs, &environment).await {
                let shown = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
                let has_ended = output.status.code() != Some(WENT_ON);
                assert!(!output.status.success(), "{line}, {url}: {shown}");
                assert!(shown.contains(variable) || !has_ended, "{line}, {url}: {shown}");
                assert!(!shown.contains("geheim"), "{line}, {url}: {shown}");
            }
        };
        stream::iter(WRITTEN).for_each_concurrent(AT_ONCE_MAX, shows_no_password).await;
    }
}

#[tokio::test]
async fn what_is_secret_may_stand_in_a_file_that_is_named_in_its_place() {
    let (fixture, folder) = (Fixture::new().await, Folder::create().unwrap());
    let path = folder.path().join("secret");
    let all = ["purchase", "payment", "release", "restock", "relay", "loadtest run --buyers 1"];
    let simulated = ["atomic", "simulated"];
    for (variable, text, [strategy, gateway], programs, hint) in [
        (
            "AMQP_URL",
            "amqp://guest:geheim@127.0.0.1:1/x\n",
            simulated,
            [&all[..], &["admin queues"]].concat(),
            "127.0.0.1:1: ",
        ),
        (
            "DATABASE_URL",
            "postgres://guest:geheim@h/a%\r\n",
            simulated,
            [&all[..], &["admin items"]].concat(),
            "written %25",
        ),
        (
            "REDIS_URL",
            "redis://:geheim@127.0.0.1:1\n",
            ["redis", "simulated"],
            vec!["purchase"],
            "does REDIS_URL name it?",
        ),
        ("GATEWAY_TOKEN", "geheim\u{7}b\n", ["atomic", "http"], vec!["payment"], "GATEWAY_TOKEN has characters"),
        ("AMQP_URL", "\n", simulated, vec!["purchase", "admin items"], "AMQP_URL_FILE names a file that is empty"),
    ] {
        std::fs::write(&path, text).unwrap();
        let (named, url) = (format!("{variable}_FILE"), ("GATEWAY_URL", "http://127.0.0.1:1"));
        let named = (&*named, path.to_str().unwrap());
        let environment = [("GATEWAY", gateway), url, ("STRATEGY", strategy), (variable, ""), named];
        for (line, output) in outputs(&fixture, &programs, &environment).await {
            let shown = String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned();
            assert!(!output.status.success() && shown.contains(hint), "{line}: {shown}");
            assert!(!shown.contains("geheim"), "{line}: {shown}");
        }
    }
    folder.remove().await.unwrap();
}
