//! Reports, as a real browser shows them. Where none can be had, that is said, and nothing is shown.

mod browser;

use crate::support::{
    fixtures,
    sale::{command, endpoints, json, said, unreachable},
    shop::purchase_program,
};
use browser::{Seen, look};
use loadtest::{
    audit::Invariant,
    bench::compare::{Comparison, page_of},
    faults::CrashReport,
    report::of_run,
    result::{Outcome, WorkerReport},
};
use serde::Serialize;
use serde_json::Value;
use shared::devstack::Folder;
use std::{collections::BTreeMap, fs};

/// A chart with a curve in it has more pixels than this.
const PAINTED_MIN: u64 = 3_000;
/// The charts of a run.
const CHARTS: [&str; 2] = ["latency", "over-time"];
/// An address on this machine where nobody listens.
const ELSEWHERE: &str = "http://127.0.0.1:9/picture.png";

/// What is wrong with a page, for people.
fn faults(seen: &Seen, charts: &[&str]) -> Vec<String> {
    let mut faults: Vec<String> = seen.console.iter().map(|line| format!("console: {line}")).collect();
    faults.extend(seen.requests.iter().map(|address| format!("request: {address}")));
    if !seen.charts.keys().eq(charts) {
        faults.push(format!("the charts are {:?} and not {charts:?}", seen.charts));
    }
    let blank = |charts: &BTreeMap<String, u64>| charts.values().any(|painted| *painted < PAINTED_MIN);
    faults.extend(blank(&seen.charts).then(|| format!("a chart is blank: {:?}", seen.charts)));
    faults
}

/// It is sound, and the JSON that can be downloaded is the result.
fn assert_shows(seen: &Seen, charts: &[&str], result: &impl Serialize) {
    assert_eq!(faults(seen, charts), [] as [String; 0]);
    let downloaded = seen.downloaded.as_deref().expect("the button gives a file");
    let parsed = |json: &str| serde_json::from_str::<Value>(json).unwrap();
    // Both by way of text, which floating-point numbers come back from as they do.
    assert_eq!(parsed(downloaded), parsed(&serde_json::to_string(result).unwrap()));
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
async fn text_stays_text_whatever_it_would_like_to_be_and_a_broken_promise_stands_first() {
    let outcome = hostile();
    let Some(seen) = look(&of_run(&outcome).unwrap()).await else { return };
    assert_shows(&seen, &CHARTS, &outcome);
    assert_eq!(seen.ran, 0);
    let place = |text: &str| seen.text.find(text).unwrap_or_else(|| panic!("{text} is not in {}", seen.text));
    let said = ["4,000 sold · 6,000 sold out · 0 failed — 1.25 s", "✗ BROKEN 1 of 3 promises were not kept."];
    for text in said.into_iter().chain(HOSTILE) {
        place(text);
    }
    assert!(place("1: concert by 3") < place("never oversold"));

    // A comparison in which nothing was left is a page, too.
    let broken = vec!["<b>: a promise".to_owned()];
    let left_alone = Comparison { rows: vec![], broken, passed: false, ..fixtures::comparison() };
    let seen = look(&page_of(&left_alone).unwrap()).await.unwrap();
    assert_shows(&seen, &[], &left_alone);
    for text in ["✗ BROKEN Not kept: 1 promise.", "<b>: a promise"] {
        assert!(seen.text.contains(text), "{}", seen.text);
    }
}

#[tokio::test]
async fn a_page_that_cannot_draw_or_asks_elsewhere_is_found_out() {
    let sound = of_run(&fixtures::outcome()).unwrap();
    let broken = sound.replacen("new uPlot(", "new uPlots(", 1);
    let Some(seen) = look(&broken).await else { return };
    let found = faults(&seen, &CHARTS);
    assert!(["uPlots is not defined", "is blank"].iter().all(|part| found.concat().contains(part)), "{found:?}");
    let curious = sound.replacen("<main>", &format!("<main><img src=\"{ELSEWHERE}\">"), 1);
    let found = faults(&look(&curious).await.unwrap(), &CHARTS);
    assert!(found.iter().any(|fault| fault.starts_with("console: ")), "the policy holds, and is heard: {found:?}");
    assert!(!found.iter().any(|fault| fault.starts_with("request: \"http")), "nothing was asked: {found:?}");
    let free = curious.replacen("Content-Security-Policy", "X-Nothing", 1);
    let found = faults(&look(&free).await.unwrap(), &CHARTS);
    assert!(found.iter().any(|fault| fault.starts_with("request: ") && fault.contains(ELSEWHERE)), "{found:?}");
}

#[tokio::test]
async fn a_sale_and_a_comparison_write_their_reports_and_where_they_cannot_they_are_not_run() {
    let (folder, program) = (Folder::create().unwrap(), purchase_program().await);
    let compare = format!(
        "compare --buyers 60 --form batched --strategy optimistic --repetitions 1 --worker-program {} --json - --report",
        program.display()
    );
    for (arguments, charts, text) in [
        ("run --buyers 200 --stock 50 --json - --report", &CHARTS[..], "50 sold · 150 sold out · 0 failed"),
        (compare.as_str(), &[], "the queue (1 way)"),
    ] {
        let file = folder.path().join("report.html");
        let output = command(&endpoints().await, arguments).await.arg(&file).output().await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let Some(seen) = look(&fs::read_to_string(&file).unwrap()).await else { continue };
        assert_shows(&seen, charts, &json(&output));
        assert!(seen.text.contains(text), "{}", seen.text);
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
