//! What the summary says of a sale that went well, and of others.

use super::*;
use crate::fixtures::outcome;

/// Each without what surrounds its words.
fn lines(outcome: &Outcome) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    render(outcome, Style::Plain).lines().map(words).collect()
}

/// The lines from this title to the next empty one.
fn section_of(outcome: &Outcome, title: &str) -> Vec<String> {
    let lines = lines(outcome).into_iter().skip_while(|line| line != title).skip(1);
    lines.take_while(|line| !line.is_empty()).collect()
}

fn titles(outcome: &Outcome) -> Vec<String> {
    let lines = lines(outcome);
    let titles = lines.iter().zip(&lines[1..]).filter(|(before, _)| before.is_empty());
    titles.map(|(_, title)| title.split(' ').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_first_line_says_it_all() {
    assert_eq!(lines(&outcome())[0], "4,000 sold · 6,000 sold out · 0 failed — 1.25 s");
}

#[test]
fn every_section_is_there_in_order() {
    let always = ["INVARIANTS", "VERDICTS", "LATENCY", "THROUGHPUT", "CONTENTION", "QUEUE", "WORKERS"];
    let plain = Outcome { events: vec![], crashes: vec![], life: None, shown: None, ..outcome() };
    assert_eq!(titles(&plain), always);
    assert_eq!(titles(&outcome()), [&always[..], &["EVENTS", "CRASHES", "ORDERS", "LIVES"]].concat());
}

#[test]
fn a_broken_invariant_is_crossed_and_names_its_offenders() {
    let detail = "1: concert by 3".to_owned();
    let invariants = vec![Invariant { name: "never_oversold", holds: false, detail }];
    let broken = section_of(&Outcome { invariants, passed: false, ..outcome() }, "INVARIANTS");
    assert_eq!(broken, ["✗ never oversold 1: concert by 3"]);
}

#[test]
fn the_ceiling_is_shown_with_its_ratio() {
    let expected = ["purchases per second 8,000", "without a database 9,090 in 1.10 s", "share of that ceiling 0.88"];
    assert_eq!(section_of(&outcome(), "THROUGHPUT"), expected);
}

#[test]
fn events_are_listed_with_their_points_and_workers_where_there_were_any() {
    let at = "25%".parse().unwrap();
    let event = |event, worker: Option<&str>, node: Option<&str>| {
        let [worker, broker_node] = [worker, node].map(|whom| whom.map(str::to_owned));
        let next_verdict_seconds = worker.as_ref().map(|_| 0.25);
        EventReport { at, event, worker, broker_node, seconds: 1.5, next_verdict_seconds }
    };
    let events = vec![
        event(Action::Kill, Some("worker-1"), None),
        event(Action::Stop, None, None),
        event(Action::KillBroker, None, Some("node-2")),
        event(Action::KillRedis, None, None),
    ];
    let expected = [
        "at 25% worker-1 killed; the next worker's verdicts 0.25 s later",
        "at 25% no worker was left to be stopped",
        "at 25% node-2 killed",
        "at 25% Redis killed and started again",
    ];
    assert_eq!(section_of(&Outcome { events, ..outcome() }, "EVENTS"), expected);
}

#[test]
fn what_became_of_the_orders_is_told_with_the_money_and_the_events() {
    assert_eq!(section_of(&outcome(), "CRASHES"), ["killed and replaced 1 payment-1 at 0.8 s"]);
    let expected = [
        "paid 2,000",
        "cancelled 400",
        "expired 1,600",
        "held 0",
        "payments declined 5",
        "charges at the gateway 2,001 1 refund; 2,100 asked, 3 spoilt",
        "payment latency 40.0 ms p50, 99.0 ms p99",
        "events 9,876 2 published again",
        "event lag 6.0 ms p50, 21.0 ms p99",
        "the same without this 8,900 in 1.00 s",
        "share of that 0.90",
    ];
    assert_eq!(section_of(&outcome(), "ORDERS"), expected);
}

#[test]
fn what_was_shown_is_told_step_by_step() {
    assert_eq!(lines(&outcome()).last().map(String::as_str), Some("0.50 s ann pays paid"));
}

#[test]
fn without_colours_there_is_no_escape_and_with_them_there_is() {
    assert!(!render(&outcome(), Style::Plain).contains('\x1b'));
    assert!(render(&outcome(), Style::Coloured).contains("\x1b[32m"));
}
