//! Reports, as a real browser shows them. Where none can be had, that is said, and nothing is shown.

mod browser;

use crate::support::browser::Browser;
use crate::support::fixtures;
use crate::support::sale::{command, endpoints, json, said, unreachable};
use crate::support::shop::purchase_program;
use crate::support::tab::Look;
use browser::{Canvas, Seen};
use loadtest::audit::Invariant;
use loadtest::bench::compare::{Comparison, page_of};
use loadtest::faults::CrashReport;
use loadtest::report::of_run;
use loadtest::result::{Outcome, WorkerReport};
use serde::Serialize;
use serde_json::Value;
use shared::devstack::Folder;
use std::fs;

/// What normal text needs (WCAG AA).
const CONTRAST_MIN: f64 = 4.5;
/// A chart with a curve in it has more pixels than this; frame and labels alone have fewer colours, too.
const PAINTED_MIN: u64 = 3_000;
/// The charts of a run.
const CHARTS: [&str; 2] = ["over-time", "latency"];
/// An address on this machine where nobody listens.
const ELSEWHERE: &str = "http://127.0.0.1:9/picture.png";

/// What is wrong with a page, for people.
fn faults(seen: &Seen, charts: &[&str]) -> Vec<String> {
    let mut faults: Vec<String> = seen.errors.iter().map(|error| format!("error: {error}")).collect();
    faults.extend(seen.faults.iter().map(|fault| format!("browser: {fault}")));
    faults.extend(seen.requests.iter().map(|address| format!("request: {address}")));
    faults.extend(seen.elements.iter().map(|element| format!("element: {element}")));
    if seen.places != charts {
        faults.push(format!("the charts are {:?} and not {charts:?}", seen.places));
    }
    for (when, canvases) in [("on the screen", &seen.canvases), ("in print", &seen.printed)] {
        let drawn = |chart: &&&str| canvases.iter().any(|canvas| canvas.chart == **chart && is_drawn(canvas));
        faults.extend(charts.iter().filter(|chart| !drawn(chart)).map(|chart| format!("{chart} is blank {when}")));
    }
    if seen.bars.is_empty() || seen.bars.iter().any(|width| *width <= 0.0) {
        faults.push(format!("bars without a width: {:?}", seen.bars));
    }
    if seen.contrast < CONTRAST_MIN {
        faults.push(format!("a text is hard to read: contrast {:.2}", seen.contrast));
    }
    if seen.overflow > 0 {
        faults.push(format!("{} pixels are beyond the edge of the screen", seen.overflow));
    }
    faults
}

fn is_drawn(canvas: &Canvas) -> bool {
    canvas.painted >= PAINTED_MIN && canvas.colours.len() >= 4
}

fn assert_sound(seen: &Seen, charts: &[&str]) {
    assert_eq!(faults(seen, charts), [] as [String; 0]);
}

fn assert_holds(seen: &Seen, result: &impl Serialize) {
    let downloaded = seen.downloaded.as_deref().expect("the button gives a file");
    let parsed = |json: &str| serde_json::from_str::<Value>(json).unwrap();
    // Both by way of text, which floating-point numbers come back from as they do.
    assert_eq!(parsed(downloaded), parsed(&serde_json::to_string(result).unwrap()));
}

/// By light, by dark, and on a phone.
async fn everywhere(browser: &Browser, page: &str) -> [Seen; 3] {
    let looks = [("light", Look::Light), ("dark", Look::Dark), ("phone", Look::Phone)];
    let [light, dark, phone] = looks.map(|(name, look)| browser.look(name, page, look));
    tokio::join!(light, dark, phone).into()
}

/// Who is called this would like to be more than text.
const HOSTILE: [&str; 4] = [
    "</script><script>hostile()</script>",
    "<!--<script>hostile()//",
    "\"><img src=x onerror=\"hostile()\">",
    "' onmouseover='hostile()' {{script}} &lt;b&gt;",
];

/// A sale by workers of such names, of which one promise is broken.
fn hostile() -> Outcome {
    let mut outcome = fixtures::outcome();
    outcome.workers = HOSTILE.map(|id| WorkerReport { id: id.to_owned(), verdicts: 2_500, rss_mib: None }).into();
    for (event, id) in outcome.events.iter_mut().zip(HOSTILE) {
        event.worker = Some(id.to_owned());
    }
    outcome.crashes = HOSTILE.map(|id| CrashReport { worker: id.to_owned(), seconds: 0.1 }).into();
    outcome.passed = false;
    let detail = format!("1: concert by 3 {}", HOSTILE.join(" "));
    outcome.audit.invariants.push(Invariant { name: "stock_conserved", holds: false, detail });
    outcome
}

#[tokio::test]
async fn a_report_of_a_sale_is_drawn_by_light_and_by_dark_and_on_a_phone() {
    let outcome = fixtures::outcome();
    let page = of_run(&outcome).unwrap();
    let Some(browser) = Browser::find("a report").await else { return };
    let [light, dark, phone] = everywhere(&browser, &page).await;
    for seen in [&light, &dark, &phone] {
        assert_sound(seen, &CHARTS);
        assert_holds(seen, &outcome);
        assert_eq!(seen.paper, "rgb(255, 255, 255)", "paper is white");
    }
    assert_eq!(light.headings[0], "4,000 sold · 6,000 sold out · 0 failed — 1.25 s");
    assert!(light.text.contains("✓ Passed") && light.headings[1] == "Was every promise kept?", "{:?}", light.headings);
    assert_ne!(light.background, dark.background);
    for (by_day, by_night) in light.canvases.iter().zip(&dark.canvases) {
        assert_ne!(by_day.colours, by_night.colours, "{} is drawn in other colours", by_day.chart);
    }
    assert!(phone.width <= 360 && phone.canvases.iter().all(|canvas| canvas.width <= 360), "{:?}", phone.canvases);
    browser.close().await;
}

#[tokio::test]
async fn a_report_of_a_comparison_is_drawn_by_light_and_by_dark_and_on_a_phone() {
    let comparison = fixtures::comparison();
    let page = page_of(&comparison).unwrap();
    let Some(browser) = Browser::find("a report").await else { return };
    let [light, dark, phone] = everywhere(&browser, &page).await;
    for seen in [&light, &dark, &phone] {
        assert_sound(seen, &[]);
        assert_holds(seen, &comparison);
        assert!(seen.text.contains("ceiling 10,050") && seen.text.contains("0of 260,000"), "{}", seen.text);
    }
    assert_eq!(light.headings[0], "Fastest: optimistic, batched\u{a0}— 9,146 purchases per second");
    assert_ne!(light.background, dark.background);
    browser.close().await;
}

#[tokio::test]
async fn text_stays_text_whatever_it_would_like_to_be_and_a_broken_promise_stands_first() {
    let outcome = hostile();
    let Some(browser) = Browser::find("a report").await else { return };
    let seen = browser.look("hostile", &of_run(&outcome).unwrap(), Look::Light).await;
    assert_sound(&seen, &CHARTS);
    assert_holds(&seen, &outcome);
    assert_eq!(seen.ran, 0);
    let place = |text: &str| seen.text.find(text).unwrap_or_else(|| panic!("{text} is not in {}", seen.text));
    for text in HOSTILE.into_iter().chain(["✗ BROKEN 1 of 3 promises were not kept."]) {
        place(text);
    }
    assert!(place("1: concert by 3") < place("never oversold"));

    // A comparison in which nothing was left is a page, too.
    let broken = vec!["<b>: a promise".to_owned()];
    let left_alone = Comparison { rows: vec![], broken, passed: false, ..fixtures::comparison() };
    let seen = browser.look("empty", &page_of(&left_alone).unwrap(), Look::Light).await;
    assert_eq!(seen.errors, [] as [String; 0]);
    for text in ["✗ BROKEN Not kept: 1 promise.", "<b>: a promise"] {
        assert!(seen.text.contains(text), "{}", seen.text);
    }
    browser.close().await;
}

#[tokio::test]
async fn a_page_that_cannot_draw_or_asks_elsewhere_is_found_out() {
    let sound = of_run(&fixtures::outcome()).unwrap();
    let Some(browser) = Browser::find("a report").await else { return };
    let broken = sound.replacen("new uPlot(", "new uPlots(", 1);
    assert_ne!(broken, sound);
    let found = faults(&browser.look("broken", &broken, Look::Light).await, &CHARTS);
    assert!(found.iter().any(|fault| fault.contains("uPlots is not defined")), "{found:?}");
    assert!(found.contains(&"over-time is blank on the screen".to_owned()), "{found:?}");
    let image = format!("<main><img src=\"{ELSEWHERE}\">");
    let curious = sound.replacen("<main>", &image, 1);
    let found = faults(&browser.look("forbidden", &curious, Look::Light).await, &CHARTS);
    assert!(found.iter().any(|fault| fault.contains("forbidden: http://127.0.0.1:9")), "the policy holds: {found:?}");
    let is_asked = |fault: &String| fault.contains("requestWillBeSent") && fault.contains(ELSEWHERE);
    assert!(!found.iter().any(is_asked), "nothing was asked: {found:?}");
    let free = curious.replacen("Content-Security-Policy", "X-Nothing", 1);
    let found = faults(&browser.look("asking", &free, Look::Light).await, &CHARTS);
    assert!(found.iter().any(is_asked), "{found:?}");
    browser.close().await;
}

#[tokio::test]
async fn a_sale_and_a_comparison_write_their_reports_and_where_they_cannot_they_are_not_run() {
    let (folder, program) = (Folder::create().unwrap(), purchase_program().await);
    let browser = Browser::find("a report").await;
    let compare = format!(
        "compare --buyers 60 --form batched --strategy optimistic --repetitions 1 --worker-program {} --json - --report",
        program.display()
    );
    for (name, arguments, charts, text) in [
        ("sale", "run --buyers 200 --stock 50 --json - --report", &CHARTS[..], "50 sold · 150 sold out · 0 failed"),
        ("comparison", compare.as_str(), &[], "the queue (3 ways)"),
    ] {
        let file = folder.path().join(name);
        let output = command(&endpoints().await, arguments).await.arg(&file).output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let Some(browser) = &browser else { continue };
        let seen = browser.look(name, &fs::read_to_string(&file).unwrap(), Look::Light).await;
        assert_sound(&seen, charts);
        assert_holds(&seen, &json(&output));
        assert!(seen.text.contains(text), "{}", seen.text);
    }
    if let Some(browser) = browser {
        browser.close().await;
    }
    let nowhere = folder.path().join("missing").join("report.html");
    for what in ["run", "ceiling", "compare"] {
        let mut command = command(&unreachable(), &format!("{what} --json=- --report")).await;
        let output = command.arg(&nowhere).output().await.unwrap();
        let said = said(&output);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(78), 0), "{said}");
        assert!(said.contains("--report cannot be written") && said.contains("nothing was run"), "{said}");
    }
    folder.remove().await.unwrap();
}
