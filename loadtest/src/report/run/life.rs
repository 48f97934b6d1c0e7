//! What became of the orders of a sale, and the lives that were shown after it.

use super::super::html::Html;
use super::super::parts::{Cell, Column, Tone, section, table, tiles};
use super::{latency_table, share_lane};
use crate::orders::report::{DemoStep, OrdersReport};
use crate::outcome::Outcome;
use crate::report::parts::lanes;
use crate::summary::figures::{count, decimal, plural, share};

/// Both sections, where there is something to tell.
pub(super) fn life(html: &mut Html, outcome: &Outcome) {
    if let Some(life) = &outcome.life {
        lived(html, life);
    }
    if let Some(steps) = &outcome.shown {
        shown(html, steps);
    }
}

fn lived(html: &mut Html, life: &OrdersReport) {
    let lead = "Each order ended once: paid, cancelled, or expired when its hold ran out, and its units came back.";
    section(html, "What became of the orders?", lead, |html| {
        let orders =
            [("paid", life.paid), ("cancelled", life.cancelled), ("expired", life.expired), ("still held", life.held)];
        let all = orders.iter().map(|(_, number)| number).sum();
        let rows =
            orders.map(|(name, number)| share_lane(("accent", name.to_owned()), number, all, share(number, all)));
        lanes(html, "Orders by how they ended", &[], &rows);
        let asked = format!(
            "{}; {} asked, {} spoilt",
            plural(life.refunds, "refund"),
            count(life.gateway_requests),
            count(life.gateway_spoilt)
        );
        let again = format!("{} published again", count(life.duplicate_events));
        let mut figures = vec![
            ("charges at the gateway", count(life.charges), asked),
            ("payments declined", count(life.declined), "by the gateway".to_owned()),
            ("events", count(life.events), again),
        ];
        if let Some(quiet) = life.quiet {
            let pace = format!("{} per second without", decimal(quiet.purchases_per_second, 0));
            figures.push(("of the pace without all this", format!("{:.2} ×", quiet.ratio), pace));
        }
        tiles(html, &figures);
        let latencies = [
            ("from the purchase's verdict to the payment's", life.payment_latency_ms),
            ("from what happened to its event's arrival", life.event_lag_ms),
        ];
        latency_table(html, "Latency after the sale in milliseconds", &latencies);
    });
}

fn shown(html: &mut Html, steps: &[DemoStep]) {
    let lead =
        "After the sale, on an item of its own: a winner pays, and a unit that is not paid for finds its next buyer.";
    section(html, "What is an order's life like?", lead, |html| {
        let row = |step: &DemoStep| {
            let came = Cell(step.came.clone(), Tone::Good);
            vec![format!("{:.2}", step.seconds).into(), step.what.clone().into(), came]
        };
        let columns = [Column::Text("seconds"), Column::Text("what"), Column::Text("what came of it")];
        table(html, "The life of two orders", &columns, &steps.iter().map(row).collect::<Vec<_>>());
    });
}
