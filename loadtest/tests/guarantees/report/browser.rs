//! A real browser, which looks at a report and says what it saw.
//!
//! It has an empty profile under a private folder and reaches no host but this one.

use crate::support::not_shown;
use serde::Deserialize;
use serde_json::Value;
use shared::devstack::{Folder, install};
use std::{collections::BTreeMap, fs, path::Path, process::Stdio, time::Duration};
use tokio::process::Command;

/// No look takes this long, also on a machine that is busy.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(120);
/// Chromium asks its maker for this and that by itself. The network log says so of a request, and of none of the page's.
const ASKED_BY_ITSELF: &str = "not an origin";
/// What a page begins with.
const FIRST: &str = "<meta charset=\"utf-8\">";
const INSPECT: &str = include_str!("inspect.js");
const OPTIONS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
    "--virtual-time-budget=10000",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/// A page, as the browser saw it.
#[derive(Debug, Deserialize)]
pub(crate) struct Seen {
    /// How often something ran that was to be text.
    pub(crate) ran: u32,
    pub(crate) text: String,
    /// How many pixels of each are painted.
    pub(crate) charts: BTreeMap<String, u64>,
    pub(crate) downloaded: Option<String>,
    /// The addresses that the page wanted of the network.
    #[serde(skip)]
    pub(crate) requests: Vec<String>,
    /// What the browser said of the page on its log.
    #[serde(skip)]
    pub(crate) console: Vec<String>,
}

/// Opens a copy of the page, with what inspects it. `None` where no browser can be had, which is said.
pub(crate) async fn look(page: &str) -> Option<Seen> {
    let program = install::chromium().await.map_err(|reason| not_shown("a report", &format!("{reason:#}"))).ok()?;
    let folder = Folder::create().unwrap();
    let [file, log, profile] = ["page.html", "network.json", "profile"].map(|name| folder.path().join(name));
    fs::write(&file, page.replacen(FIRST, &format!("{FIRST}<script>{INSPECT}</script>"), 1)).unwrap();
    let mut browser = Command::new(program);
    browser.args(OPTIONS).arg(format!("--user-data-dir={}", profile.display()));
    browser.arg(format!("--log-net-log={}", log.display())).arg("--dump-dom").stdin(Stdio::null()).kill_on_drop(true);
    let output = browser.arg(format!("file://{}", file.display())).output();
    let output = tokio::time::timeout(LOOK_WAIT_MAX, output).await.expect("the browser ends").unwrap();
    let (dom, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let left = dom.split_once("<pre id=\"inspection\">").and_then(|(_, rest)| rest.split_once("</pre>"));
    let (left, _) = left.unwrap_or_else(|| panic!("nothing was inspected: {said}"));
    let seen: Seen = serde_json::from_str(&percent_decoded(left)).unwrap();
    let requests = asked_by_the_page(&log);
    folder.remove().await.unwrap();
    let console = said.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
    Some(Seen { requests, console, ..seen })
}

fn asked_by_the_page(log: &Path) -> Vec<String> {
    let log: Value = serde_json::from_slice(&fs::read(log).unwrap()).unwrap();
    let start = &log["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"];
    assert!(start.is_number(), "the log's format is the one that we know");
    let events = log["events"].as_array().unwrap().iter().filter(|event| event["type"] == *start);
    let by_page = events.filter(|event| event["params"]["initiator"].as_str().is_some_and(|by| by != ASKED_BY_ITSELF));
    by_page.map(|event| event["params"]["url"].to_string()).collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next().unwrap()).to_digit(16).unwrap();
        bytes.push(if byte == b'%' { u8::try_from(digit() * 16 + digit()).unwrap() } else { byte });
    }
    String::from_utf8(bytes).unwrap()
}
