//! Who may know whom (CONTRIBUTING.md, "Where things go"), checked.

use serde_json::Value;
use std::{fs, path::Path};

pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Pure files and folders, and what of ours they may know.
const PURE: [(&str, &[&str]); 10] = [
    // Within the folder they know each other.
    ("shared/src/messages", &["super::request", "super::verdict", "super::time", "super::*"]),
    ("shared/src/order.rs", &[]),
    ("shared/src/retry.rs", &[]),
    ("functions/purchase/src/decide.rs", &["shared::", "crate::rules"]),
    ("functions/purchase/src/rules.rs", &["shared::messages"]),
    ("functions/relay/src/decide.rs", &["shared::messages"]),
    (
        "functions/payment/src/decide",
        &["shared::messages", "shared::order", "shared::handler::Answer", "crate::gateway::Outcome", "super::"],
    ),
    ("functions/release/src/decide.rs", &["shared::messages", "shared::order", "shared::handler::Answer"]),
    ("functions/restock/src/item.rs", &["shared::messages"]),
    ("functions/restock/src/decide.rs", &["crate::item", "shared::messages", "shared::handler::Answer"]),
];
const IO: [&str; 9] =
    ["sqlx", "lapin", "tokio", "tracing", "std::fs", "std::net", "std::env", "Instant::now", "now_utc"];

#[test]
fn decisions_are_pure() {
    for (folder, may_know) in PURE {
        for path in sources(&Path::new(ROOT).join(folder)) {
            let code = code(&path);
            // A row's names may be read into fields: that asks nobody.
            let asks = code.replace("sqlx::FromRow", "").replace("#[sqlx(", "");
            for word in IO {
                assert!(!asks.contains(word), "{path} does I/O or asks a clock: {word}");
            }
            for (start, _) in ["crate::", "shared::", "super::"].iter().flat_map(|ours| code.match_indices(ours)) {
                let known = &code[start..];
                assert!(may_know.iter().any(|path| known.starts_with(path)), "{path} knows {known:.40}");
            }
        }
    }
}

#[test]
fn the_broker_never_sees_the_database_and_the_database_never_sees_the_broker() {
    let mut checked = 0;
    for (folder, stranger) in [
        ("shared/src/amqp", "sqlx"),
        ("shared/src/worker", "sqlx"),
        ("shared/src/db.rs", "lapin"),
        ("shared/src/outbox.rs", "lapin"),
        ("shared/src/idempotency", "lapin"),
        ("functions", "lapin"),
        ("functions/relay/src/publish.rs", "sqlx"),
    ] {
        for path in sources(&Path::new(ROOT).join(folder)) {
            assert!(!code(&path).contains(stranger), "{path} knows {stranger}");
            checked += 1;
        }
    }
    assert!(checked >= 12, "the folders are where they were");
}

#[test]
fn sql_stays_in_the_store_where_a_function_has_one() {
    for (function, others) in [("purchase", &["retention.rs", "strategy/redis"][..]), ("relay", &[])] {
        let folder = Path::new(ROOT).join("functions").join(function).join("src");
        for path in sources(&folder) {
            let may = ["/store.rs"].iter().chain(others).any(|name| path.contains(name));
            assert!(may || !code(&path).contains("sqlx::query"), "{path} has statements of its own");
        }
    }
}

#[test]
fn only_the_broker_module_speaks_amqp() {
    for path in sources(&Path::new(ROOT).join("shared/src")) {
        let may = path.contains("/amqp/") || path.contains("/devstack/");
        assert!(may || !code(&path).contains("lapin::"), "{path} speaks AMQP");
    }
}

#[test]
fn only_the_strategy_of_that_name_speaks_to_redis() {
    let mut speakers = 0;
    for path in ["shared/src", "functions", "loadtest/src"].iter().flat_map(|path| sources(&Path::new(ROOT).join(path)))
    {
        let speaks =
            ["use redis::", "redis::Client", "redis::cmd", "redis::pipe"].iter().any(|w| code(&path).contains(w));
        // The functions' tests do to it what happens to one.
        let may = ["/strategy/redis/", "/strategy/redis.rs", "/devstack/redis.rs", "/tests/"]
            .iter()
            .any(|part| path.contains(part));
        assert!(may || !speaks, "{path} speaks to Redis");
        speakers += usize::from(speaks);
    }
    assert!(speakers >= 3, "those who speak to it are where they were");
}

#[test]
fn functions_depend_on_shared_alone() {
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(ROOT)
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: Vec<&str> = packages.iter().map(|package| package["name"].as_str().unwrap()).collect();
    let mut functions = 0;
    for package in packages.iter().filter(|package| package["manifest_path"].as_str().unwrap().contains("/functions/"))
    {
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = dependency["name"].as_str().unwrap();
            assert!(name == "shared" || !ours.contains(&name), "{} depends on {name}", package["name"]);
            assert_ne!(name, "lapin", "{}", package["name"]);
        }
        functions += 1;
    }
    assert!(functions >= 2);
}

#[test]
fn the_top_level_is_what_it_should_be() {
    let listed = std::process::Command::new("git").args(["ls-files"]).current_dir(ROOT).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut top: Vec<&str> = listed.lines().filter_map(|path| path.split('/').next()).collect();
    top.dedup();
    for name in top {
        let fixed = ["Cargo.toml", "functions", "shared", "migrations", "rabbitmq", "loadtest", "README.md"];
        let may_join = ["Cargo.lock", "deny.toml", "CONTRIBUTING.md", "CHANGELOG.md"];
        let joins = may_join.contains(&name) || name.starts_with('.') || name.starts_with("LICENSE");
        assert!(fixed.contains(&name) || joins, "{name} does not belong at the top level");
    }
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
