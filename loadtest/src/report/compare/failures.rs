//! Who got no verdict, and why: the doors, each kind by itself, beside all that goes through the queue.

use std::collections::{BTreeMap, BTreeSet};

use super::{Crowd, each_crowd};
use crate::compare::{Form, Row};
use crate::report::html::Html;
use crate::report::parts::{Lane, Paint, lanes, legend, section, share_of};
use crate::summary::figures::{count, plural};

/// The lanes are as long as there were buyers.
pub(super) fn failures(html: &mut Html, crowds: &[Crowd<'_>]) {
    let lead = "Buyers who were told neither yes nor no, of all that came. On the queue nobody should be; at a door it \
                depends on the crowd.";
    section(html, "Who was turned away by the machinery?", lead, |html| {
        let ways = crowds.iter().flat_map(|crowd| &crowd.ways);
        let there: BTreeSet<_> = ways.flat_map(|row| row.failures.keys()).map(|word| kind(word)).collect();
        legend(html, &there.into_iter().collect::<Vec<_>>());
        each_crowd(html, "failures", crowds, |html, crowd| {
            let (doors, queue): (Vec<&Row>, Vec<&Row>) = crowd.ways.iter().partition(|row| row.form == Form::Http);
            let name = format!("the queue ({})", plural(queue.len() as u64, "way"));
            let queue = (!queue.is_empty()).then(|| lane(name, &queue));
            let doors = doors.into_iter().map(|row| lane(row.name.clone(), &[row]));
            lanes(html, &crowd.title(), &[], &queue.into_iter().chain(doors).collect::<Vec<_>>());
        });
    });
}

/// How a kind is painted, and what it means.
fn kind(word: &str) -> (&'static str, &'static str) {
    match word {
        "refused" => ("kind-refused", "connection refused"),
        "reset" => ("kind-reset", "connection reset"),
        "timed_out" => ("kind-timed-out", "timed out"),
        "conflict" => ("kind-conflict", "409, attempts used up"),
        "unavailable" => ("kind-unavailable", "503, the database was busy"),
        "lost" | "invalid" => ("kind-lost", "lost or invalid, on the queue"),
        _other => ("kind-other", "other"),
    }
}

#[allow(clippy::cast_precision_loss)]
fn lane(name: String, rows: &[&Row]) -> Lane {
    let buyers: u64 = rows.iter().map(|row| u64::from(row.buyers)).sum();
    let failed: u64 = rows.iter().map(|row| row.failed).sum();
    let stalled: u64 = rows.iter().filter_map(|row| row.stalled).sum();
    let mut paints: Vec<Paint> = Vec::new();
    let mut by_kind = BTreeMap::<_, u64>::new();
    for (word, number) in rows.iter().flat_map(|row| &row.failures) {
        *by_kind.entry(kind(word)).or_default() += number;
    }
    for ((class, _), number) in by_kind {
        let from = paints.last().map_or(0.0, |paint| paint.to);
        paints.push(Paint { class, from, to: from + share_of(number as f64, buyers as f64) });
    }
    let stalled = if stalled > 0 { format!(", {} stalled", count(stalled)) } else { String::new() };
    Lane { name, paints, figure: count(failed), remark: format!("of {}{stalled}", count(buyers)) }
}
