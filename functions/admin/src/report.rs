//! What a command shows: one JSON document for programs, or text for people. Pure.
//!
//! Text that others sent is never written to a terminal as it is (`visible`).

use serde::Serialize;
use shared::table::{Style, table};
use time::{OffsetDateTime, UtcOffset, macros::format_description};

/// What a command found. Its fields are the JSON document's.
pub(crate) trait Document: Serialize {
    /// The same for people.
    fn text(&self, style: Style) -> String;

    /// False: something is off, and the program exits with 1.
    fn is_well(&self) -> bool {
        true
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Output {
    Json,
    Text(Style),
}

/// What to print, and whether all is well.
#[derive(Debug)]
pub struct Report {
    pub text: String,
    pub is_well: bool,
}

impl Output {
    pub(crate) fn report(self, document: &impl Document) -> Report {
        let text = match self {
            Self::Json => serde_json::to_string_pretty(document).expect("a document is representable as JSON"),
            Self::Text(style) => document.text(style),
        };
        Report { text: format!("{}\n", text.trim_end()), is_well: document.is_well() }
    }
}

/// A table, or `none` where there are no rows.
pub(crate) fn table_or(none: &str, headings: &[&str], rows: Vec<Vec<String>>, style: Style) -> String {
    if rows.is_empty() { format!("{none}\n") } else { table(headings, rows, style) }
}

/// A time as people read it, in UTC.
pub(crate) fn time_text(time: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    time.to_offset(UtcOffset::UTC).format(&format).expect("a time of the database can be written")
}

/// The same to the millisecond, where one event follows another.
pub(crate) fn moment_text(time: OffsetDateTime) -> String {
    let seconds = time_text(time);
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), time.millisecond())
}

pub(crate) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "–".to_owned())
}

pub(crate) fn counted(count: i64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// A length of time as people read it.
pub(crate) fn span_text(milliseconds: i64) -> String {
    let seconds = milliseconds / 1_000;
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Text that somebody sent, harmless to a terminal: what is not to be seen is written as Rust would.
pub(crate) fn visible(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' => "\n".to_owned(),
        // Also what turns the direction of writing round.
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            character.escape_unicode().to_string()
        }
        hidden if hidden.is_control() => hidden.escape_default().to_string(),
        seen => seen.to_string(),
    };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn what_others_sent_cannot_steer_a_terminal() {
        assert_eq!(visible("a\x1b[2Jb\u{9b}c\u{202e}d\r\ne"), "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d\\r\ne");
        assert_eq!(visible("grün ✓"), "grün ✓");
    }

    #[test]
    fn a_span_is_told_in_the_unit_that_fits() {
        let spans: Vec<String> = [7, 1_500, 600_000, 7_200_000, 864_000_000].map(span_text).into();
        assert_eq!(spans, ["7 ms", "1 s", "10 min", "2 h", "10 d"]);
    }

    #[test]
    fn a_moment_is_written_in_utc_to_the_millisecond() {
        let time = datetime!(2026-11-27 11:00:00.0256 +1);
        assert_eq!(
            (time_text(time), moment_text(time)),
            ("2026-11-27 10:00:00Z".into(), "2026-11-27 10:00:00.025Z".into())
        );
    }

    #[test]
    fn where_there_are_no_rows_it_says_so() {
        assert_eq!(table_or("No items.", &["ITEM"], vec![], Style::Plain), "No items.\n");
    }
}
