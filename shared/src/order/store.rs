//! Orders in the database: locked, moved on, and their units with them.
//!
//! Orders are locked first, then items, each in the order of their ids; so nobody waits in a circle. Invariant: an order, its
//! history, its units and its event move together, and only from the state that the cause leads from.

use super::{Cause, State};
use crate::messages::Sender;
use crate::outbox::{kind_of, record_orders};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueRef};
use sqlx::{Decode, PgConnection, Postgres, Type};
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;
use uuid::Uuid;

/// Held until the transaction ends.
pub const LOCK_ORDERS: &str = "
SELECT id, state, item, quantity, hold_until, sender FROM orders WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// $1 and $2 belong together: the order, and the request. From the state $3 to $4, because of $5, at $6.
pub const MOVE_ON: &str = "
WITH moved AS (
    UPDATE orders SET state = $4
    FROM UNNEST($1::uuid[], $2::text[]) AS change (order_id, request_id)
    WHERE orders.id = change.order_id AND orders.state = $3
    RETURNING orders.id, change.request_id
)
INSERT INTO order_history (order_id, from_state, to_state, cause, request_id, at)
SELECT id, $3, $4, $5, request_id, $6::timestamptz FROM moved";

/// Held until the transaction ends; as purchases lock them.
pub const LOCK_ITEMS: &str = "
SELECT id, held FROM items WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE";

/// $1 and $2 belong together: the item, and its units. The version goes up, so a purchase that was decided on what was
/// available before is decided again.
pub const GIVE_BACK: &str = "
UPDATE items SET
    available = items.available + change.units,
    held      = items.held - change.units,
    version   = items.version + 1
FROM UNNEST($1::text[], $2::bigint[]) AS change (item, units)
WHERE items.id = change.item";

/// $1 and $2 as above. The version stays: what can be reserved is the same before and after. So a purchase that was decided
/// meanwhile holds, and payments cost it no second round.
pub const SELL: &str = "
UPDATE items SET held = items.held - change.units, sold = items.sold + change.units
FROM UNNEST($1::text[], $2::bigint[]) AS change (item, units)
WHERE items.id = change.item";

/// An order, as those see it who move it on.
#[derive(Debug, Clone, PartialEq, Eq, sqlx_macros::FromRow)]
pub struct Order {
    pub id: Uuid,
    pub state: State,
    pub item: String,
    pub quantity: i64,
    pub hold_until: OffsetDateTime,
    /// Who bought it; empty where the purchase did not say so.
    pub sender: String,
}

/// A column of the word that [`State::as_str`] has for it.
impl Type<Postgres> for State {
    fn type_info() -> PgTypeInfo {
        <str as Type<Postgres>>::type_info()
    }
}

impl<'row> Decode<'row, Postgres> for State {
    fn decode(value: PgValueRef<'row>) -> Result<Self, BoxDynError> {
        let word = <&str as Decode<Postgres>>::decode(value)?;
        Self::read(word).ok_or_else(|| format!("an order has the unknown state {word}").into())
    }
}

impl Order {
    /// Whether this sender may know of it, cancel it and pay for it.
    pub fn is_open_to(&self, sender: Option<&Sender>) -> bool {
        self.sender.is_empty() || sender.is_some_and(|sender| sender.is_trusted || sender.user == self.sender)
    }
}

/// Orders that one cause moves on, each with the request that asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition<'a> {
    pub cause: Cause,
    pub orders: Vec<(Uuid, &'a str)>,
    /// An order's transitions have times of their own, also where one transaction makes two.
    pub at: OffsetDateTime,
}

/// Units by item.
pub type Units = BTreeMap<String, i64>;

/// Where an item's held units go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    Available,
    Sold,
}

/// Locks these orders and returns those that exist, by id.
pub async fn lock_orders(connection: &mut PgConnection, ids: &[Uuid]) -> Result<HashMap<Uuid, Order>, sqlx::Error> {
    let orders: Vec<Order> = sqlx::query_as(LOCK_ORDERS).bind(ids).fetch_all(connection).await?;
    Ok(orders.into_iter().map(|order| (order.id, order)).collect())
}

/// Moves orders on, one transition after another, and then their units; they are locked. A check violation where an item
/// does not hold that many units.
pub async fn move_on(
    connection: &mut PgConnection,
    transitions: &[Transition<'_>],
    units: &Units,
    destination: Destination,
) -> Result<(), sqlx::Error> {
    let transitions = || transitions.iter().filter(|transition| !transition.orders.is_empty());
    for Transition { cause, orders, at } in transitions() {
        let (from, to) = cause.transition();
        let (ids, requests): (Vec<Uuid>, Vec<&str>) = orders.iter().copied().unzip();
        let statement = sqlx::query(MOVE_ON).bind(ids).bind(requests);
        let statement = statement.bind(from.as_str()).bind(to.as_str()).bind(cause.as_str()).bind(at);
        statement.execute(&mut *connection).await?;
    }
    if !units.is_empty() {
        // Late in the transaction: items are hot, and locked from here to its end.
        lock_items(connection, units).await?;
        move_units(connection, units, destination).await?;
    }
    for Transition { cause, orders, .. } in transitions() {
        let ids: Vec<Uuid> = orders.iter().map(|(id, _)| *id).collect();
        record_orders(connection, kind_of(*cause), &ids).await?;
    }
    Ok(())
}

/// Locks these items, and returns those that hold fewer units: somebody altered them by hand.
pub async fn lock_items(connection: &mut PgConnection, units: &Units) -> Result<Vec<String>, sqlx::Error> {
    let items: Vec<&str> = units.keys().map(String::as_str).collect();
    let held: Vec<(String, i64)> = sqlx::query_as(LOCK_ITEMS).bind(items).fetch_all(connection).await?;
    let held: HashMap<String, i64> = held.into_iter().collect();
    let is_short = |(item, units): &(&String, &i64)| held.get(*item).is_none_or(|held| held < *units);
    Ok(units.iter().filter(is_short).map(|(item, _)| item.clone()).collect())
}

/// Moves held units of items that are locked; a check violation where an item does not hold that many.
pub async fn move_units(
    connection: &mut PgConnection,
    units: &Units,
    destination: Destination,
) -> Result<(), sqlx::Error> {
    let statement = match destination {
        Destination::Available => GIVE_BACK,
        Destination::Sold => SELL,
    };
    let items: Vec<&str> = units.keys().map(String::as_str).collect();
    let units: Vec<i64> = units.values().copied().collect();
    sqlx::query(statement).bind(items).bind(units).execute(connection).await.map(|_| ())
}
