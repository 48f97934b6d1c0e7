//! What a command shows: one JSON document for programs, or tables for people. Pure.
//!
//! Invariant: text that others sent is never written to a terminal as it is ([`visible`]).

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde::Serialize;
use std::io::IsTerminal;
use time::{OffsetDateTime, UtcOffset, macros::format_description};

/// What to print, and what it means.
#[derive(Debug)]
pub struct Report {
    /// The whole output.
    pub text: String,
    /// False: something is off, and the program exits with 1.
    pub is_well: bool,
}

/// For whom a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// For programs.
    Json,
    /// For people.
    Text(Style),
}

/// Whether there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Text alone.
    Plain,
    /// With ANSI colours.
    Coloured,
}

impl Report {
    /// A report of something that only says what is there.
    pub fn of(shape: Shape, document: &impl Serialize, text: impl FnOnce(Style) -> String) -> Self {
        Self::judged(shape, true, document, text)
    }

    /// A report that may say that something is off.
    pub fn judged(shape: Shape, is_well: bool, document: &impl Serialize, text: impl FnOnce(Style) -> String) -> Self {
        let mut text = match shape {
            Shape::Json => serde_json::to_string_pretty(document).expect("a report is representable as JSON"),
            Shape::Text(style) => text(style),
        };
        text.truncate(text.trim_end().len());
        text.push('\n');
        Self { text, is_well }
    }
}

impl Style {
    /// Colours on a terminal, unless `NO_COLOR` is set.
    #[must_use]
    pub fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !refused { Self::Coloured } else { Self::Plain }
    }

    /// Something that is as it should be.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Something that is off.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// What stands above something.
    #[must_use]
    pub fn title(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub enum Column {
    /// Words, which begin at the left.
    Words(&'static str),
    /// Numbers, which end at the right.
    Number(&'static str),
}

/// A table with a line for each row; `none` where there are none.
#[must_use]
pub fn table(columns: &[Column], rows: Vec<Vec<String>>, none: &str) -> String {
    if rows.is_empty() {
        return format!("{none}\n");
    }
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(columns.iter().map(|column| match column {
        Column::Words(name) | Column::Number(name) => *name,
    }));
    table.add_rows(rows);
    for (drawn, column) in table.column_iter_mut().zip(columns) {
        drawn.set_padding((0, 2));
        drawn.set_cell_alignment(match column {
            Column::Words(_) => CellAlignment::Left,
            Column::Number(_) => CellAlignment::Right,
        });
    }
    format!("{}\n", table.trim_fmt())
}

/// A time as people read it, in UTC.
#[must_use]
pub fn time_text(time: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    time.to_offset(UtcOffset::UTC).format(&format).expect("a time of the database can be written")
}

/// The same to the millisecond, where one event follows another.
#[must_use]
pub fn moment_text(time: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]Z");
    time.to_offset(UtcOffset::UTC).format(&format).expect("a time of the database can be written")
}

/// So many of something.
#[must_use]
pub fn counted(count: i64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
}

/// A time that need not be.
#[must_use]
pub fn time_or_dash(time: Option<OffsetDateTime>) -> String {
    time.map_or_else(|| "–".to_owned(), time_text)
}

/// A length of time as people read it.
#[must_use]
pub fn span_text(milliseconds: i64) -> String {
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
#[must_use]
pub fn visible(text: &str) -> String {
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

    #[test]
    fn what_others_sent_cannot_steer_a_terminal() {
        assert_eq!(visible("a\x1b[2Jb\u{9b}c\u{202e}d\r\ne"), "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d\\r\ne");
        assert_eq!(visible("grün ✓"), "grün ✓");
    }

    #[test]
    fn words_begin_at_the_left_and_numbers_end_at_the_right() {
        let columns = [Column::Words("item"), Column::Number("stock")];
        let rows = vec![vec!["a".into(), "5".into()], vec!["concert".into(), "12345".into()]];
        let drawn = table(&columns, rows, "none");
        let lines: Vec<&str> = drawn.lines().map(str::trim_end).collect();
        assert_eq!(lines, ["item     stock", "a            5", "concert  12345"]);
        assert_eq!(table(&columns, vec![], "No items."), "No items.\n");
    }

    #[test]
    fn a_span_is_told_in_the_unit_that_fits() {
        let told: Vec<String> = [7, 1_500, 600_000, 7_200_000, 864_000_000].map(span_text).into();
        assert_eq!(told, ["7 ms", "1 s", "10 min", "2 h", "10 d"]);
    }
}
