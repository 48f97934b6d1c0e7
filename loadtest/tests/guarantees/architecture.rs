//! Who may know whom (CONTRIBUTING.md, "Where things go"), checked.

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What any decision may know.
const DECISION: &[&str] =
    &["shared::messages", "shared::order", "shared::handler::Answer", "shared::idempotency::Verdicts"];
/// Pure files and folders, and what else of ours they may know.
const PURE: [(&str, &[&str], &[&str]); 13] = [
    // Within the folder they know each other.
    ("shared/src/messages", &[], &["super::"]),
    ("shared/src/order.rs", &[], &[]),
    ("shared/src/retry.rs", &[], &[]),
    ("shared/src/worker/rebalance.rs", &[], &[]),
    ("functions/purchase/src/decide.rs", DECISION, &["crate::rules"]),
    ("functions/purchase/src/rules.rs", &["shared::messages"], &[]),
    ("functions/relay/src/decide.rs", &["shared::messages"], &[]),
    ("functions/payment/src/decide.rs", DECISION, &["crate::gateway::"]),
    ("functions/release/src/decide.rs", DECISION, &[]),
    ("functions/web/src/collector.rs", &["shared::messages"], &[]),
    ("functions/web/src/place.rs", &[], &[]),
    ("functions/restock/src/item.rs", &["shared::messages"], &[]),
    ("functions/restock/src/decide.rs", DECISION, &["crate::item"]),
];
const IO: [&str; 9] =
    ["sqlx", "lapin", "tokio", "tracing", "std::fs", "std::net", "std::env", "Instant::now", "now_utc"];

const REDIS: &[&str] = &["use redis::", "redis::Client", "redis::cmd", "redis::pipe"];
/// In these folders and files nobody uses these words, but whose path has one of these parts, who does.
const STRANGERS: [(&[&str], &[&str], &[&str]); 5] = [
    // The broker never sees the database, and the database never sees the broker.
    (&["shared/src/amqp", "shared/src/worker", "functions/relay/src/publish.rs"], &["sqlx"], &[]),
    (&["shared/src", "functions"], &["lapin::"], &["/amqp/"]),
    // SQL stays in the store where a function has one.
    (&["functions/purchase/src"], &["sqlx::query"], &["/store.rs", "retention.rs", "strategy/redis"]),
    (&["functions/relay/src"], &["sqlx::query"], &["/store.rs"]),
    // Only the strategy of that name speaks to Redis, and a server that it is measured against.
    (
        &["shared/src", "loadtest/src", "functions"],
        REDIS,
        &["/devstack/redis.rs", "/strategy/redis", "/baseline/lua.rs"],
    ),
];

#[test]
fn decisions_are_pure() {
    for (folder, may_know, and) in PURE {
        for path in sources(&Path::new(ROOT).join(folder)) {
            let code = code(&path);
            // A row's names may be read into fields: that asks nobody.
            let asks = code.replace("sqlx_macros::FromRow", "").replace("#[sqlx(", "");
            for word in IO {
                assert!(!asks.contains(word), "{path} does I/O or asks a clock: {word}");
            }
            for (start, _) in ["crate::", "shared::", "super::"].iter().flat_map(|ours| code.match_indices(ours)) {
                let known = &code[start..];
                assert!(may_know.iter().chain(and).any(|path| known.starts_with(path)), "{path} knows {known:.40}");
            }
        }
    }
}

#[test]
fn whoever_has_no_business_with_a_server_does_not_know_it() {
    for (folders, words, but) in STRANGERS {
        let mut known_by = Vec::new();
        for path in folders.iter().flat_map(|folder| sources(&Path::new(ROOT).join(folder))) {
            let code = code(&path);
            let Some(word) = words.iter().find(|word| code.contains(**word)) else { continue };
            let part = but.iter().find(|part| path.contains(**part));
            known_by.push(*part.unwrap_or_else(|| panic!("{path} knows {word}")));
        }
        assert!(but.iter().all(|part| known_by.contains(part)), "{but:?} are where they were: {known_by:?}");
    }
}

#[test]
fn functions_depend_on_shared_alone() {
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let metadata = Command::new(env!("CARGO")).args(arguments).current_dir(ROOT).output().unwrap();
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let strangers: Vec<&Value> =
        packages.iter().map(|package| &package["name"]).filter(|name| *name != "shared").collect();
    let folder = format!("{}/functions/", metadata["workspace_root"].as_str().unwrap());
    let is_function = |package: &&Value| package["manifest_path"].as_str().unwrap().starts_with(&folder);
    let functions: Vec<&Value> = packages.iter().filter(is_function).collect();
    assert!(functions.len() >= 2);
    for package in functions {
        for name in package["dependencies"].as_array().unwrap().iter().map(|dependency| &dependency["name"]) {
            assert!(!strangers.contains(&name) && name != "lapin", "{} depends on {name}", package["name"]);
        }
    }
}

#[test]
fn the_top_level_is_what_it_should_be() {
    let fixed = ["Cargo.toml", "functions", "shared", "migrations", "rabbitmq", "loadtest", "README.md"];
    let may_join = ["Cargo.lock", "deny.toml", "CONTRIBUTING.md", "CHANGELOG.md"];
    for path in tracked("") {
        let name = path.split('/').next().unwrap();
        let joins = may_join.contains(&name) || name.starts_with('.') || name.starts_with("LICENSE");
        assert!(fixed.contains(&name) || joins, "{name} does not belong at the top level");
    }
}

/// What git has, whose path ends like this.
pub(crate) fn tracked(end: &str) -> Vec<String> {
    let listed = Command::new("git").args(["ls-files"]).current_dir(ROOT).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    listed.lines().filter(|path| path.ends_with(end)).map(ToOwned::to_owned).collect()
}

/// A file without its comments and its tests, which may use what they like.
pub(crate) fn code(path: impl AsRef<Path>) -> String {
    let text = fs::read_to_string(Path::new(ROOT).join(path)).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

pub(crate) fn sources(path: &Path) -> Vec<String> {
    if path.is_file() {
        return vec![path.display().to_string()];
    }
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let wanted = entries.filter(|path| path.is_dir() || path.extension().is_some_and(|end| end == "rs"));
    wanted.filter(|path| path.file_stem().is_none_or(|name| name != "tests")).flat_map(|path| sources(&path)).collect()
}
