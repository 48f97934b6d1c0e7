//! Numbers and sections as text: separated thousands, shares, a line of bars, and lines under a title.

use shared::table::{Style, table};

/// The widest sparkline.
const SPARKLINE_COLUMNS_MAX: usize = 40;
/// From empty to the peak.
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The index of the highest of them.
const HEIGHT_MAX: u64 = 7;

/// Figures over time (milliseconds, figure), scaled to their peak: each column is the highest of its span of time.
pub(crate) fn sparkline(samples: &[(u64, u64)]) -> String {
    let (Some((first_ms, mut before)), Some((last_ms, _))) = (samples.first().copied(), samples.last()) else {
        return String::new();
    };
    let columns = samples.len().min(SPARKLINE_COLUMNS_MAX);
    let span_ms = last_ms - first_ms + 1;
    let mut highest: Vec<Option<u64>> = vec![None; columns];
    for (at_ms, figure) in samples {
        let column = usize::try_from((at_ms - first_ms) * columns as u64 / span_ms).unwrap_or(0);
        highest[column] = highest[column].max(Some(*figure));
    }
    let peak = samples.iter().map(|(_, figure)| *figure).max().unwrap_or(0).max(1);
    let heights = highest.into_iter().map(|figure| {
        // A span without a sample looks like the one before it.
        before = figure.unwrap_or(before);
        SPARKS[usize::try_from((before * HEIGHT_MAX).div_ceil(peak)).unwrap_or(0)]
    });
    heights.collect()
}

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
    let digits = number.to_string();
    let mut separated = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            separated.push(',');
        }
        separated.push(digit);
    }
    separated
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
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"],
            [0, 999, 1_000, 1_234_567].map(count).each_ref().map(String::as_str)
        );
        assert_eq!(
            (decimal(1_234.56, 1), decimal(9_999.6, 0), signed(-1_000)),
            ("1,234.6".into(), "10,000".into(), "-1,000".into())
        );
        assert_eq!((share(1, 1_000), share(0, 0)), ("0.1 %".to_owned(), "-".to_owned()));
    }

    #[test]
    fn the_sparkline_is_scaled_to_the_peak_and_never_too_wide() {
        let samples = |figures: &[u64]| -> Vec<(u64, u64)> {
            figures.iter().zip(0..).map(|(&figure, number)| (number * 10, figure)).collect()
        };
        assert_eq!(sparkline(&samples(&[0, 1, 350, 700, 0])), "▁▂▅█▁");
        assert_eq!(sparkline(&samples(&[0, 0])), "▁▁");
        assert_eq!(sparkline(&[]), "");
        assert_eq!(sparkline(&samples(&[5; 1_000])).chars().count(), SPARKLINE_COLUMNS_MAX);
    }
}
