//! Numbers and sections as text: separated thousands, shares, and lines under a title.

use indicatif::HumanCount;
use shared::table::{Style, table};

/// Lines under a title; nothing, where there are none.
pub(crate) fn section(title: &str, lines: impl IntoIterator<Item = String>, style: Style) -> String {
    let lines: String = lines.into_iter().map(|line| format!("    {line}\n")).collect();
    if lines.is_empty() { lines } else { format!("\n  {}\n{lines}", style.title(title)) }
}

/// A title and a table below it, after an empty line.
pub(crate) fn titled(title: &str, headings: &[&str], rows: Vec<Vec<String>>, style: Style) -> String {
    section(title, table(headings, rows, style).lines().map(str::to_owned), style)
}

/// What does not hold, a line each.
pub(crate) fn cross_out(broken: &[String], style: Style) -> impl Iterator<Item = String> {
    broken.iter().map(move |broken| format!("    {}", style.bad(&format!("✗ {broken}"))))
}

/// With separated thousands.
pub(crate) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

pub(crate) fn signed(number: i64) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", count(number.unsigned_abs()))
}

/// A figure of zero or more, with separated thousands.
pub(crate) fn decimal(value: f64, places: usize) -> String {
    let text = format!("{value:.places$}");
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    format!("{}{fraction}", count(whole.parse().unwrap_or(0)))
}

pub(crate) fn plural(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_separated_thousands() {
        let figures = [count(1_234_567), signed(-1_000), decimal(1_234.56, 1), decimal(9_999.6, 0), share(1, 1_000)];
        assert_eq!(figures, ["1,234,567", "-1,000", "1,234.6", "10,000", "0.1 %"]);
        assert_eq!(share(0, 0), "-");
    }
}
