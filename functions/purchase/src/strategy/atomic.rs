//! The atomic strategy: one statement checks, decides and writes, where the others read first.
//!
//! It says in SQL what [`crate::decide`] says in Rust, word for word, but for rules that look at the buyer: items that have such
//! rules are left to the optimistic strategy. Invariant: what is committed of an item is right on the row as it is at that
//! moment, however it was when the statement began; else the item is left as it is, and tried again.

use super::{Attempt, Conflicts, optimistic};
use crate::{read::distinct, rules::text};
use shared::{
    db::is_conflict,
    error::Error,
    fail_point::pause_at,
    handler::Answer,
    messages::{EventKind, PurchaseRequest, Rejection, Request},
};
use sqlx::{PgConnection, Row};
use std::collections::{HashMap, hash_map::Entry};
use time::UtcOffset;
use uuid::Uuid;

/// Requests are read against the verdicts on record and the items' rows (`asked`), refused where the sale says no (`weighed`),
/// and served in their order while there is enough (`served`). The update is predicated, not version-checked: it holds if, on
/// the row as it is by now, there is enough for all who are to be served, and still too little for each who is not; and if the
/// row says what it said of the sale, and nothing of buyers.
///
/// * Two of these on one row do not conflict, they wait: the second sees what the first has left.
/// * $9 tells what is left before a request, where somebody else keeps count (Redis); NULL, where the row does.
/// * `change` is sorted by the bytes of ids, as everybody sorts them, so two workers lock rows in the same order; should the
///   planner choose another one, a deadlock is reported, and handled like any conflict.
/// * The answer has a row for each request: its reply, and the fingerprint of what is on record; neither where the item is for
///   another strategy (`looks_at_buyers`), or conflicts.
pub(super) const DECIDE: &str = r#"
WITH asked AS (
    SELECT new.*, known.fingerprint AS known_fingerprint, known.reply AS known_reply, known.request_id IS NULL AS is_new,
           items.id IS NULL AS is_unknown, items.available, items.opens_at, items.closes_at, items.hold_ms,
           coalesce(num_nonnulls(items.tiers, items.cooldown_ms, items.max_per_buyer) > 0, false) AS looks_at_buyers
    FROM UNNEST($1::text[], $2::text[] COLLATE "C", $3::text[], $4::bigint[], $5::uuid[], $6::uuid[],
                $7::timestamptz[], $8::text[], $9::bigint[], $10::bigint[]) WITH ORDINALITY
         AS new (request_id, item, buyer, quantity, fingerprint, order_id, deadline, deadline_text, counted, in_vain, place)
    LEFT JOIN verdicts AS known ON known.request_id = new.request_id
    LEFT JOIN items ON items.id = new.item
), weighed AS (
    SELECT *, CASE
        WHEN is_unknown THEN 'unknown_item'
        WHEN deadline <= statement_timestamp() THEN 'deadline_passed'
        WHEN statement_timestamp() < opens_at THEN 'sale_not_open'
        WHEN closes_at <= statement_timestamp() THEN 'sale_closed'
    END AS refusal
    FROM asked WHERE is_new AND NOT looks_at_buyers
), counted AS (
    SELECT *, refusal IS NULL AND quantity <= coalesce(
        counted,
        units_left(quantity, available) FILTER (WHERE refusal IS NULL) OVER before,
        available
    ) AS is_served
    FROM weighed
    WINDOW before AS (PARTITION BY item ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), served AS (
    SELECT *, coalesce(sum(quantity) FILTER (WHERE is_served) OVER before, 0)::bigint AS units_before
    FROM counted
    WINDOW before AS (PARTITION BY item ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
), change AS (
    SELECT item, opens_at, closes_at, hold_ms, max(in_vain) AS in_vain,
           coalesce(sum(quantity) FILTER (WHERE is_served), 0)::bigint AS units,
           -- With so many available, one of those who are not served would be.
           min(quantity + units_before) FILTER (WHERE NOT is_served AND refusal IS NULL) AS enough_for_more
    FROM served WHERE NOT is_unknown GROUP BY item, opens_at, closes_at, hold_ms ORDER BY item
), decided AS (
    UPDATE items SET
        available = items.available - change.units,
        held      = items.held + change.units,
        version   = items.version + 1,
        conflicts = items.conflicts + change.in_vain
    FROM change
    WHERE items.id = change.item AND items.available >= change.units
      AND (change.enough_for_more IS NULL OR items.available < change.enough_for_more)
      AND (items.opens_at, items.closes_at, items.hold_ms)
          IS NOT DISTINCT FROM (change.opens_at, change.closes_at, change.hold_ms)
      AND num_nonnulls(items.tiers, items.cooldown_ms, items.max_per_buyer) = 0
    RETURNING items.id, items.counts_orders, items.version - 1 AS version, items.available + change.units AS available
), verdict AS (
    SELECT served.*, decided.version, decided.counts_orders, decided.available - units_before AS units_left,
           statement_timestamp() + hold_ms * interval '1 millisecond' AS hold_until,
           CASE WHEN is_served THEN 'reserved' WHEN refusal IS NULL THEN 'sold_out' ELSE 'refused' END AS status
    FROM served LEFT JOIN decided ON decided.id = served.item
    WHERE served.is_unknown OR decided.id IS NOT NULL
), answered AS (
    SELECT place, request_id, item, buyer, quantity, fingerprint, order_id, hold_until, counts_orders, is_served, status, concat(
        '{"request_id":"', request_id, '","status":"', status, '","code":"', coalesce(refusal, status), '","message":"',
        CASE
            WHEN is_served THEN format('%s %s held for you until %s: %s.', quantity,
                CASE quantity WHEN 1 THEN 'unit is' ELSE 'units are' END, rfc3339(hold_until), item)
            WHEN refusal = 'unknown_item' THEN format('There is no item %s.', item)
            WHEN refusal = 'deadline_passed' THEN format('The request''s deadline, %s, has passed.', deadline_text)
            WHEN refusal = 'sale_not_open' THEN format('The sale of %s opens at %s.', item, rfc3339(opens_at))
            WHEN refusal = 'sale_closed' THEN format('The sale of %s closed at %s.', item, rfc3339(closes_at))
            WHEN units_left = 0 THEN format('%s is sold out.', item)
            ELSE format('%s of %s left, %s asked for.', units_left, item, quantity)
        END, '"',
        CASE WHEN is_served THEN format(',"order":{"id":"%s","item":"%s","quantity":%s,"hold_until":"%s"}',
            order_id, item, quantity, rfc3339(hold_until)) END,
        ',"item_version":' || version, ',"decided_at":"', rfc3339(statement_timestamp()), '"}'
    ) AS reply
    FROM verdict
), ordered AS (
    INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at, is_counted)
    SELECT order_id, request_id, item, buyer, quantity, hold_until, statement_timestamp(), counts_orders
    FROM answered WHERE is_served
    RETURNING id
), told AS (
    INSERT INTO outbox (kind, order_ids) SELECT $11, array_agg(id ORDER BY id) FROM ordered HAVING count(*) > 0
), recorded AS (
    INSERT INTO verdicts (request_id, item, fingerprint, status, reply, decided_at)
    SELECT request_id, item, fingerprint, status, reply, statement_timestamp() FROM answered
)
SELECT coalesce(asked.known_fingerprint, asked.fingerprint) AS fingerprint, asked.looks_at_buyers AND asked.is_new AS looks_at_buyers,
       coalesce(asked.known_reply, answered.reply) AS reply, asked.is_new AND answered.place IS NOT NULL AND NOT asked.is_unknown AS is_committed
FROM asked LEFT JOIN answered ON answered.place = asked.place
ORDER BY asked.place"#;

/// Decides in one statement; `counted` is what is left before each request, as somebody else counts.
///
/// # Errors
/// The database is away or unfit, or cannot take one of the requests.
pub(super) async fn attempt<'a>(
    connection: &mut PgConnection,
    requests: &[&'a PurchaseRequest],
    counted: Option<&[Option<i64>]>,
    conflicts: &Conflicts,
) -> Result<Attempt<'a>, Error> {
    let batch = Batch::of(requests, counted);
    pause_at("committing").await;
    let found = match batch.decide(connection, conflicts).await {
        Ok(found) => found,
        Err(error) if is_conflict(&error) => return Ok(Attempt::in_vain(requests.len())),
        Err(error) => return Err(error.into()),
    };
    let mut attempt = batch.attempt(&found);
    let places: Vec<usize> = batch.for_others(&found);
    if !places.is_empty() {
        let theirs: Vec<&PurchaseRequest> = places.iter().map(|place| requests[*place]).collect();
        let optimistic = optimistic::attempt(connection, &theirs, conflicts).await?;
        attempt.take(&places, optimistic);
    }
    Ok(attempt)
}

/// Runs the statement on nothing, so that this connection has it parsed and planned; it writes nothing.
///
/// # Errors
/// The database's.
pub(super) async fn warm_up(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    Batch::of(&[], None).decide(connection, &Conflicts::new()).await.map(|_| ())
}

/// The requests of a batch, each id once: one statement can record an id once.
struct Batch<'a, 'b> {
    requests: &'b [&'a PurchaseRequest],
    counted: Option<&'b [Option<i64>]>,
    fingerprints: Vec<Uuid>,
    /// Of each id, the first place.
    places: Vec<usize>,
    /// The other places: (place, index into `places` of the same id).
    copies: Vec<(usize, usize)>,
}

/// What the statement says of a request.
struct Found {
    /// Of what is on record under its id by now.
    fingerprint: Uuid,
    /// What is on record; `None`: nothing.
    reply: Option<String>,
    /// It is not decided: its item has rules that are for another strategy.
    looks_at_buyers: bool,
    /// Its item's row was moved on for it.
    is_committed: bool,
}

impl<'a, 'b> Batch<'a, 'b> {
    fn of(requests: &'b [&'a PurchaseRequest], counted: Option<&'b [Option<i64>]>) -> Self {
        let mut seen: HashMap<&str, usize> = HashMap::with_capacity(requests.len());
        let (mut places, mut copies) = (Vec::with_capacity(requests.len()), Vec::new());
        for (place, request) in requests.iter().enumerate() {
            match seen.entry(&request.request_id) {
                Entry::Vacant(first) => {
                    first.insert(places.len());
                    places.push(place);
                }
                Entry::Occupied(first) => copies.push((place, *first.get())),
            }
        }
        let fingerprints = requests.iter().map(|request| request.fingerprint()).collect();
        Self { requests, counted, fingerprints, places, copies }
    }

    async fn decide(&self, connection: &mut PgConnection, conflicts: &Conflicts) -> Result<Vec<Found>, sqlx::Error> {
        let requests: Vec<_> = self.places.iter().map(|place| self.requests[*place]).collect();
        // One that no time in UTC can tell never passes.
        let deadline = |request: &&PurchaseRequest| request.deadline?.checked_to_offset(UtcOffset::UTC);
        let left = |place: &usize| self.counted.and_then(|counted| counted[*place]);
        let in_vain = |request: &&PurchaseRequest| conflicts.get(&request.item).copied().unwrap_or(0);
        let rows = sqlx::query(DECIDE)
            .bind(requests.iter().map(|request| request.request_id.as_str()).collect::<Vec<_>>())
            .bind(requests.iter().map(|request| request.item.as_str()).collect::<Vec<_>>())
            .bind(requests.iter().map(|request| request.buyer.as_str()).collect::<Vec<_>>())
            .bind(requests.iter().map(|request| i64::from(request.quantity)).collect::<Vec<_>>())
            .bind(self.places.iter().map(|place| self.fingerprints[*place]).collect::<Vec<_>>())
            .bind(self.places.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
            .bind(requests.iter().map(deadline).collect::<Vec<_>>())
            .bind(requests.iter().map(|request| request.deadline.map(text)).collect::<Vec<_>>())
            .bind(self.places.iter().map(left).collect::<Vec<_>>())
            .bind(requests.iter().map(in_vain).collect::<Vec<_>>())
            .bind(EventKind::OrderReserved.as_str())
            .fetch_all(connection)
            .await?;
        let found = |row: &sqlx::postgres::PgRow| {
            Ok(Found {
                fingerprint: row.try_get("fingerprint")?,
                reply: row.try_get("reply")?,
                looks_at_buyers: row.try_get("looks_at_buyers")?,
                is_committed: row.try_get("is_committed")?,
            })
        };
        rows.iter().map(found).collect()
    }

    /// What came of it, but for the requests that are for another strategy.
    fn attempt(&self, found: &[Found]) -> Attempt<'a> {
        let mut attempt = Attempt {
            answers: vec![None; self.requests.len()],
            committed: Vec::new(),
            overtaken: Vec::new(),
            is_id_contended: false,
        };
        for (place, found) in self.places.iter().zip(found) {
            let item = self.requests[*place].item.as_str();
            attempt.answers[*place] = self.answer(*place, found);
            if found.is_committed {
                attempt.committed.push(item);
            } else if found.reply.is_none() && !found.looks_at_buyers {
                attempt.overtaken.push(item);
            }
        }
        // What is on record under its id by now is known of a copy, too, whatever its content.
        for (place, first) in &self.copies {
            attempt.answers[*place] = self.answer(*place, &found[*first]);
        }
        attempt.committed = distinct(attempt.committed.into_iter());
        attempt.overtaken = distinct(attempt.overtaken.into_iter());
        attempt
    }

    /// The places of the requests that are for another strategy, copies included.
    fn for_others(&self, found: &[Found]) -> Vec<usize> {
        let firsts = self.places.iter().zip(found).filter(|(_, found)| found.looks_at_buyers).map(|(place, _)| *place);
        let copies = self.copies.iter().filter(|(_, first)| found[*first].looks_at_buyers).map(|(place, _)| *place);
        let mut places: Vec<usize> = firsts.chain(copies).collect();
        places.sort_unstable();
        places
    }

    fn answer(&self, place: usize, found: &Found) -> Option<Answer> {
        let reply = found.reply.as_ref()?;
        Some(match found.fingerprint == self.fingerprints[place] {
            true => Answer::Verdict(reply.clone()),
            false => Answer::Rejected(Rejection::reused(&self.requests[place].request_id)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str, quantity: u32) -> PurchaseRequest {
        let (request_id, item, buyer) = (id.to_owned(), "a".to_owned(), "b".to_owned());
        PurchaseRequest { request_id, item, buyer, quantity, deadline: None }
    }

    #[test]
    fn one_attempt_answers_every_copy_of_an_id_whatever_its_content_and_whatever_is_on_record() {
        let requests: Vec<_> = (1..=1_000).chain([1, 7]).map(|quantity| request("r", quantity)).collect();
        let requests: Vec<&PurchaseRequest> = requests.iter().collect();
        let batch = Batch::of(&requests, None);
        assert_eq!(batch.places, [0]);
        for recorded in [1, 7, 5_000] {
            let fingerprint = request("r", recorded).fingerprint();
            let found = Found { fingerprint, reply: Some("told".into()), looks_at_buyers: false, is_committed: false };
            for (request, answer) in requests.iter().zip(batch.attempt(&[found]).answers) {
                let expected = match request.quantity == recorded {
                    true => Answer::Verdict("told".into()),
                    false => Answer::Rejected(Rejection::reused("r")),
                };
                assert_eq!(answer, Some(expected), "{recorded} on record, {} asked for", request.quantity);
            }
        }
    }
}
