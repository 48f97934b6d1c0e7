//! `audit`: stock, orders, verdicts, payments and outbox checked against each other, at one instant.
//!
//! It reads the tables whole, by a snapshot that keeps old versions of hot rows alive for as long as that takes: seconds
//! for millions of orders, and never longer than it may. It takes no lock that a sale would feel.

mod checks;

pub use checks::CHECKS;

use crate::{
    failure::Failure,
    look::{Scan, look},
    report::{Document, counted, span_text, time_text},
};
use clap::Args;
use serde::Serialize;
use shared::{config::StoreOptions, table::Style};
use sqlx::{FromRow, PgConnection};
use time::OffsetDateTime;

/// What waits in the outbox at the instant that the checks see. A clock that goes on would count the time that they take.
const OUTBOX: &str = "
SELECT count(*) AS rows, coalesce(sum(coalesce(cardinality(order_ids), 1)), 0)::bigint AS events,
       greatest(extract(epoch FROM now() - min(at)) * 1000, 0)::bigint AS lag_ms, now() AS at
FROM outbox";

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    limits: Limits,
    /// How many offenders of each check are named; all are counted.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    names: u32,
    /// How long each check may read, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    check_seconds_max: u32,
    #[command(flatten)]
    store: StoreOptions,
}

/// What counts as late.
#[derive(Debug, Clone, Copy, Args)]
pub struct Limits {
    /// How long verdicts are kept, in days, as purchase's --keep-verdicts-days says: of older orders the verdict is gone.
    #[arg(long, default_value_t = 30, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub verdicts_days: u32,
    /// How long an order may be in `paying`, in seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub paying_seconds_max: u32,
    /// How long a hold may outlive its time, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub overdue_seconds_max: u32,
    /// How long an event may wait in the outbox, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub outbox_lag_seconds_max: u32,
}

/// The document of `audit --json`.
#[derive(Debug, Serialize)]
pub struct Audit {
    /// The instant that was looked at, by the database's clock.
    #[serde(with = "shared::messages::time")]
    pub at: OffsetDateTime,
    pub holds: bool,
    pub checks: Vec<Checked>,
    pub outbox: Outbox,
}

/// What a check found.
#[derive(Debug, Serialize)]
pub struct Checked {
    pub name: &'static str,
    pub holds: bool,
    pub should: &'static str,
    pub offenders: i64,
    /// The first of them.
    pub named: Vec<String>,
}

/// What waits to be published.
#[derive(Debug, Serialize, FromRow)]
pub struct Outbox {
    #[serde(skip)]
    at: OffsetDateTime,
    pub rows: i64,
    pub events: i64,
    /// How long the oldest has waited.
    pub lag_ms: i64,
}

pub(crate) async fn run(options: Options) -> Result<Audit, Failure> {
    let Options { limits, names, check_seconds_max: seconds_max, store } = options;
    look(&store, Scan::Whole { seconds_max }, async |connection| audit(connection, limits, names).await).await
}

/// Makes every check, in the transaction at hand.
///
/// # Errors
/// The database's.
pub async fn audit(connection: &mut PgConnection, limits: Limits, names: u32) -> Result<Audit, sqlx::Error> {
    let mut checks = Vec::new();
    for check in CHECKS {
        let mut query = sqlx::query_as::<_, (String, i64)>(check.sql).bind(i64::from(names));
        if let Some(limit) = check.limit {
            query = query.bind(f64::from(limit(limits)));
        }
        let rows = query.fetch_all(&mut *connection).await?;
        let (holds, offenders) = (rows.is_empty(), rows.first().map_or(0, |(_, offenders)| *offenders));
        let named = rows.into_iter().map(|(name, _)| name).collect();
        checks.push(Checked { name: check.name, holds, should: check.should, offenders, named });
    }
    let outbox: Outbox = sqlx::query_as(OUTBOX).fetch_one(connection).await?;
    let holds = checks.iter().all(|check| check.holds);
    Ok(Audit { at: outbox.at, holds, checks, outbox })
}

impl Document for Audit {
    fn text(&self, style: Style) -> String {
        let mut text = format!("{}\n", style.title(&format!("Audit at {}", time_text(self.at))));
        for check in &self.checks {
            let mark = if check.holds { style.good("✓") } else { style.bad("✗") };
            text += &format!("  {mark} {:<26}  {}\n", check.name, check.should);
            if check.holds {
                continue;
            }
            let more = check.offenders - i64::try_from(check.named.len()).unwrap_or(i64::MAX);
            let more = if more > 0 { format!("\n      and {more} more") } else { String::new() };
            text += &format!("      {}{more}\n", style.bad(&check.named.join("\n      ")));
        }
        let Outbox { rows, events, lag_ms, .. } = self.outbox;
        let oldest = if rows > 0 { format!(", the oldest for {}", span_text(lag_ms)) } else { String::new() };
        text += &format!("  Outbox: {} in {}{oldest}.\n", counted(events, "event"), counted(rows, "row"));
        text + &match self.checks.iter().filter(|check| !check.holds).count() {
            0 => style.good("Everything holds."),
            1 => style.bad("One check is off."),
            off => style.bad(&format!("{off} checks are off.")),
        }
    }

    fn is_well(&self) -> bool {
        self.holds
    }
}
