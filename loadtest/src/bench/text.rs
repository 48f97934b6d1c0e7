//! What all tables of measurements share.

use shared::table::{Style, table};

/// Before the lines of a table.
const INDENT: &str = "    ";

/// Each line further to the right.
pub(super) fn indented(text: &str) -> String {
    text.lines().map(|line| format!("{INDENT}{line}\n")).collect()
}

/// A title and a table below it, after an empty line.
pub(super) fn titled(title: &str, headings: &[&str], rows: Vec<Vec<String>>, style: Style) -> String {
    format!("\n  {}\n{}", style.title(title), indented(&table(headings, rows, style)))
}

/// What does not hold, a line each.
pub(super) fn cross_out(broken: &[String], style: Style) -> impl Iterator<Item = String> {
    broken.iter().map(move |broken| format!("{INDENT}{}", style.bad(&format!("✗ {broken}"))))
}
