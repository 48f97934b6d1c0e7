//! `audit`: stock, orders, verdicts, payments and outbox checked against each other, at one instant.
//!
//! It reads the tables whole, by a snapshot that keeps old versions of hot rows alive for as long as that takes: seconds
//! for millions of orders, and never longer than it may. It takes no lock that a sale would feel.

use crate::failure::Failure;
use crate::look::{Scan, look_at};
use crate::report::{Document, counted, span_text, time_text};
use crate::{NAME, known};
use clap::Args;
use serde::Serialize;
use shared::config::StoreOptions;
use shared::db;
use shared::table::Style;
use sqlx::PgConnection;
use sqlx_macros::FromRow;
use std::path::PathBuf;
use time::OffsetDateTime;

/// One statement: the names of the offenders, in reading order; none where all is well. $2 to $6 are the [`Limits`].
#[derive(Clone, Copy)]
pub struct Check {
    pub name: &'static str,
    /// What should be.
    pub should: &'static str,
    sql: &'static str,
}

#[derive(Debug, Args)]
pub struct Options {
    /// JSON lines of what others know of orders: our events, each as it was published; or the charges that a gateway has
    /// captured and not refunded, each with its order_id. Orders that the tables lack, or that had come further, are off, and
    /// what to do is said of each: for after a backup was restored. May be given more than once; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    known: Vec<PathBuf>,
    #[command(flatten)]
    limits: Limits,
    /// How many offenders of each check are named; all are counted.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
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
    /// The same where the gateway has said that it has not decided: longer than payment's --payment-seconds-max.
    #[arg(long, default_value_t = 1_200, value_name = "SECONDS")]
    pub pending_seconds_max: u32,
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
    let Options { known, limits, names, check_seconds_max: seconds_max, store } = options;
    let pool = db::open_as_it_is(&store, NAME).await?;
    // First, because a line may be bad.
    let off = known::compare(&pool, &known).await?;
    let mut audit =
        look_at(&pool, Scan::Whole { seconds_max }, async |connection| audit(connection, limits, names).await).await?;
    if !known.is_empty() {
        let checks = KNOWN.into_iter().zip(off).map(|(check, off)| found(check, off, names));
        audit.checks.extend(checks);
        audit.holds = audit.checks.iter().all(|check| check.holds);
    }
    Ok(audit)
}

/// A check whose offenders are all there is to know.
fn found((name, should): (&'static str, &'static str), mut off: Vec<String>, names: u32) -> Checked {
    let (holds, offenders) = (off.is_empty(), i64::try_from(off.len()).unwrap_or(i64::MAX));
    off.truncate(usize::try_from(names).unwrap_or(usize::MAX));
    Checked { name, holds, should, offenders, named: off }
}

/// Makes every check, in the transaction at hand.
///
/// # Errors
/// The database's.
pub async fn audit(connection: &mut PgConnection, limits: Limits, names: u32) -> Result<Audit, sqlx::Error> {
    let Limits { verdicts_days, paying_seconds_max, pending_seconds_max, overdue_seconds_max, outbox_lag_seconds_max } =
        limits;
    let limits = [verdicts_days, paying_seconds_max, overdue_seconds_max, outbox_lag_seconds_max, pending_seconds_max];
    let mut checks = Vec::new();
    for Check { name, should, sql } in CHECKS {
        let counted = format!("SELECT name, count(*) OVER () FROM ({sql}) AS offending (name) LIMIT $1");
        let mut query = sqlx::query_as::<_, (String, i64)>(&counted).bind(i64::from(names));
        for limit in limits {
            query = query.bind(f64::from(limit));
        }
        let rows = query.fetch_all(&mut *connection).await?;
        let (holds, offenders) = (rows.is_empty(), rows.first().map_or(0, |(_, offenders)| *offenders));
        let named = rows.into_iter().map(|(name, _)| name).collect();
        checks.push(Checked { name, holds, should, offenders, named });
    }
    let outbox: Outbox = sqlx::query_as(OUTBOX).fetch_one(connection).await?;
    let holds = checks.iter().all(|check| check.holds);
    Ok(Audit { at: outbox.at, holds, checks, outbox })
}

/// With `--known`.
const KNOWN: [(&str, &str); 2] = [
    ("known_orders_exist", "each order that the files know is in the tables"),
    ("known_ends_are_there", "each order has come as far in the tables as in the files"),
];

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

/// What waits in the outbox at the instant that the checks see. A clock that goes on would count the time that they take.
const OUTBOX: &str = "
SELECT count(*) AS rows, coalesce(sum(coalesce(cardinality(order_ids), 1)), 0)::bigint AS events,
       greatest(extract(epoch FROM now() - min(at)) * 1000, 0)::bigint AS lag_ms, now() AS at
FROM outbox";

/// In reading order.
pub const CHECKS: [Check; 11] = [
    Check {
        name: "stock_conserved",
        should: "available + held + sold = stock, none below zero",
        sql: "
SELECT format('%s (%s + %s + %s, stock %s)', id, available, held, sold, stock)
FROM items WHERE available + held + sold <> stock OR least(available, held, sold) < 0
ORDER BY id",
    },
    Check {
        name: "stock_matches_orders",
        should: "held and sold of an item are what its orders add up to, with those that were deleted in their time",
        sql: "
WITH sums AS (
    SELECT item, coalesce(sum(quantity) FILTER (WHERE state IN ('reserved', 'paying')), 0) AS held,
           coalesce(sum(quantity) FILTER (WHERE state = 'paid'), 0) AS sold
    FROM (SELECT item, quantity, state FROM orders UNION ALL SELECT item, sold, 'paid' FROM orders_gone) AS known
    GROUP BY item
)
SELECT format('%s (held %s and sold %s, by its orders %s and %s)', coalesce(items.id, sums.item),
              coalesce(items.held::text, 'none'), coalesce(items.sold::text, 'none'),
              coalesce(sums.held, 0), coalesce(sums.sold, 0))
FROM items FULL JOIN sums ON sums.item = items.id
WHERE items.held IS DISTINCT FROM coalesce(sums.held, 0) OR items.sold IS DISTINCT FROM coalesce(sums.sold, 0)
ORDER BY coalesce(items.id, sums.item)",
    },
    // An order is inserted with its verdict, in one statement, with one time; the verdict leaves after its days and the
    // order stays. An hour is spared, so that none is missed that is just leaving. What `forget` took the request id from has no
    // verdict that is known to be its own.
    Check {
        name: "orders_have_verdicts",
        should: "each order came with a reserved verdict, as long as verdicts are kept",
        sql: "
SELECT format('%s (request %s)', id, request_id) FROM orders
WHERE created_at > now() - make_interval(days => $2::int) + interval '1 hour' AND request_id <> id::text AND NOT EXISTS (
    SELECT FROM verdicts
    WHERE split_part(verdicts.request_id, ' ', 1) = orders.request_id AND coalesce(verdicts.sender, '') = orders.sender
      AND verdicts.status = 'reserved' AND verdicts.item = orders.item)
ORDER BY id",
    },
    Check {
        name: "verdicts_have_orders",
        should: "each reserved verdict has the order that its buyer was told of, as long as verdicts are kept",
        sql: r#"
SELECT format('request %s (item %s)', request_id, item) FROM verdicts
WHERE status = 'reserved' AND decided_at > now() - make_interval(days => $2::int) AND fingerprint <> '00000000-0000-0000-0000-000000000000' AND NOT EXISTS (
    SELECT FROM orders
    WHERE orders.request_id = split_part(verdicts.request_id, ' ', 1) AND orders.sender = coalesce(verdicts.sender, '')
      AND orders.item = verdicts.item
      AND strpos(verdicts.reply, format('"order":{"id":"%s"', orders.id)) > 0)
ORDER BY request_id"#,
    },
    Check {
        name: "holds_end",
        should: "no reserved order is kept past its time (else: does release run?)",
        sql: "
SELECT format('%s (of %s, since %s)', id, item, hold_until) FROM orders
WHERE state = 'reserved' AND hold_until < now() - make_interval(secs => $4)
ORDER BY hold_until",
    },
    Check {
        name: "payments_end",
        should: "no order is being paid for, and no charge given back, without end (else: does payment run? what does `admin payment` say?)",
        sql: "
WITH under_way AS (
    SELECT id, item, said, (SELECT max(at) FROM order_history WHERE order_id = orders.id AND to_state = 'paying') AS since
    FROM orders LEFT JOIN payments ON payments.order_id = orders.id WHERE state = 'paying'
    UNION ALL
    SELECT id, item, said, void_at
    FROM orders JOIN payments ON payments.order_id = orders.id WHERE is_under_way AND state <> 'paying'
)
SELECT format('%s (of %s, since %s%s)', id, item, since, '; ' || said) FROM under_way
WHERE since IS NULL OR since < now() - make_interval(secs => CASE WHEN said IS NULL THEN $3 ELSE $6 END)
ORDER BY since, id",
    },
    Check {
        name: "orders_end_once",
        should: "an order that ended has one row of history that ends it, any other has none",
        sql: "
WITH ends AS (
    SELECT order_id, count(*) AS ends FROM order_history WHERE to_state IN ('paid', 'expired', 'cancelled')
    GROUP BY order_id
)
SELECT format('%s (%s, ended %s times)', id, state, coalesce(ends, 0))
FROM orders LEFT JOIN ends ON ends.order_id = orders.id
WHERE coalesce(ends, 0) <> CASE WHEN state IN ('paid', 'expired', 'cancelled') THEN 1 ELSE 0 END
ORDER BY id",
    },
    Check {
        name: "history_leads_to_state",
        should: "an order's history is one chain from reserved to its state",
        sql: "
WITH steps AS (
    SELECT order_id, at, to_state, from_state,
           lag(to_state, 1, 'reserved') OVER (PARTITION BY order_id ORDER BY at) AS before
    FROM order_history
), chains AS (
    SELECT order_id, (array_agg(to_state ORDER BY at DESC))[1] AS last, bool_or(from_state <> before) AS is_broken
    FROM steps GROUP BY order_id
)
SELECT format('%s (%s, by its history %s)', id, state, coalesce(last, 'reserved'))
FROM orders LEFT JOIN chains ON chains.order_id = orders.id
WHERE state <> coalesce(last, 'reserved') OR coalesce(is_broken, false)
ORDER BY id",
    },
    Check {
        name: "charges_match_paid_orders",
        should: "an order is paid exactly where its payment has a charge",
        sql: "
SELECT format('%s (%s, %s)', id, state, coalesce('charge ' || charge_id, 'no charge'))
FROM orders LEFT JOIN payments ON payments.order_id = orders.id
WHERE (state = 'paid') <> (charge_id IS NOT NULL)
ORDER BY id",
    },
    Check {
        name: "outbox_is_told",
        should: "no event waits too long (else: does relay run?)",
        sql: "
SELECT format('%s %s (since %s)', id, kind, at) FROM outbox
WHERE at < now() - make_interval(secs => $5)
ORDER BY id",
    },
    Check {
        name: "outbox_fails_nowhere",
        should: "no event was set aside because it could not be published (else: admin outbox list)",
        sql: "
SELECT format('%s %s (%s)', id, kind, reason) FROM outbox_failed
ORDER BY id",
    },
];
