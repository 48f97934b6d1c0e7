//! A real browser, which looks at a report and says what it saw.

use crate::support::browser::{Browser, command};
use serde::Deserialize;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No look takes this long, also on a machine that is busy.
const LOOK_WAIT_MAX: Duration = Duration::from_secs(120);
/// Chromium asks its maker for this and that by itself. The network log says so of a request, and of none of the page's.
const ASKED_BY_ITSELF: &str = "not an origin";
/// What a page begins with.
const FIRST: &str = "<meta charset=\"utf-8\">";
const INSPECT: &str = include_str!("inspect.js");
const COLLECT: &str = include_str!("collect.js");

/// What the browser is to be.
#[derive(Clone, Copy)]
pub(crate) enum Look {
    Light,
    Dark,
    /// As wide as a phone: no window of the browser's own is, but a frame in it.
    Phone,
}

/// A page, as the browser saw it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Seen {
    pub(crate) errors: Vec<String>,
    /// How often something ran that was to be text.
    pub(crate) ran: u32,
    pub(crate) places: Vec<String>,
    pub(crate) canvases: Vec<Canvas>,
    /// How wide each painted part of each lane is.
    pub(crate) bars: Vec<f64>,
    pub(crate) background: String,
    /// The least of any text.
    pub(crate) contrast: f64,
    pub(crate) headings: Vec<String>,
    pub(crate) text: String,
    /// Elements that no report has in its main part.
    pub(crate) elements: Vec<String>,
    pub(crate) width: u32,
    /// By how much the page is wider than the screen.
    pub(crate) overflow: i64,
    pub(crate) requests: Vec<String>,
    pub(crate) downloaded: Option<String>,
    pub(crate) printed: Vec<Canvas>,
    /// The background in print.
    pub(crate) paper: String,
    /// What the browser said of the page on its log.
    #[serde(skip)]
    pub(crate) console: Vec<String>,
}

#[derive(Debug, Deserialize, PartialEq)]
pub(crate) struct Canvas {
    pub(crate) chart: String,
    /// Pixels that are not transparent.
    pub(crate) painted: u64,
    pub(crate) colours: Vec<u32>,
    pub(crate) width: u32,
}

impl Browser {
    /// Opens a copy of the page, with what inspects it.
    pub(crate) async fn look(&self, name: &str, page: &str, look: Look) -> Seen {
        let folder = self.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        let (file, log) = (folder.join("page.html"), folder.join("network.json"));
        let inspected = format!("{FIRST}<script>{COLLECT}</script><script>{INSPECT}</script>");
        fs::write(&file, page.replacen(FIRST, &inspected, 1)).unwrap();
        let file = match look {
            Look::Light | Look::Dark => file,
            Look::Phone => in_frame(&folder),
        };
        let mut browser = command(&self.arguments(&folder));
        browser.args(["--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom"]).arg(match look {
            Look::Light | Look::Phone => "--blink-settings=preferredColorScheme=1",
            Look::Dark => "--blink-settings=preferredColorScheme=0",
        });
        browser.arg(format!("--log-net-log={}", log.display()));
        let output = browser.arg(format!("file://{}", file.display())).output();
        let output = tokio::time::timeout(LOOK_WAIT_MAX, output).await.expect("the browser ends").unwrap();
        let (dom, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let left = dom.split_once("<pre id=\"inspection\">").and_then(|(_, rest)| rest.split_once("</pre>"));
        let (left, _) = left.unwrap_or_else(|| panic!("nothing was inspected: {said}"));
        let mut seen: Seen = serde_json::from_str(&percent_decoded(left)).unwrap();
        seen.requests.extend(asked_by_the_page(&log));
        seen.console = said.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
        seen
    }
}

/// A page with nothing in it but the page as a phone has it.
fn in_frame(folder: &Path) -> PathBuf {
    let frame = folder.join("frame.html");
    let page =
        format!("<body><script>{COLLECT}</script><iframe src=\"page.html\" width=\"360\" height=\"780\"></iframe>");
    fs::write(&frame, page).unwrap();
    frame
}

/// The addresses that the page wanted of the network.
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
