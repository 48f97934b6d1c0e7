//! Verdicts in the database.
//!
//! `purchase` alone has these two statements inside larger ones, because a round trip costs it as much as what it asks for.

use super::{Recorded, Verdicts, keys};
use crate::messages::Identity;
use sqlx::{FromRow, PgConnection, Row};
use std::collections::HashMap;

/// The verdicts, and the time: one row at least, also where nothing is recorded.
pub const READ: &str = "
SELECT clock.now, verdicts.request_id, verdicts.fingerprint, verdicts.content, verdicts.sender, verdicts.item,
       verdicts.reply
FROM (SELECT clock_timestamp() AS now) AS clock
LEFT JOIN verdicts ON verdicts.request_id = ANY($1)";

/// By key, so that two of these cannot wait for each other. Their requests have no deadline.
const RECORD: &str = "
INSERT INTO verdicts (request_id, item, fingerprint, content, status, reply, sender, decided_at)
SELECT new.request_id, new.item, new.fingerprint, NULL, new.status, new.reply, new.sender, $7
FROM UNNEST($1::text[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::text[])
     AS new (request_id, item, fingerprint, status, reply, sender)
ORDER BY new.request_id";

/// What is on record of these requests. To be called when the rows that they are about are locked: whoever else has one of
/// them in hand has recorded its verdict by then.
pub async fn read<'a, R: Identity + 'a>(
    connection: &mut PgConnection,
    requests: impl Iterator<Item = &'a R>,
) -> Result<Verdicts<'a>, sqlx::Error> {
    let keys: Vec<_> = requests.flat_map(keys).collect();
    let rows = sqlx::query(READ).bind(keys).fetch_all(connection).await?;
    let now = rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get("now")?;
    let mut recorded = HashMap::new();
    for row in &rows {
        if let Some(key) = row.try_get("request_id")? {
            recorded.insert(key, Recorded::from_row(row)?);
        }
    }
    Ok(Verdicts::at(now, recorded))
}

/// Records what the batch adds: the last thing that its transaction does. A unique violation where somebody else has recorded
/// one of the ids meanwhile.
pub async fn record(connection: &mut PgConnection, verdicts: &Verdicts<'_>) -> Result<(), sqlx::Error> {
    let new = verdicts.all_added();
    if new.is_empty() {
        return Ok(());
    }
    sqlx::query(RECORD)
        .bind(new.iter().map(|new| &*new.key).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.about.item).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.recorded.fingerprint).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.status.as_str()).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.recorded.reply.as_str()).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.sender).collect::<Vec<_>>())
        .bind(verdicts.now)
        .execute(connection)
        .await
        .map(|_| ())
}
