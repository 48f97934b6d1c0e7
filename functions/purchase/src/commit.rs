//! Makes decisions durable: stock, orders, verdicts and what is to be told, in one statement, or none of them.
//!
//! Invariant: a verdict that was decided on an item's row is recorded if and only if that row still had the version
//! that was read, and then its stock effect is recorded with it.

use crate::decide::{Decision, Outcome, Plan};
use shared::messages::{EventKind, PurchaseRequest};
use sqlx::{PgConnection, Row};
use std::collections::{BTreeMap, HashMap, HashSet};
use time::OffsetDateTime;

/// `decided` holds the items whose version was still the one read; orders and verdicts of any other item are left out.
///
/// $1–$4 come sorted by item and are joined in that order, so two workers lock rows in the same order; should the
/// planner choose another one, a deadlock is reported, and handled like any conflict.
/// Order ids are minted in the order of the requests, so that is their order in the outbox, too; its row gets its number
/// when the last of the items is locked.
/// $15 marks verdicts that were decided without an item's row (unknown items): nothing to check, so always recorded.
const COMMIT: &str = "
WITH decided AS (
    UPDATE items SET
        available = items.available - change.units,
        held      = items.held + change.units,
        version   = items.version + 1,
        conflicts = items.conflicts + change.conflicts
    FROM UNNEST($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) AS change (item, version, units, conflicts)
    WHERE items.id = change.item AND items.version = change.version
    RETURNING items.id, items.counts_orders
), ordered AS (
    INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at, is_counted)
    SELECT new.id, new.request_id, new.item, new.buyer, new.quantity, new.hold_until, $16, decided.counts_orders
    FROM UNNEST($5::uuid[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::timestamptz[])
         AS new (id, request_id, item, buyer, quantity, hold_until)
    JOIN decided ON decided.id = new.item
    RETURNING id
), told AS (
    INSERT INTO outbox (kind, order_ids) SELECT $18, array_agg(id ORDER BY id) FROM ordered HAVING count(*) > 0
), answered AS (
    INSERT INTO verdicts (request_id, item, fingerprint, status, reply, decided_at)
    SELECT new.request_id, new.item, new.fingerprint, new.status, new.reply, $16
    FROM UNNEST($11::text[], $12::text[], $13::uuid[], $14::text[], $17::text[], $15::boolean[])
         AS new (request_id, item, fingerprint, status, reply, is_free)
    WHERE new.is_free OR new.item IN (SELECT id FROM decided)
)
SELECT id FROM decided";

/// Commits a plan for `requests`, decided at `now`; `conflicts` tells how often each item had to be decided again.
/// Returns the items whose decisions hold; those of the other items left no trace.
///
/// # Errors
/// The database's; a unique violation where another worker recorded one of the request ids meanwhile.
pub async fn commit<'a>(
    connection: &mut PgConnection,
    requests: &[&PurchaseRequest],
    plan: &Plan<'a>,
    now: OffsetDateTime,
    conflicts: &HashMap<String, i64>,
) -> Result<HashSet<&'a str>, sqlx::Error> {
    let decisions: Vec<(&PurchaseRequest, &Decision)> = requests
        .iter()
        .zip(&plan.outcomes)
        .filter_map(|(request, outcome)| Some((*request, decision(outcome)?)))
        .collect();
    if decisions.is_empty() {
        return Ok(HashSet::new());
    }
    execute(connection, &decisions, plan, now, conflicts).await
}

/// Runs the statement on nothing, so that this connection has it parsed and planned; it writes nothing.
///
/// # Errors
/// The database's.
pub async fn warm_up(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let nothing = Plan { outcomes: Vec::new(), changes: BTreeMap::new() };
    execute(connection, &[], &nothing, OffsetDateTime::UNIX_EPOCH, &HashMap::new()).await.map(|_| ())
}

async fn execute<'a>(
    connection: &mut PgConnection,
    decisions: &[(&PurchaseRequest, &Decision)],
    plan: &Plan<'a>,
    now: OffsetDateTime,
    conflicts: &HashMap<String, i64>,
) -> Result<HashSet<&'a str>, sqlx::Error> {
    let orders: Vec<_> =
        decisions.iter().filter_map(|(request, decision)| Some((*request, decision.order.as_ref()?))).collect();
    let rows = sqlx::query(COMMIT)
        .bind(plan.changes.keys().copied().collect::<Vec<_>>())
        .bind(plan.changes.values().map(|change| change.version).collect::<Vec<_>>())
        .bind(plan.changes.values().map(|change| change.units).collect::<Vec<_>>())
        .bind(plan.changes.keys().map(|item| conflicts.get(*item).copied().unwrap_or(0)).collect::<Vec<_>>())
        .bind(orders.iter().map(|(_, order)| order.id).collect::<Vec<_>>())
        .bind(orders.iter().map(|(request, _)| request.request_id.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|(request, _)| request.item.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|(request, _)| request.buyer.as_str()).collect::<Vec<_>>())
        .bind(orders.iter().map(|(request, _)| i64::from(request.quantity)).collect::<Vec<_>>())
        .bind(orders.iter().map(|(_, order)| order.hold_until).collect::<Vec<_>>())
        .bind(decisions.iter().map(|(request, _)| request.request_id.as_str()).collect::<Vec<_>>())
        .bind(decisions.iter().map(|(request, _)| request.item.as_str()).collect::<Vec<_>>())
        .bind(decisions.iter().map(|(_, decision)| decision.fingerprint).collect::<Vec<_>>())
        .bind(decisions.iter().map(|(_, decision)| decision.status.as_str()).collect::<Vec<_>>())
        .bind(decisions.iter().map(|(_, decision)| !decision.on_item).collect::<Vec<_>>())
        .bind(now)
        .bind(decisions.iter().map(|(_, decision)| decision.reply.as_str()).collect::<Vec<_>>())
        .bind(EventKind::OrderReserved.as_str())
        .fetch_all(connection)
        .await?;
    let mut held = HashSet::with_capacity(rows.len());
    for row in &rows {
        let id: &str = row.try_get("id")?;
        held.extend(plan.changes.get_key_value(id).map(|(item, _)| *item));
    }
    Ok(held)
}

fn decision(outcome: &Outcome) -> Option<&Decision> {
    match outcome {
        Outcome::Decided(decision) => Some(decision),
        Outcome::Repeat(_) | Outcome::SameAs(_) | Outcome::Reused(_) | Outcome::ClashesWith(..) => None,
    }
}
