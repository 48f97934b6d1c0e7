//! Tables and colours for people: plain text, as wide as it is, for a terminal, a pipe or a file.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use std::io::IsTerminal;

/// Marks a column whose cells end at the right, as numbers do.
const RIGHT: char = '>';

/// Whether there are colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    /// With ANSI colours.
    Coloured,
}

impl Style {
    /// Colours on a terminal, unless `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !refused { Self::Coloured } else { Self::Plain }
    }

    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub fn title(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

/// A line of headings and one for each row, each with a newline. The cells under a heading such as `>STOCK` end at the
/// right, all others begin at the left.
pub fn table(headings: &[impl AsRef<str>], rows: impl IntoIterator<Item = Vec<String>>, style: Style) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(headings.iter().map(|heading| heading.as_ref().trim_start_matches(RIGHT)));
    table.add_rows(rows);
    for (column, heading) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, 2));
        let is_right = heading.as_ref().starts_with(RIGHT);
        column.set_cell_alignment(if is_right { CellAlignment::Right } else { CellAlignment::Left });
    }
    let drawn = table.to_string();
    let mut lines = drawn.lines().map(str::trim_end);
    let heading = style.dim(lines.next().unwrap_or_default());
    std::iter::once(heading.as_str()).chain(lines).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_at_the_left_and_numbers_end_at_the_right() {
        let rows = || [vec!["a".into(), "5".into()], vec!["concert".into(), "12345".into()]];
        let drawn = table(&["item", ">stock"], rows(), Style::Plain);
        assert_eq!(drawn, "item     stock\na            5\nconcert  12345\n");
        let coloured = table(&["item", ">stock"], rows(), Style::Coloured);
        assert_eq!(coloured, drawn.replace("item     stock", "\x1b[2mitem     stock\x1b[0m"));
    }
}
