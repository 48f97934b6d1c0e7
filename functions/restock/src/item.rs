//! An item, and what may be done with it.
//!
//! Pure: no clock, no I/O; "now" is the database's. Invariants: no operation touches units that are held or sold; stock stays
//! within its bounds, and is what is available, held and sold; a sale opens before it closes; and every operation that is
//! done moves the version on.

use serde::Serialize;
use shared::messages::time::text;
use shared::messages::{Code, EventKind, Operation, Rules, STOCK_MAX};
use time::OffsetDateTime;

/// An item. Serialised, it is the `detail` of its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx_macros::FromRow)]
pub struct Item {
    pub id: String,
    pub stock: i64,
    /// Units that can be reserved.
    pub available: i64,
    /// Units kept by orders that are not paid for.
    pub held: i64,
    /// Units paid for.
    pub sold: i64,
    pub version: i64,
    pub hold_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none", with = "shared::messages::time::option")]
    pub opens_at: Option<OffsetDateTime>,
    #[serde(skip_serializing_if = "Option::is_none", with = "shared::messages::time::option")]
    pub closes_at: Option<OffsetDateTime>,
    /// Of a row, see `read_item`.
    #[sqlx(skip)]
    pub rules: Rules,
    /// Whether each of its orders is found by its buyer, which some rules need.
    #[serde(skip)]
    pub finds_orders: bool,
}

/// What comes of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, and the item is this now.
    Done(Item, Code, EventKind, String),
    /// It cannot be, and changes nothing.
    Refused(Code, String),
    /// The request contradicts itself now, by the clock; a corrected one may have the same id.
    Invalid(String),
    /// The item's orders must be counted first.
    Uncounted,
}

/// Does `operation`, at `now`, with the item of this id, if there is one.
pub fn apply(operation: &Operation, id: &str, item: Option<&Item>, now: OffsetDateTime) -> Outcome {
    let Some(item) = item else { return create(operation, id) };
    let mut next = Item { version: item.version + 1, ..item.clone() };
    let (code, kind, message) = match operation {
        Operation::Create { .. } => {
            let message = format!("There is an item {id} already, with {}.", units(item.stock));
            return Outcome::Refused(Code::ItemExists, message);
        }
        Operation::Add { quantity } if *quantity > STOCK_MAX - item.stock => {
            let stock = units(item.stock);
            let message = format!("{id} has {stock}; with {quantity} more it would have more than {STOCK_MAX}.");
            return Outcome::Refused(Code::StockLimit, message);
        }
        Operation::Add { quantity } => {
            next.stock += quantity;
            next.available += quantity;
            (Code::Added, EventKind::ItemStockAdded, stock_message(&next, *quantity, "added"))
        }
        Operation::Remove { quantity } if *quantity > item.available => {
            let available = units(item.available);
            let message =
                format!("{available} of {id} can be removed, {quantity} asked for; the others are held or sold.");
            return Outcome::Refused(Code::StockInUse, message);
        }
        Operation::Remove { quantity } => {
            next.stock -= quantity;
            next.available -= quantity;
            (Code::Removed, EventKind::ItemStockRemoved, stock_message(&next, *quantity, "removed"))
        }
        Operation::Open { opens_at, closes_at } => {
            (next.opens_at, next.closes_at) = match (opens_at, closes_at) {
                (None, None) => (Some(now), None),
                (Some(_), Some(_)) => (*opens_at, *closes_at),
                // An end that has passed is none of the sale that begins now.
                (Some(_), None) => (*opens_at, item.closes_at.filter(|closes_at| *closes_at > now)),
                (None, Some(_)) => (item.opens_at, *closes_at),
            };
            let begins = next.opens_at.unwrap_or(now);
            let until = match next.closes_at {
                Some(end) if end <= begins.max(now) => {
                    let [end, begins] = [end, begins.max(now)].map(text);
                    return Outcome::Invalid(match closes_at {
                        Some(_) => format!("The field closes_at is not after {begins}."),
                        None => {
                            format!("The sale closes at {end}, which is not after {begins}; name closes_at as well.")
                        }
                    });
                }
                Some(closes_at) => format!(" to {}", text(closes_at)),
                None => ", without end".to_owned(),
            };
            let message = format!("The sale of {id} is open from {}{until}.", text(begins));
            (Code::Opened, EventKind::ItemOpened, message)
        }
        // A sale that was over before stays over since then; one that has not begun never does.
        Operation::Close => {
            let closes_at = item.closes_at.map_or(now, |closes_at| closes_at.min(now));
            next.opens_at = item.opens_at.filter(|opens_at| *opens_at < closes_at);
            next.closes_at = Some(closes_at);
            (Code::Closed, EventKind::ItemClosed, format!("The sale of {id} is closed since {}.", text(closes_at)))
        }
        Operation::Rules { rules } if rules.count_orders() && !item.finds_orders => return Outcome::Uncounted,
        Operation::Rules { rules } => {
            next.rules = rules.clone();
            (Code::RulesSet, EventKind::ItemRulesChanged, describe(id, rules))
        }
    };
    Outcome::Done(next, code, kind, message)
}

fn create(operation: &Operation, id: &str) -> Outcome {
    let Operation::Create { stock, hold_ms, opens_at, closes_at, rules } = operation else {
        return Outcome::Refused(Code::UnknownItem, format!("There is no item {id}."));
    };
    let item = Item {
        id: id.to_owned(),
        stock: *stock,
        available: *stock,
        held: 0,
        sold: 0,
        version: 0,
        hold_ms: *hold_ms,
        opens_at: *opens_at,
        closes_at: *closes_at,
        rules: rules.clone(),
        // It has none.
        finds_orders: true,
    };
    Outcome::Done(item, Code::Created, EventKind::ItemCreated, format!("{id} is created, with {}.", units(*stock)))
}

fn stock_message(item: &Item, quantity: i64, what: &str) -> String {
    let are = if quantity == 1 { "is" } else { "are" };
    let Item { id, stock, available, .. } = item;
    format!("{} of {id} {are} {what}; now {available} of {stock} can be sold.", units(quantity))
}

fn describe(id: &str, Rules { max_per_buyer, cooldown_ms, tiers }: &Rules) -> String {
    let mut parts = Vec::new();
    parts.extend(max_per_buyer.map(|most| format!("at most {} for one buyer", units(most))));
    parts.extend(cooldown_ms.map(|time| format!("no second purchase by the same buyer within {time} ms")));
    if let Some(tiers) = tiers {
        let tiers: Vec<&str> = tiers.iter().map(String::as_str).collect();
        parts.push(format!("only for buyers of these tiers: {}", tiers.join(", ")));
    }
    if parts.is_empty() {
        return format!("{id} has no rules now.");
    }
    format!("The rules of {id} now: {}.", parts.join("; "))
}

fn units(count: i64) -> String {
    if count == 1 { "1 unit".to_owned() } else { format!("{count} units") }
}
