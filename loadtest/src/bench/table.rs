//! What the tables of benches have in common: what is said first, and columns of figures.

use crate::summary::figures::{cross_out, decimal, titled};
use shared::table::Style;
use std::iter;

/// Its heading, its places behind the point, and its figure; what is not known is a dash, never a zero.
pub(super) type Column<T> = (&'static str, usize, fn(&T) -> Option<f64>);

/// The headline (where all is well, and where it is not), what was run on what, and what was broken.
pub(super) fn head([good, bad]: [&str; 2], setting: &[String], broken: &[String], style: Style) -> String {
    let headline = if broken.is_empty() { style.good(good) } else { style.bad(bad) };
    let setting = setting.iter().map(|line| style.dim(line));
    iter::once(headline).chain(setting).chain(cross_out(broken, style)).map(|line| line + "\n").collect()
}

/// A line for each of which something is known, with what it is named by before its figures; nothing, where there is none.
pub(super) fn figures<'a, T: 'a, const NAMES: usize>(
    title: &str,
    names: [&str; NAMES],
    columns: &[Column<T>],
    lines: impl IntoIterator<Item = ([String; NAMES], &'a T)>,
    style: Style,
) -> String {
    let is_known = |all: &T| columns.iter().any(|(_, _, of)| of(all).is_some());
    let lines = lines.into_iter().filter(|(_, all)| is_known(all));
    let rows: Vec<_> = lines.map(|(name, all)| name.into_iter().chain(cells(columns, all)).collect()).collect();
    let headings: Vec<&str> = names.into_iter().chain(columns.iter().map(|(heading, _, _)| *heading)).collect();
    if rows.is_empty() { String::new() } else { titled(title, &headings, rows, style) }
}

pub(super) fn cells<T>(columns: &[Column<T>], all: &T) -> impl Iterator<Item = String> {
    columns.iter().map(|(_, places, of)| of(all).map_or_else(|| "-".to_owned(), |figure| decimal(figure, *places)))
}

/// A count among figures.
#[allow(clippy::cast_precision_loss)]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}
