//! A result as one self-contained page: `report.html` with the JSON in it, from which its script draws everything.
//!
//! It asks nothing of anybody: styles, script, the library that draws (uPlot, with its licence) and data are in it, and its
//! policy forbids the rest. A picture of one, as the README has it, is made by any Chromium (as root with `--no-sandbox`):
//! `chromium --headless --hide-scrollbars --window-size=1120,1100 --screenshot=loadtest/report.png report.html`

use crate::failure::Failure;
use crate::result::Outcome;
use crate::summary::{circumstances, endings, event_text, headline};
use anyhow::Context;
use serde::Serialize;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// `{{NAME}}` stands for a part.
const PAGE: &str = include_str!("report.html");
/// uPlot 1.6.32, as it was published.
const CHARTS_SCRIPT: &str = include_str!("../../functions/web/pages/vendor/uPlot.iife.min.js");
const CHARTS_STYLE: &str = include_str!("../../functions/web/pages/vendor/uPlot.min.css");
const CHARTS_LICENCE: &str = include_str!("../../functions/web/pages/vendor/uPlot.LICENSE");

/// The page of one sale.
pub fn of_run(outcome: &Outcome) -> Result<String, Failure> {
    let words = json!({
        "headline": headline(outcome),
        "circumstances": circumstances(outcome),
        "answers": endings(outcome),
        "events": outcome.events.iter().map(event_text).collect::<Vec<_>>(),
    });
    page(&headline(outcome), &words, outcome)
}

/// The page of any result that the template knows; `words` are the sentences that the terminal has, too.
pub(crate) fn page(title: &str, words: &Value, result: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(result).context("write the report's JSON")?;
    Ok(fill(&[
        ("title", &format!("{title} · Turnstile")),
        ("charts_style", CHARTS_STYLE),
        ("licence", CHARTS_LICENCE.trim()),
        ("words", &script_json(&words.to_string())),
        ("json", &script_json(&json)),
        ("charts", CHARTS_SCRIPT),
    ]))
}

/// JSON as it can stand in a `script` element, which ends at `</script` and changes its ways at `<!--`, wherever they are.
/// In JSON these characters are in strings alone, where they may as well be written by number.
fn script_json(json: &str) -> String {
    let by_number =
        [('<', r"\u003c"), ('>', r"\u003e"), ('&', r"\u0026"), ('\u{2028}', r"\u2028"), ('\u{2029}', r"\u2029")];
    by_number.iter().fold(json.to_owned(), |json, (character, number)| json.replace(*character, number))
}

/// Puts the parts in their places, in one go: what looks like a place within a part stays as it is.
fn fill(parts: &[(&str, &str)]) -> String {
    let mut pieces = PAGE.split("{{");
    let mut page = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (name, after) = piece.split_once("}}").expect("the template is constant, and tested");
        let part = parts.iter().find(|(place, _)| *place == name).map(|(_, part)| *part);
        page.push_str(part.expect("the template is constant, and tested"));
        page.push_str(after);
    }
    page
}

/// Writes it, where one is asked for.
pub(crate) fn write(path: Option<&Path>, html: impl FnOnce() -> Result<String, Failure>) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    Ok(fs::write(path, html()?).with_context(|| format!("write {}", path.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::outcome;

    #[test]
    fn a_page_is_whole_and_asks_for_nothing_and_has_the_licence_of_what_draws() {
        let page = of_run(&outcome()).unwrap();
        assert!(!page.contains("{{") && page.contains("The MIT License (MIT)"));
        assert!(page.contains("default-src 'none'") && page.contains("<noscript>"));
        for asking in ["src=", "href=\"http", "@import", "url(", "<iframe", "fetch(", "XMLHttpRequest"] {
            assert!(!page.contains(asking), "{asking}");
        }
        assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (4, 4));
        assert!(!page.contains("<!--"));
    }

    #[test]
    fn json_in_a_script_neither_ends_it_nor_opens_a_comment_and_is_the_same_json() {
        let value = json!({"id": "</script><!--<script>&amp;\u{2028}{{json}}"});
        let text = script_json(&value.to_string());
        assert!(!text.contains(['<', '>', '&', '\u{2028}']), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
