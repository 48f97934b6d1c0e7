//! How fast each way is, beside the ceiling, and how long its buyers waited.

use super::{Crowd, each_crowd};
use crate::compare::{Form, Row};
use crate::report::html::Html;
use crate::report::parts::{Lane, Mark, Paint, lanes, legend, section, share_of};
use crate::summary::figures::decimal;

/// The quickest latency that is told apart on its scale, in milliseconds.
const LATENCY_MS_MIN: f64 = 0.1;

/// Bars of purchases per second, the fastest first.
pub(super) fn pace(html: &mut Html, crowds: &[Crowd<'_>]) {
    let lead = "Purchases per second, and as a share of the ceiling: the same messages, answered without a database.";
    section(html, "How fast is each way to sell?", lead, |html| {
        legend(html, &forms(crowds));
        each_crowd(html, "pace", crowds, |html, crowd| {
            let mut ways = crowd.ways.clone();
            ways.sort_by(|one, other| other.purchases_per_second.total_cmp(&one.purchases_per_second));
            let ceiling = crowd.ceiling.map(|row| row.purchases_per_second);
            let most = ways.iter().map(|row| row.purchases_per_second).chain(ceiling).fold(0.0, f64::max);
            let marks: Vec<Mark> = ceiling
                .map(|pace| Mark {
                    class: "ceiling",
                    label: format!("ceiling {}", decimal(pace, 0)),
                    at: share_of(pace, most),
                })
                .into_iter()
                .collect();
            let rows: Vec<Lane> = ways.into_iter().map(|row| bar(row, most)).collect();
            lanes(html, &crowd.title(), &marks, &rows);
        });
    });
}

fn bar(row: &Row, most: f64) -> Lane {
    let to = share_of(row.purchases_per_second, most);
    Lane {
        name: row.name.clone(),
        paints: vec![Paint { class: class(row.form), from: 0.0, to }],
        figure: decimal(row.purchases_per_second, 0),
        remark: row.ratio.map(|ratio| format!("{ratio:.2} ×")).unwrap_or_default(),
    }
}

/// How a form is painted, in all charts.
fn class(form: Form) -> &'static str {
    match form {
        Form::Ceiling => "ceiling",
        Form::Batched => "batched",
        Form::OneByOne => "one-by-one",
        Form::Competing => "competing",
        Form::Http => "http",
    }
}

/// What is painted how, of the forms that are there.
fn forms(crowds: &[Crowd<'_>]) -> Vec<(&'static str, &'static str)> {
    let forms = [
        (Form::Batched, "on the queue, batched"),
        (Form::OneByOne, "on the queue, one by one"),
        (Form::Competing, "on the queue, competing"),
        (Form::Http, "straight to an HTTP server"),
    ];
    let is_there = |form| crowds.iter().any(|crowd| crowd.ways.iter().any(|row| row.form == form));
    forms.into_iter().filter(|(form, _)| is_there(*form)).map(|(form, meaning)| (class(form), meaning)).collect()
}

/// From the median to the 99th percentile, on a scale of tenfold steps.
pub(super) fn latency(html: &mut Html, crowds: &[Crowd<'_>]) {
    let lead = "Each bar begins where half of the buyers had their answer and ends where 99 % had it. Each step of the \
                scale is ten times the one before.";
    section(html, "How long did buyers wait?", lead, |html| {
        legend(html, &forms(crowds));
        let ways = || crowds.iter().flat_map(|crowd| &crowd.ways);
        // One scale for all groups, so that they can be compared.
        let least = ways().map(|row| row.latency_ms.p50).fold(f64::INFINITY, f64::min);
        let most = ways().map(|row| row.latency_ms.p99).fold(LATENCY_MS_MIN, f64::max);
        let (first, last) = (decade(least).floor(), decade(most).ceil().max(decade(least).floor() + 1.0));
        let at = |ms: f64| share_of(decade(ms) - first, last - first);
        #[allow(clippy::cast_possible_truncation)]
        let decades = first as i32..=last as i32;
        let marks: Vec<Mark> = decades.map(|power| tick(10_f64.powi(power), at)).collect();
        each_crowd(html, "latency", crowds, |html, crowd| {
            let mut ways = crowd.ways.clone();
            ways.sort_by(|one, other| one.latency_ms.p50.total_cmp(&other.latency_ms.p50));
            let range = |row: &Row| Lane {
                name: row.name.clone(),
                paints: vec![Paint {
                    class: class(row.form),
                    from: at(row.latency_ms.p50),
                    to: at(row.latency_ms.p99),
                }],
                figure: format!("{} – {}", time(row.latency_ms.p50), time(row.latency_ms.p99)),
                remark: String::new(),
            };
            lanes(html, &crowd.title(), &marks, &ways.into_iter().map(range).collect::<Vec<_>>());
        });
    });
}

fn decade(ms: f64) -> f64 {
    if ms.is_finite() { ms.max(LATENCY_MS_MIN).log10() } else { 0.0 }
}

fn tick(ms: f64, at: impl Fn(f64) -> f64) -> Mark {
    let label = if ms >= 1e3 { format!("{} s", ms / 1e3) } else { format!("{ms} ms") };
    Mark { class: "tick", label, at: at(ms) }
}

/// With a digit or two behind the point where there are few before it.
fn time(ms: f64) -> String {
    match ms {
        1e4.. => format!("{} s", decimal(ms / 1e3, 1)),
        1e3.. => format!("{} s", decimal(ms / 1e3, 2)),
        1e2.. => format!("{} ms", decimal(ms, 0)),
        _few => format!("{} ms", decimal(ms, 1)),
    }
}
