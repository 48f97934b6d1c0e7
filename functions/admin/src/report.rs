//! What a command shows: one JSON document for programs, or text for people. Pure.
//!
//! Text that others sent is never written to a terminal as it is (`visible`).

use serde::{Serialize, Serializer};
use serde_json::Value;
use shared::table::{Style, table};
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

/// What a command found. Its fields are the JSON document's.
pub(crate) trait Document: Serialize {
    /// The same for people.
    fn text(&self, style: Style) -> String;

    /// False: something is off, and the program exits with 1.
    fn is_well(&self) -> bool {
        true
    }
}

/// A document that is drawn as lines and tables, by its own names.
pub(crate) struct Drawn {
    pub(crate) document: Value,
    /// The same for people, where some of it is said in other words.
    pub(crate) shown: Value,
    /// What else people are told, below.
    pub(crate) notes: Vec<String>,
    pub(crate) layout: Layout,
    pub(crate) is_well: bool,
}

pub(crate) struct Layout {
    /// The fields that are shown first, each on a line, where there is something in them.
    pub(crate) lines: &'static str,
    /// The lists: the name, what is said of an empty one, and the columns.
    pub(crate) tables: &'static [(&'static str, &'static str, &'static str)],
}

/// The fields in which others chose the names: what looks like ours there is not.
const OF_OTHERS: [&str; 2] = ["properties", "headers"];

impl Serialize for Drawn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document.serialize(serializer)
    }
}

impl Document for Drawn {
    fn text(&self, style: Style) -> String {
        let mut text = self.layout.draw(&self.shown, style);
        if !self.notes.is_empty() {
            text += &format!("\n{}\n", self.notes.join("\n"));
        }
        text
    }

    fn is_well(&self) -> bool {
        self.is_well
    }
}

impl Layout {
    pub(crate) fn of(self, document: Value) -> Drawn {
        Drawn { shown: document.clone(), document, notes: Vec::new(), layout: self, is_well: true }
    }

    fn draw(&self, document: &Value, style: Style) -> String {
        let line = |name: &str, text: String| format!("{:<22}  {text}\n", visible(name));
        let mut text = String::new();
        for name in self.lines.split_whitespace() {
            let value = &document[name];
            if let Some(fields) = value.as_object()
                && !fields.is_empty()
            {
                text += if text.is_empty() { "" } else { "\n" };
                text += &format!("{}\n", style.title(name));
                let read = if OF_OTHERS.contains(&name) { |_: &str, value: &Value| as_sent(value) } else { cell };
                text.extend(fields.iter().map(|(name, value)| line(name, read(name, value))));
            } else if !is_empty(value) {
                text += &line(name, cell(name, value));
            }
        }
        for (name, none, columns) in self.tables {
            let rows = document[name].as_array().map(Vec::as_slice).unwrap_or_default();
            let columns = || columns.split_whitespace();
            let headings = columns().map(|name| {
                let mark = if rows.iter().any(|row| row[name].is_number()) { ">" } else { "" };
                format!("{mark}{}", name.to_uppercase().replace('_', " "))
            });
            let headings: Vec<String> = headings.collect();
            let row = |row: &Value| columns().map(|name| cell(name, &row[name]).replace('\n', " ")).collect();
            text += if text.is_empty() { "" } else { "\n" };
            text += &if rows.is_empty() { format!("{none}\n") } else { table(&headings, rows.iter().map(row), style) };
        }
        text
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// What another program sent, as it is.
fn as_sent(value: &Value) -> String {
    visible(&value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned))
}

/// Whether a field of our own documents is a time.
fn is_time(name: &str) -> bool {
    name == "at" || ["_at", "_until", "_before"].iter().any(|end| name.ends_with(end))
}

/// A field of our own as people read it.
fn cell(name: &str, value: &Value) -> String {
    match value {
        value if is_empty(value) => or_dash(None),
        Value::String(text) => match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(time) if is_time(name) => moment_text(time),
            Ok(_) | Err(_) => visible(text),
        },
        Value::Array(values) => values.iter().map(|value| cell(name, value)).collect::<Vec<_>>().join(", "),
        Value::Number(number) if number.is_f64() => format!("{:.4}", number.as_f64().unwrap_or_default()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => visible(&value.to_string()),
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
    use serde_json::json;
    use time::macros::datetime;

    #[test]
    fn what_others_sent_cannot_steer_a_terminal() {
        assert_eq!(visible("a\x1b[2Jb\u{9b}c\u{202e}d\r\ne"), "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d\\r\ne");
        assert_eq!(visible("grün ✓"), "grün ✓");
    }

    #[test]
    fn a_span_is_told_in_the_unit_that_fits_and_a_moment_in_utc() {
        assert_eq!(
            [7, 1_500, 600_000, 7_200_000, 864_000_000].map(span_text),
            ["7 ms", "1 s", "10 min", "2 h", "10 d"]
        );
        let time = datetime!(2026-11-27 11:00:00.0256 +1);
        assert_eq!([time_text(time), moment_text(time)], ["2026-11-27 10:00:00Z", "2026-11-27 10:00:00.025Z"]);
    }

    #[test]
    fn a_document_is_drawn_as_lines_and_tables_by_its_own_names() {
        let tables = &[("rows", "No rows.", "name units_held"), ("others", "No others.", "name")];
        let layout = Layout { lines: "id nothing headers at", tables };
        let document = json!({"id": "2026-11-27T10:00:00Z", "at": "2026-11-27T10:00:00.25Z", "headers": {"x": "\u{1b}"},
            "rows": [{"name": "a\nb", "units_held": 5}, {"name": null, "units_held": 12}]});
        let expected = "id                      2026-11-27T10:00:00Z\n\nheaders\nx                       \\u{1b}\n\
                        at                      2026-11-27 10:00:00.250Z\n\n\
                        NAME  UNITS HELD\na b            5\n–             12\n\nNo others.\n";
        assert_eq!(layout.draw(&document, Style::Plain), expected);
        let mut drawn = Layout { lines: "", tables: &[("rows", "No rows.", "sale")] }.of(json!({"rows": []}));
        drawn.shown["rows"] = json!([{"sale": "not open yet"}]);
        drawn.notes = vec!["More.".into(), "And more.".into()];
        assert_eq!(drawn.text(Style::Plain), "SALE\nnot open yet\n\nMore.\nAnd more.\n");
        assert_eq!(json!(drawn), json!({"rows": []}), "programs are told nothing else");
    }

    #[test]
    fn only_times_of_our_own_are_written_another_way() {
        let time = "2026-11-27T10:00:00Z";
        let layout = Layout { lines: "format created_at payment headers", tables: &[] };
        let others = json!({"at": time, "format": time, "x_until": time, "x": 0.5, "y": null});
        let document = json!({"format": time, "created_at": time, "payment": {"asked_at": time}, "headers": others});
        let text = layout.draw(&document, Style::Plain);
        let lines: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once("  ")?.1.trim())).collect();
        let ours = "2026-11-27 10:00:00.000Z";
        assert_eq!(lines, [time, ours, ours, time, time, "0.5", time, "null"], "{text}");
    }
}
