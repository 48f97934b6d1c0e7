//! What the tables of benches have in common: what is said first, and columns of figures.

use std::iter;

use shared::table::Style;

use crate::summary::figures::{cross_out, decimal, titled};

/// Its heading, its places behind the point, and its figure; what is not known is a dash, never a zero.
pub(super) type Column<T> = (&'static str, usize, fn(&T) -> Option<f64>);

/// The headline (where all is well, and where it is not), what was run on what, and what was broken.
pub(super) fn head([good, bad]: [&str; 2], facts: &[String], broken: &[String], style: Style) -> String {
    let headline = if broken.is_empty() { style.good(good) } else { style.bad(bad) };
    let facts = facts.iter().map(|fact| style.dim(fact));
    iter::once(headline).chain(facts).chain(cross_out(broken, style)).map(|line| line + "\n").collect()
}

/// A line for each of which something is known; nothing, where there is none.
pub(super) fn figures<'a, T: 'a>(
    title: &str,
    columns: &[Column<T>],
    lines: impl IntoIterator<Item = (String, &'a T)>,
    style: Style,
) -> String {
    let mut rows = Vec::new();
    for (name, all) in lines {
        let figures: Vec<Option<f64>> = columns.iter().map(|(_, _, of)| of(all)).collect();
        if figures.iter().any(Option::is_some) {
            let cell = |(figure, (_, places, _)): (&Option<f64>, &Column<T>)| {
                figure.map_or_else(|| "-".to_owned(), |figure| decimal(figure, *places))
            };
            rows.push(iter::once(name).chain(figures.iter().zip(columns).map(cell)).collect());
        }
    }
    let headings: Vec<&str> = iter::once("").chain(columns.iter().map(|(heading, _, _)| *heading)).collect();
    if rows.is_empty() { String::new() } else { titled(title, &headings, rows, style) }
}

/// A count among figures.
#[allow(clippy::cast_precision_loss)]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}
