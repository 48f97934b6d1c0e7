//! What a page is made of. How it looks, a browser says: `tests/system/report.rs`.

use super::*;
use crate::audit::Invariant;
use crate::compare::{ComparedScenario, Versions};
use crate::machine::Machine;
use crate::summary::tests::outcome;

/// Whatever makes a browser ask for something.
const ASKING: [&str; 7] = ["src=", "href=\"http", "@import", "url(", "<iframe", "fetch(", "XMLHttpRequest"];

#[test]
fn a_page_is_whole_and_has_the_licence_of_what_draws() {
    let page = of_run(&outcome()).unwrap();
    assert!(!page.contains("{{") && page.contains("The MIT License (MIT)"));
    assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"));
    for (open, close) in [("<section>", "</section>"), ("<table", "</table>"), ("<script", "</script>")] {
        assert_eq!(page.matches(open).count(), page.matches(close).count(), "{open}");
    }
}

#[test]
fn nothing_in_a_page_asks_for_anything() {
    let page = of_run(&outcome()).unwrap();
    for asking in ASKING {
        assert!(!page.contains(asking), "{asking}");
    }
    for part in [CHARTS_SCRIPT, SCRIPT] {
        assert!(!part.contains("</script") && !part.contains("<!--"));
    }
}

#[test]
fn a_broken_promise_is_said_in_words_and_stands_first() {
    let mut broken = outcome();
    broken.passed = false;
    broken.invariants.push(Invariant { name: "stock_conserved", holds: false, detail: "1: concert by 3".into() });
    let page = of_run(&broken).unwrap();
    assert!(page.contains("✗ BROKEN</strong> 1 of 2 promises were not kept."));
    let place = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text} is there"));
    assert!(place("1: concert by 3") < place("never oversold"));
}

#[test]
fn a_comparison_in_which_nothing_was_left_is_a_page_too() {
    let scenario = ComparedScenario {
        buyers: vec![10],
        stock: None,
        items: 1,
        workers: 1,
        repetitions: 1,
        in_flight: 16,
        payment_ms: 20,
        seed: 1,
    };
    let servers = Versions { rabbitmq: "3".to_owned(), postgresql: "15".to_owned(), redis: None };
    let broken = vec!["<b>: a promise".to_owned()];
    let comparison = Comparison { scenario, servers, machine: Machine::here(), rows: vec![], broken, passed: false };
    let page = of_comparison(&comparison).unwrap();
    assert!(page.contains("✗ BROKEN</strong> Not kept: 1 promise.") && page.contains("&lt;b&gt;: a promise"));
}

#[test]
fn what_looks_like_a_place_in_the_template_stays_text() {
    let mut named = outcome();
    named.workers[0].id = "{{script}}".to_owned();
    let page = of_run(&named).unwrap();
    assert!(page.contains("<th scope=\"row\">{{script}}</th>"));
}
