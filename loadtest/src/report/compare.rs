//! The page of a comparison: what won and whether every promise was kept, then pace, failures, latency and cost, then where.

mod failures;
mod figures;
mod pace;

use std::cmp::Reverse;

use super::html::Html;
use super::parts::{section, tiles};
use super::place::place;
use crate::compare::{Comparison, Form, Row};
use crate::summary::figures::{count, decimal, plural};

/// The page's title.
pub(super) const TITLE: &str = "Ways to sell, side by side · Turnstile";

/// Rows of the same number of buyers: these are what can be compared.
struct Crowd<'a> {
    buyers: u32,
    ceiling: Option<&'a Row>,
    /// All but the ceiling.
    ways: Vec<&'a Row>,
}

impl Crowd<'_> {
    /// Above each group, where there are several.
    fn title(&self) -> String {
        format!("{} at once", plural(self.buyers.into(), "buyer"))
    }
}

/// What is between the top of the page and the raw result.
pub(super) fn body(comparison: &Comparison) -> Html {
    let mut html = Html::default();
    let crowds = crowds(comparison);
    head(&mut html, comparison, &crowds);
    pace::pace(&mut html, &crowds);
    notes(&mut html, comparison, &crowds);
    figures::table_of_all(&mut html, &crowds);
    failures::failures(&mut html, &crowds);
    pace::latency(&mut html, &crowds);
    figures::cost(&mut html, &crowds);
    figures::repetitions(&mut html, &crowds);
    let scenario = &comparison.scenario;
    let buyers: Vec<String> = scenario.buyers.iter().map(|&buyers| count(buyers.into())).collect();
    let pairs = [
        ("buyers at once", buyers.join(", ")),
        ("units", scenario.stock.map_or_else(|| "half as many".to_owned(), count)),
        ("items", count(scenario.items.into())),
        ("workers", count(scenario.workers.into())),
        ("in flight, competing", count(scenario.in_flight.into())),
        ("payment, by HTTP", format!("{} ms", scenario.payment_ms)),
        ("repetitions, in turns", count(scenario.repetitions.into())),
        ("seed", scenario.seed.to_string()),
    ];
    let servers = &comparison.servers;
    let versions = [
        ("RabbitMQ", Some(servers.rabbitmq.as_str())),
        ("PostgreSQL", Some(servers.postgresql.as_str())),
        ("Redis", servers.redis.as_deref()),
    ];
    place(&mut html, &pairs, versions, &comparison.machine);
    html
}

/// The groups, the largest first: it is what all this is for.
fn crowds(comparison: &Comparison) -> Vec<Crowd<'_>> {
    let crowd = |&buyers: &u32| {
        let rows = comparison.rows.iter().filter(move |row| row.buyers == buyers);
        let (ceilings, ways) = rows.partition::<Vec<_>, _>(|row| row.form == Form::Ceiling);
        Crowd { buyers, ceiling: ceilings.first().copied(), ways }
    };
    let mut crowds: Vec<_> = comparison.scenario.buyers.iter().map(crowd).collect();
    crowds.retain(|crowd| !crowd.ways.is_empty());
    crowds.sort_by_key(|crowd| Reverse(crowd.buyers));
    crowds
}

fn head(html: &mut Html, comparison: &Comparison, crowds: &[Crowd<'_>]) {
    let largest = crowds.first();
    let fastest = largest.and_then(fastest);
    html.markup("<header><p class=\"eyebrow\">Turnstile · ways to sell, side by side</p><h1>");
    match fastest {
        Some(row) => html.text(format_args!(
            "Fastest: {}\u{a0}— {} purchases per second",
            row.name,
            decimal(row.purchases_per_second, 0)
        )),
        None => html.text("No way to sell answered everybody"),
    };
    html.markup("</h1>");
    let broken = comparison.broken.len();
    if comparison.passed {
        html.markup("<p class=\"verdict good\"><strong>✓ Passed</strong> ");
        html.text("Every promise was kept in every sale.").markup("</p>");
    } else {
        html.markup("<p class=\"verdict bad\"><strong>✗ BROKEN</strong> ");
        html.text(format_args!("Not kept: {}.", plural(broken as u64, "promise"))).markup("</p>");
    }
    let figures = match comparison.scenario.repetitions {
        1 => "each was run once.".to_owned(),
        runs => format!("each figure is the median of {runs} runs, taken in turns."),
    };
    html.markup("<p class=\"lead\">")
        .text(format_args!("The same buyers, the same stock, the same machine; {figures}"));
    html.markup("</p>");
    tiles(html, &tiles_of(crowds, largest, fastest));
    html.markup("</header>\n");
    if !comparison.passed {
        section(html, "What was not kept?", "", |html| {
            html.markup("<ul class=\"bad\">");
            for broken in &comparison.broken {
                html.markup("<li>").text(broken).markup("</li>");
            }
            html.markup("</ul>");
        });
    }
}

/// In sentences, whoever wins.
fn notes(html: &mut Html, comparison: &Comparison, crowds: &[Crowd<'_>]) {
    section(html, "What does that say?", "", |html| {
        each_crowd(html, "notes", crowds, |html, crowd| {
            html.markup("<h3>").text(crowd.title()).markup("</h3><ul>");
            for note in crate::compare::notes(comparison, crowd.buyers) {
                html.markup("<li>").text(note).markup("</li>");
            }
            html.markup("</ul>");
        });
    });
}

fn tiles_of<'a>(
    crowds: &[Crowd<'_>],
    largest: Option<&Crowd<'_>>,
    fastest: Option<&Row>,
) -> Vec<(&'a str, String, String)> {
    let mut tiles = Vec::new();
    if let Some((row, crowd)) = fastest.zip(largest) {
        if let Some((ratio, ceiling)) = row.ratio.zip(crowd.ceiling) {
            let ceiling = format!("{} per second without a database", decimal(ceiling.purchases_per_second, 0));
            tiles.push(("of the ceiling", format!("{ratio:.2} ×"), ceiling));
        }
        let p99 = format!("{} ms", decimal(row.latency_ms.p99, 0));
        tiles.push(("99 % of its buyers knew within", p99, crowd.title()));
    }
    for (label, is_http) in [("failed on the queue", false), ("failed at the HTTP doors", true)] {
        let rows = crowds.iter().flat_map(|crowd| &crowd.ways).filter(|row| (row.form == Form::Http) == is_http);
        let (failed, buyers) =
            rows.fold((0, 0), |(failed, buyers), row| (failed + row.failed, buyers + u64::from(row.buyers)));
        if buyers > 0 {
            tiles.push((label, count(failed), format!("of {}, over all sales", plural(buyers, "buyer"))));
        }
    }
    tiles
}

/// Of those who answered everybody.
fn fastest<'a>(crowd: &Crowd<'a>) -> Option<&'a Row> {
    let answered = crowd.ways.iter().filter(|row| row.failed == 0);
    answered.max_by(|one, other| one.purchases_per_second.total_cmp(&other.purchases_per_second)).copied()
}

/// What is painted for each group, side by side.
fn each_crowd(html: &mut Html, class: &str, crowds: &[Crowd<'_>], show: impl Fn(&mut Html, &Crowd<'_>)) {
    html.markup("<div class=\"groups ").text(class).markup("\">");
    for crowd in crowds {
        html.markup("<div class=\"group\">");
        show(html, crowd);
        html.markup("</div>");
    }
    html.markup("</div>");
}
