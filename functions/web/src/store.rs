//! What is looked up in the database, and nothing else is done there.

use sqlx::PgPool;
use std::collections::HashMap;

/// As the function that decided it recorded it; under a request's id, or, where another sender has that, under `ID USER`. And who has
/// the order, where there is one.
const VERDICTS: &str = "
SELECT verdicts.request_id, verdicts.reply, orders.buyer
FROM verdicts
LEFT JOIN orders ON orders.id = (CASE WHEN status = 'reserved' THEN reply::jsonb #>> '{order,id}' END)::uuid
WHERE verdicts.request_id = ANY($1) AND verdicts.sender IN ($2, '')";

/// A verdict on record.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) reply: String,
    pub(crate) buyer: Option<String>,
}

/// The verdicts on these requests of ours, by their ids; `user` is who we are to the broker.
pub(crate) async fn verdicts(
    pool: &PgPool,
    user: &str,
    ids: Vec<String>,
) -> Result<HashMap<String, Recorded>, sqlx::Error> {
    let keys: Vec<String> = ids.iter().cloned().chain(ids.iter().map(|id| format!("{id} {user}"))).collect();
    let rows: Vec<(String, String, Option<String>)> =
        sqlx::query_as(VERDICTS).bind(keys).bind(user).fetch_all(pool).await?;
    let id_of = |key: String| key.split_once(' ').map_or(key.clone(), |(id, _)| id.to_owned());
    Ok(rows.into_iter().map(|(key, reply, buyer)| (id_of(key), Recorded { reply, buyer })).collect())
}
