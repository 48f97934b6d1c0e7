//! A result as one self-contained page: text out of a result, nothing else.
//!
//! What can be read is written here; the page's script draws the charts from the JSON that is in it, and offers that for
//! download. A `run` and a `compare` have a page each; `parts` is what both are made of, and `html` sees to it that text
//! stays text. Knows no server and no file but `file`, the one that it goes to.
//!
//! Invariant: a page asks nothing of anybody: styles, script, the library that draws (uPlot, with its licence) and data are
//! in it, and its policy forbids the rest.
//!
//! A picture of one, as the README has it, is made by any Chromium (as root with `--no-sandbox`):
//! `chromium --headless --hide-scrollbars --window-size=1120,1240 --screenshot=loadtest/report.png report.html`

mod compare;
mod file;
mod html;
mod parts;
mod place;
mod run;

use anyhow::Context;
use serde::Serialize;

use crate::compare::Comparison;
use crate::failure::Failure;
use crate::result::Outcome;
pub(crate) use file::ReportFile;
use html::{Html, script_json};

/// The frame of a page; `{{NAME}}` stands for a part.
const PAGE: &str = include_str!("report/page.html");
const STYLE: &str = include_str!("report/page.css");
const SCRIPT: &str = include_str!("report/page.js");
/// uPlot 1.6.32, as it was published.
const CHARTS_SCRIPT: &str = include_str!("report/vendor/uPlot.iife.min.js");
const CHARTS_STYLE: &str = include_str!("report/vendor/uPlot.min.css");
const CHARTS_LICENCE: &str = include_str!("report/vendor/uPlot.LICENSE");

/// The page of one sale.
///
/// # Errors
/// The outcome is no JSON, which would be a fault of ours.
pub fn of_run(outcome: &Outcome) -> Result<String, Failure> {
    page(&run::title(outcome), &run::body(outcome), outcome)
}

/// The page of a comparison.
///
/// # Errors
/// As [`of_run`].
pub fn of_comparison(comparison: &Comparison) -> Result<String, Failure> {
    page(compare::TITLE, &compare::body(comparison), comparison)
}

fn page(title: &str, body: &Html, result: &impl Serialize) -> Result<String, Failure> {
    let json = serde_json::to_string_pretty(result).context("write the report's JSON").map_err(Failure::Broken)?;
    let (title, licence) = (Html::of(title), Html::of(CHARTS_LICENCE.trim()));
    Ok(fill(&[
        ("title", title.as_str()),
        ("style", &[CHARTS_STYLE, STYLE].join("\n")),
        ("body", body.as_str()),
        ("licence", licence.as_str()),
        ("json", &script_json(&json)),
        ("charts", CHARTS_SCRIPT),
        ("script", SCRIPT),
    ]))
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

#[cfg(test)]
mod tests;
