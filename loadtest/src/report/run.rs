//! The page of one sale: the verdict first, then how it went, then where.

mod life;

use super::html::Html;
use super::parts::{Cell, Column, Lane, Paint, Tone, chart, folded, lanes, section, share_of, table, tiles};
use super::place::place;
use crate::queues::DepthSample;
use crate::result::Outcome;
use crate::stats::Latency;
use crate::summary::figures::{count, decimal, plural, share};
use crate::summary::{circumstances, endings, event_text, headline};

/// The most rows of the table behind the chart over time: it is for reading, and the JSON has the rest.
const SAMPLES_SHOWN_MAX: usize = 25;
/// The most crashes that are listed.
const CRASHES_SHOWN_MAX: usize = 100;

/// The page's title.
pub(super) fn title(outcome: &Outcome) -> String {
    format!("{} · Turnstile", headline(outcome))
}

/// What is between the top of the page and the raw result.
pub(super) fn body(outcome: &Outcome) -> Html {
    let mut html = Html::default();
    head(&mut html, outcome);
    invariants(&mut html, outcome);
    over_time(&mut html, outcome);
    latency(&mut html, outcome);
    contention(&mut html, outcome);
    workers(&mut html, outcome);
    meanwhile(&mut html, outcome);
    life::life(&mut html, outcome);
    let scenario = &outcome.scenario;
    let batch = scenario.batch_max.map_or_else(|| "the worker's own".to_owned(), |most| count(most.into()));
    let rate = if scenario.rate > 0.0 { format!("{} per second", scenario.rate) } else { "all at once".to_owned() };
    let pairs = [
        ("buyers", count(scenario.buyers.into())),
        ("arrivals", rate),
        ("units", count(scenario.stock)),
        ("items", count(scenario.items.into())),
        ("workers", count(scenario.workers.into())),
        ("strategy", scenario.strategy.to_owned()),
        ("largest batch", batch),
        ("seed", scenario.seed.to_string()),
    ];
    let servers = &outcome.servers;
    let versions = [
        ("RabbitMQ", Some(servers.rabbitmq.as_str())),
        ("PostgreSQL", servers.postgresql.as_deref()),
        ("Redis", servers.redis.as_deref()),
    ];
    place(&mut html, &pairs, versions, &outcome.machine);
    html
}

fn head(html: &mut Html, outcome: &Outcome) {
    html.markup("<header><p class=\"eyebrow\">Turnstile · one sale</p><h1>").text(headline(outcome));
    html.markup("</h1>");
    let all = outcome.invariants.len();
    let broken = outcome.invariants.iter().filter(|invariant| !invariant.holds).count();
    if outcome.passed {
        html.markup("<p class=\"verdict good\"><strong>✓ Passed</strong> ");
        html.text(format_args!("All {all} promises were kept."));
    } else {
        html.markup("<p class=\"verdict bad\"><strong>✗ BROKEN</strong> ");
        html.text(format_args!("{broken} of {all} promises were not kept."));
    }
    html.markup("</p><p class=\"lead\">").text(circumstances(outcome)).markup("</p>");
    let ms = |figure: f64| format!("{} ms", decimal(figure, 1));
    let mut figures = vec![
        ("purchases per second", decimal(outcome.purchases_per_second, 0), "verdicts by seconds".to_owned()),
        ("half of them knew within", ms(outcome.latency_ms.p50), "p50".to_owned()),
        ("99 % of them within", ms(outcome.latency_ms.p99), "p99".to_owned()),
        ("most buyers waiting", count(outcome.waiting_peak), "at one moment".to_owned()),
    ];
    if let Some(ceiling) = outcome.ceiling {
        let limit = format!("{} per second without a database", decimal(ceiling.purchases_per_second, 0));
        let ratio = ceiling.ratio.map_or_else(|| "—".to_owned(), |ratio| format!("{ratio:.2} ×"));
        figures.insert(1, ("of the ceiling", ratio, limit));
    }
    tiles(html, &figures);
    html.markup("</header>\n");
}

fn invariants(html: &mut Html, outcome: &Outcome) {
    section(html, "Was every promise kept?", "", |html| {
        // Whoever looks for what broke finds it first.
        let mut invariants: Vec<_> = outcome.invariants.iter().collect();
        invariants.sort_by_key(|invariant| invariant.holds);
        let rows: Vec<Vec<Cell>> = invariants
            .into_iter()
            .map(|invariant| {
                let (word, tone) = if invariant.holds { ("✓ kept", Tone::Good) } else { ("✗ BROKEN", Tone::Bad) };
                vec![
                    invariant.name.replace('_', " ").into(),
                    Cell(word.to_owned(), tone),
                    Cell(invariant.detail.clone(), if invariant.holds { Tone::Dim } else { Tone::Bad }),
                ]
            })
            .collect();
        table(html, "Promises", &[Column::Text("promise"), Column::Text(""), Column::Text("what was found")], &rows);
        let buyers = u64::from(outcome.scenario.buyers);
        let endings = endings(outcome).map(|(name, number)| {
            // A verdict of the market is no fault; one of the message, or none, is.
            let class = if ["invalid", "none"].contains(&name) { "bad" } else { "accent" };
            share_lane((class, name.to_owned()), number, buyers, share(number, buyers))
        });
        lanes(html, "What the buyers were told", &[], &endings);
    });
}

fn over_time(html: &mut Html, outcome: &Outcome) {
    let Some(last) = outcome.queue_depth.last() else { return };
    let lead = "Buyers who wait for their verdict, requests that wait in the queue, and sales, over time.";
    section(html, "Did the queue take the rush, and did it drain?", lead, |html| {
        let spoken = format!(
            "At most {} waited, and {} were in the queue, at one moment. Sold until the end, at {3} s: {2}.",
            plural(outcome.waiting_peak, "buyer"),
            plural(outcome.queue_depth_peak, "request"),
            count(last.sold),
            seconds(last.at_ms)
        );
        chart(html, "over-time", &spoken);
        html.markup("<p class=\"lead\">").text(&spoken).markup("</p>");
        folded(html, "Figures", |html| {
            let rows: Vec<Vec<Cell>> = some(&outcome.queue_depth).into_iter().map(sample_row).collect();
            let columns = [
                Column::Text("seconds"),
                Column::Figure("buyers waiting"),
                Column::Figure("in the queue"),
                Column::Figure("sold"),
            ];
            table(html, "Over time", &columns, &rows);
        });
    });
}

fn sample_row(sample: &DepthSample) -> Vec<Cell> {
    let figures = [sample.waiting, sample.messages, sample.sold].map(|number| Cell::from(count(number)));
    std::iter::once(Cell::from(seconds(sample.at_ms))).chain(figures).collect()
}

/// The samples, or so many of them, evenly, the last among them.
fn some(samples: &[DepthSample]) -> Vec<&DepthSample> {
    let step = samples.len().div_ceil(SAMPLES_SHOWN_MAX).max(1);
    let mut some: Vec<&DepthSample> = samples.iter().rev().step_by(step).collect();
    some.reverse();
    some
}

#[allow(clippy::cast_precision_loss)]
fn seconds(milliseconds: u64) -> String {
    format!("{:.2}", milliseconds as f64 / 1e3)
}

fn latency(html: &mut Html, outcome: &Outcome) {
    let lead = "From the moment a buyer meant to send to the verdict. The further right, the rarer: each step of the \
                scale is a tenth of the buyers before it.";
    section(html, "How long did buyers wait, and the unluckiest of them?", lead, |html| {
        if !outcome.latency_curve.is_empty() {
            let latency = outcome.latency_ms;
            let spoken = format!(
                "Half of the verdicts came within {} ms, 99 % within {} ms, the last after {} ms.",
                decimal(latency.p50, 1),
                decimal(latency.p99, 1),
                decimal(latency.max, 1)
            );
            chart(html, "latency", &spoken);
        }
        latency_table(html, "Latency in milliseconds", &[("to the verdict", outcome.latency_ms)]);
    });
}

/// Latencies, a row each.
fn latency_table(html: &mut Html, caption: &str, latencies: &[(&str, Latency)]) {
    let columns =
        [Column::Text(""), Column::Figure("min"), Column::Figure("p50"), Column::Figure("p90"), Column::Figure("p95")];
    let columns = [&columns[..], &[Column::Figure("p99"), Column::Figure("p99.9"), Column::Figure("max")]].concat();
    let row = |(name, latency): &(&str, Latency)| {
        let Latency { min, p50, p90, p95, p99, p999, max } = *latency;
        let figures = [min, p50, p90, p95, p99, p999, max].map(|figure| Cell::from(decimal(figure, 1)));
        std::iter::once(Cell::from(*name)).chain(figures).collect()
    };
    table(html, caption, &columns, &latencies.iter().map(row).collect::<Vec<_>>());
}

fn contention(html: &mut Html, outcome: &Outcome) {
    if outcome.servers.postgresql.is_none() {
        return;
    }
    let lead = "A decision is about a whole batch of one item. One that finds the item changed under it is a conflict, and \
                is made again; no buyer sees it.";
    section(html, "Did workers get in each other's way?", lead, |html| {
        let [attempts, conflicts] =
            [outcome.attempts, outcome.conflicts].map(|number| u64::try_from(number).unwrap_or(0));
        let stood = attempts.saturating_sub(conflicts);
        let verdicts = u64::from(outcome.scenario.buyers) - outcome.lost.min(outcome.scenario.buyers.into());
        let rows = [("accent", "decisions that stood", stood), ("second", "conflicts, decided again", conflicts)].map(
            |(class, name, number)| share_lane((class, name.to_owned()), number, attempts, share(number, attempts)),
        );
        lanes(html, "Decisions attempted", &[], &rows);
        #[allow(clippy::cast_precision_loss)]
        let per_decision = share_of(verdicts as f64, attempts as f64);
        html.markup("<p class=\"lead\">").text(plural(attempts, "decision")).markup(" for ");
        html.text(plural(verdicts, "verdict")).text(format_args!(": {} each.", decimal(per_decision, 1)));
        html.markup("</p>");
    });
}

fn workers(html: &mut Html, outcome: &Outcome) {
    if outcome.workers.is_empty() {
        return;
    }
    section(html, "Who did the work?", "", |html| {
        let all = outcome.workers.iter().map(|worker| worker.verdicts).sum();
        let rows: Vec<Lane> = outcome
            .workers
            .iter()
            .map(|worker| {
                let id = if worker.id.is_empty() { "(nameless)" } else { &worker.id };
                let memory = worker.rss_mib.map(|mib| format!(" · {mib:.0} MiB")).unwrap_or_default();
                let remark = format!("{}{memory}", share(worker.verdicts, all));
                share_lane(("accent", id.to_owned()), worker.verdicts, all, remark)
            })
            .collect();
        lanes(html, "Verdicts by worker", &[], &rows);
    });
}

/// A lane of a number as a part of a whole.
#[allow(clippy::cast_precision_loss)]
fn share_lane((class, name): (&'static str, String), part: u64, whole: u64, remark: String) -> Lane {
    let paints = vec![Paint { class, from: 0.0, to: share_of(part as f64, whole as f64) }];
    Lane { name, paints, figure: count(part), remark }
}

/// What was done to workers and broker; the numbers are those in the chart over time.
fn meanwhile(html: &mut Html, outcome: &Outcome) {
    if outcome.events.is_empty() && outcome.crashes.is_empty() {
        return;
    }
    section(html, "What was done to workers and broker meanwhile?", "", |html| {
        let events = outcome.events.iter().zip(1_u64..).map(|(event, number)| {
            let at = event.at.to_string();
            vec![count(number).into(), format!("{:.2}", event.seconds).into(), at.into(), event_text(event).into()]
        });
        let crashes = outcome.crashes.iter().take(CRASHES_SHOWN_MAX).map(|crash| {
            let what = format!("{} killed and replaced", crash.worker);
            vec!["×".into(), format!("{:.2}", crash.seconds).into(), "".into(), what.into()]
        });
        let rows: Vec<Vec<Cell>> = events.chain(crashes).collect();
        let columns =
            [Column::Text("in the chart"), Column::Figure("seconds"), Column::Figure("answered"), Column::Text("what")];
        table(html, "Events", &columns, &rows);
        if outcome.crashes.len() > CRASHES_SHOWN_MAX {
            let all = count(outcome.crashes.len() as u64);
            html.markup("<p class=\"lead\">").text(format_args!("All {all} crashes are in the JSON.")).markup("</p>");
        }
    });
}
