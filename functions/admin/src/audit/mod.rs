//! `audit`: stock, orders, verdicts, payments and outbox checked against each other, at one instant.
//!
//! It reads the tables whole, by a snapshot that keeps old versions of hot rows alive for as long as that takes: seconds
//! for millions of orders, and never longer than it may. It takes no lock that a sale would feel.

mod checks;

pub use checks::{CHECKS, Check};

use crate::{
    failure::Failure,
    read::{self, Way},
    report::{Report, Shape, Style, counted, span_text, time_text},
};
use clap::Args;
use serde::Serialize;
use shared::config::StoreOptions;
use sqlx::{PgConnection, Row};
use time::OffsetDateTime;

/// What waits in the outbox: rows, events, and how long the oldest has been there, at the instant that the checks see. A
/// clock that goes on would count the time that they take as well, for a row that was told long since.
pub const OUTBOX: &str = "
SELECT count(*) AS rows, coalesce(sum(coalesce(cardinality(order_ids), 1)), 0)::bigint AS events,
       greatest(extract(epoch FROM now() - min(at)) * 1000, 0)::bigint AS lag_ms, now() AS now
FROM outbox";

/// What `audit` takes.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// What counts as late.
    #[command(flatten)]
    pub limits: Limits,
    /// How many offenders of each check are named; all are counted.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub names: u32,
    /// How long each check may read, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub check_seconds_max: u32,
    /// The database.
    #[command(flatten)]
    pub store: StoreOptions,
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
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Whether every check holds.
    pub holds: bool,
    /// In reading order.
    pub checks: Vec<Checked>,
    /// What waits to be told.
    pub outbox: Outbox,
}

/// What a check found.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Its name.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// What should be.
    pub should: &'static str,
    /// How many offend.
    pub offenders: i64,
    /// The first of them.
    pub named: Vec<String>,
}

/// What waits to be told.
#[derive(Debug, Serialize)]
pub struct Outbox {
    /// Commits.
    pub rows: i64,
    /// Events.
    pub events: i64,
    /// How long the oldest has waited, in milliseconds, at the instant that was looked at.
    pub lag_ms: i64,
}

/// Runs the command.
///
/// # Errors
/// The database's. What is off is in the report.
pub async fn run(options: Options, shape: Shape) -> Result<Report, Failure> {
    let pool = read::open(&options.store).await?;
    let audit = read::look(&pool, Way::Whole, options.check_seconds_max, async |connection| {
        audit(connection, options.limits, options.names).await
    })
    .await?;
    Ok(Report::judged(shape, audit.holds, &audit, |style| text(&audit, style)))
}

/// Makes every check, in the transaction at hand.
///
/// # Errors
/// The database's.
pub async fn audit(connection: &mut PgConnection, limits: Limits, names: u32) -> Result<Audit, sqlx::Error> {
    let mut checks = Vec::new();
    for check in CHECKS {
        let mut query = sqlx::query(check.sql).bind(i64::from(names));
        if let Some(limit) = check.limit.of(limits) {
            query = query.bind(f64::from(limit));
        }
        let rows = query.fetch_all(&mut *connection).await?;
        let offenders = rows.first().map_or(Ok(0), |row| row.try_get("offenders"))?;
        let named = rows.iter().map(|row| row.try_get("name")).collect::<Result<_, _>>()?;
        checks.push(Checked { name: check.name, holds: rows.is_empty(), should: check.should, offenders, named });
    }
    let row = sqlx::query(OUTBOX).fetch_one(connection).await?;
    let outbox = Outbox { rows: row.try_get("rows")?, events: row.try_get("events")?, lag_ms: row.try_get("lag_ms")? };
    let holds = checks.iter().all(|check| check.holds);
    Ok(Audit { at: row.try_get("now")?, holds, checks, outbox })
}

fn text(audit: &Audit, style: Style) -> String {
    let mut text = format!("{}\n", style.title(&format!("Audit at {}", time_text(audit.at))));
    for check in &audit.checks {
        let mark = if check.holds { style.good("✓") } else { style.bad("✗") };
        text += &format!("  {mark} {:<26}  {}\n", check.name, check.should);
        if check.holds {
            continue;
        }
        let more = check.offenders - i64::try_from(check.named.len()).unwrap_or(i64::MAX);
        let more = if more > 0 { format!("\n      and {more} more") } else { String::new() };
        text += &format!("      {}{more}\n", style.bad(&check.named.join("\n      ")));
    }
    let Outbox { rows, events, lag_ms } = &audit.outbox;
    let (events, rows) = (counted(*events, "event"), counted(*rows, "row"));
    let oldest = if audit.outbox.rows > 0 { format!(", the oldest for {}", span_text(*lag_ms)) } else { String::new() };
    text += &format!("  Outbox: {events} in {rows}{oldest}.\n");
    let off = audit.checks.iter().filter(|check| !check.holds).count();
    text + &match off {
        0 => style.good("Everything holds."),
        1 => style.bad("One check is off."),
        _ => style.bad(&format!("{off} checks are off.")),
    }
}
