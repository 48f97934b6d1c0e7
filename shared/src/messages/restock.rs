//! A request to put an item on sale, or to change its stock, its sale window or its rules.
//!
//! Read by hand, not by serde's tags and bounds: each fault has its own code and names its field, byte for byte.

use super::request::{
    About, Identity, Request, invalid, is_id, malformed, read_id, read_object, read_request_id, read_text, required,
    whole,
};
use super::verdict::Rejection;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use time::format_description::well_known::Rfc3339;
use time::macros::datetime;
use time::{OffsetDateTime, UtcOffset};
use uuid::Uuid;

/// The queue of restock requests, and the exchange that they are published to, with any routing key.
pub const RESTOCK_QUEUE: &str = "restock";
/// The most units that an item can have, and that one request can add or remove: whole in every JSON library.
pub const STOCK_MAX: i64 = 1_000_000_000_000;
/// How long an order of an item keeps its units, unless its creation says otherwise, in milliseconds.
pub const HOLD_MS_DEFAULT: i64 = 600_000;
/// The longest hold, and the longest cooldown, in milliseconds: 365 days.
pub const TIME_MS_MAX: i64 = 31_536_000_000;
/// The most tiers that a rule can name.
pub const TIERS_MAX: usize = 16;
/// The names of the rules, as they stand in the object `rules`.
pub const RULE_NAMES: [&str; 3] = ["max_per_buyer", "cooldown_ms", "tiers"];

/// What the database keeps, and RFC 3339 can write.
const TIMES: RangeInclusive<OffsetDateTime> = datetime!(0001-01-01 00:00 UTC)..=datetime!(9999-01-01 00:00 UTC);

/// Names the space of fingerprints (UUIDv5): its own, so that an id used for another kind of request is told apart.
const FINGERPRINT_SPACE: Uuid = Uuid::from_u128(0x91c4_0f6d_3e27_5b18_a4d9_7265_7374_6f63);

/// Serialised, it is the body of a message. Its id is the stock keepers', whoever of them sends it: who begins to say so must not
/// restock twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestockRequest {
    pub request_id: String,
    pub item: String,
    #[serde(flatten)]
    pub operation: Operation,
}

/// What to do with an item; on the wire, the field `op` says which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Operation {
    Create {
        /// Units, 0 to [`STOCK_MAX`].
        stock: i64,
        /// How long an order keeps its units, in milliseconds, 1 to [`TIME_MS_MAX`]; [`HOLD_MS_DEFAULT`] where absent.
        hold_ms: i64,
        /// The sale begins then; without it, it has begun.
        #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
        opens_at: Option<OffsetDateTime>,
        /// The sale ends then, after `opens_at`; without it, it does not end.
        #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
        closes_at: Option<OffsetDateTime>,
        #[serde(skip_serializing_if = "Rules::is_empty")]
        rules: Rules,
    },
    /// Puts more units on sale, 1 to [`STOCK_MAX`].
    Add { quantity: i64 },
    /// Takes units off sale that are neither held nor sold, 1 to [`STOCK_MAX`].
    Remove { quantity: i64 },
    /// Gives the sale a new window: from now on without end, or what is named; where that is one end, the other stays.
    Open {
        /// The sale begins then.
        #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
        opens_at: Option<OffsetDateTime>,
        /// The sale ends then, after it begins.
        #[serde(skip_serializing_if = "Option::is_none", with = "time::serde::rfc3339::option")]
        closes_at: Option<OffsetDateTime>,
    },
    /// Ends the sale, now.
    Close,
    /// Replaces all rules.
    Rules { rules: Rules },
}

/// Who may buy how much of an item. What is absent is no rule.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Rules {
    /// Units that one buyer may hold and have paid for, in all: 1 to [`STOCK_MAX`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_per_buyer: Option<i64>,
    /// No second purchase by the same buyer within this time, in milliseconds: 1 to [`TIME_MS_MAX`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown_ms: Option<i64>,
    /// Only buyers of one of these tiers: 1 to [`TIERS_MAX`] ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tiers: Option<BTreeSet<String>>,
}

impl Rules {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a rule looks at the orders that a buyer has made before.
    pub fn count_orders(&self) -> bool {
        self.max_per_buyer.is_some() || self.cooldown_ms.is_some()
    }
}

impl Request for RestockRequest {
    const FUNCTION: &'static str = RESTOCK_QUEUE;

    fn decode(body: &[u8], message_id: Option<&str>) -> Result<Self, Rejection> {
        let mut fields: Fields = read_object(body)?;
        let request_id = read_request_id(fields.request_id.take(), message_id)?;
        let checked = nothing_unknown(&fields).and_then(|()| read_id("item", fields.item.take()));
        let item = checked.map_err(|rejection| rejection.of(&request_id, None))?;
        let operation = read_operation(fields).map_err(|rejection| rejection.of(&request_id, Some(&item)))?;
        Ok(Self { request_id, item, operation })
    }
}

impl Identity for RestockRequest {
    fn request_id(&self) -> &str {
        &self.request_id
    }

    fn fingerprint(&self) -> Uuid {
        // What was decoded has one form: defaults filled in, times in UTC with no digit too many, tiers in order, fields as
        // they stand above.
        let operation = serde_json::to_string(&self.operation).expect("an operation is representable as JSON");
        Uuid::new_v5(&FINGERPRINT_SPACE, format!("{}\n{operation}", self.item).as_bytes())
    }

    fn about(&self) -> About<'_> {
        About { item: Some(&self.item), ..About::default() }
    }
}

/// A request as it is on the wire, each field whatever the sender put there.
#[derive(Deserialize)]
struct Fields {
    request_id: Option<Value>,
    item: Option<Value>,
    op: Option<Value>,
    stock: Option<Value>,
    hold_ms: Option<Value>,
    quantity: Option<Value>,
    opens_at: Option<Value>,
    closes_at: Option<Value>,
    rules: Option<RuleFields>,
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

/// Of an object with a name twice, the last would win: it is none of the first kind.
#[derive(Deserialize)]
#[serde(untagged)]
enum RuleFields {
    Each {
        max_per_buyer: Option<Value>,
        cooldown_ms: Option<Value>,
        tiers: Option<Value>,
        #[serde(flatten)]
        unknown: BTreeMap<String, IgnoredAny>,
    },
    Other(Value),
}

/// Elsewhere an unknown field is ignored. Here what it was to say would be left out: `open_at` would open a sale at once.
fn nothing_unknown(fields: &Fields) -> Result<(), Rejection> {
    let Some(name) = fields.unknown.keys().next() else { return Ok(()) };
    let name = if is_id(name) { name } else { "…" };
    Err(invalid(format!(
        "There is no field {name}; a restock has request_id, item, op, stock, hold_ms, quantity, opens_at, closes_at, rules."
    )))
}

fn read_operation(mut fields: Fields) -> Result<Operation, Rejection> {
    let op = read_text("op", fields.op.take())?;
    let operation = match op.as_str() {
        "create" => {
            let (opens_at, closes_at) = read_window(&mut fields)?;
            Operation::Create {
                stock: required("stock", read_number("stock", fields.stock.take(), 0..=STOCK_MAX)?)?,
                hold_ms: read_number("hold_ms", fields.hold_ms.take(), 1..=TIME_MS_MAX)?.unwrap_or(HOLD_MS_DEFAULT),
                opens_at,
                closes_at,
                rules: read_rules(fields.rules.take())?.unwrap_or_default(),
            }
        }
        "add" => Operation::Add { quantity: read_quantity(&mut fields)? },
        "remove" => Operation::Remove { quantity: read_quantity(&mut fields)? },
        "open" => {
            let (opens_at, closes_at) = read_window(&mut fields)?;
            Operation::Open { opens_at, closes_at }
        }
        "close" => Operation::Close,
        // Required: where a slip of the pen would leave it out, every rule would be gone.
        "rules" => Operation::Rules { rules: required("rules", read_rules(fields.rules.take())?)? },
        _ => return Err(invalid("The field op is none of create, add, remove, open, close, rules.")),
    };
    nothing_left(&op, &fields)?;
    Ok(operation)
}

/// Who closes a sale with a `closes_at` means something else than now, and is not to be misunderstood.
fn nothing_left(op: &str, fields: &Fields) -> Result<(), Rejection> {
    let left = [
        ("stock", fields.stock.is_some()),
        ("hold_ms", fields.hold_ms.is_some()),
        ("quantity", fields.quantity.is_some()),
        ("opens_at", fields.opens_at.is_some()),
        ("closes_at", fields.closes_at.is_some()),
        ("rules", fields.rules.is_some()),
    ];
    match left.into_iter().find(|(_, is_there)| *is_there) {
        Some((name, _)) => Err(invalid(format!("The field {name} does not belong to the operation {op}."))),
        None => Ok(()),
    }
}

fn read_quantity(fields: &mut Fields) -> Result<i64, Rejection> {
    required("quantity", read_number("quantity", fields.quantity.take(), 1..=STOCK_MAX)?)
}

fn read_window(fields: &mut Fields) -> Result<(Option<OffsetDateTime>, Option<OffsetDateTime>), Rejection> {
    let opens_at = read_time("opens_at", fields.opens_at.take())?;
    let closes_at = read_time("closes_at", fields.closes_at.take())?;
    if opens_at.zip(closes_at).is_some_and(|(opens_at, closes_at)| closes_at <= opens_at) {
        return Err(invalid("The field closes_at is not after opens_at."));
    }
    Ok((opens_at, closes_at))
}

fn read_rules(fields: Option<RuleFields>) -> Result<Option<Rules>, Rejection> {
    let (max_per_buyer, cooldown_ms, tiers, unknown) = match fields {
        None => return Ok(None),
        Some(RuleFields::Each { max_per_buyer, cooldown_ms, tiers, unknown }) => {
            (max_per_buyer, cooldown_ms, tiers, unknown)
        }
        Some(RuleFields::Other(Value::Object(_))) => return Err(invalid("The field rules has a name twice.")),
        Some(RuleFields::Other(_)) => return Err(wrong_type("rules", "an object")),
    };
    let read = Rules {
        max_per_buyer: read_number("rules.max_per_buyer", max_per_buyer, 1..=STOCK_MAX)?,
        cooldown_ms: read_number("rules.cooldown_ms", cooldown_ms, 1..=TIME_MS_MAX)?,
        tiers: tiers.map(read_tiers).transpose()?,
    };
    // A rule that nobody would keep to.
    if unknown.is_empty() {
        return Ok(Some(read));
    }
    Err(invalid(format!("The field rules has a name that is none of {}.", RULE_NAMES.join(", "))))
}

fn read_tiers(value: Value) -> Result<BTreeSet<String>, Rejection> {
    let Value::Array(tiers) = value else { return Err(wrong_type("rules.tiers", "an array")) };
    if !(1..=TIERS_MAX).contains(&tiers.len()) {
        return Err(invalid(format!("The field rules.tiers has not 1 to {TIERS_MAX} ids.")));
    }
    tiers.into_iter().map(|tier| read_id("rules.tiers", Some(tier))).collect()
}

fn read_number(name: &str, value: Option<Value>, allowed: RangeInclusive<i64>) -> Result<Option<i64>, Rejection> {
    let Some(value) = value else { return Ok(None) };
    let Value::Number(number) = value else { return Err(wrong_type(name, "a number")) };
    whole(&number).filter(|number| allowed.contains(number)).map(Some).ok_or_else(|| {
        let (least, most) = allowed.into_inner();
        invalid(format!("The field {name} is not a whole number from {least} to {most}."))
    })
}

/// In UTC, and to the microsecond, as the database keeps it: what is later here is later there.
fn read_time(name: &str, value: Option<Value>) -> Result<Option<OffsetDateTime>, Rejection> {
    let Some(value) = value else { return Ok(None) };
    let time = OffsetDateTime::parse(&read_text(name, Some(value))?, &Rfc3339)
        .ok()
        .and_then(|time| time.checked_to_offset(UtcOffset::UTC))
        .and_then(|time| time.replace_nanosecond(time.nanosecond() / 1_000 * 1_000).ok())
        .filter(|time| TIMES.contains(time));
    let message = || format!("The field {name} is not a time of the years 1 to 9998 as RFC 3339 writes it.");
    time.map(Some).ok_or_else(|| invalid(message()))
}

fn wrong_type(name: &str, expected: &str) -> Rejection {
    malformed(format!("The field {name} is not {expected}."))
}

#[cfg(test)]
mod tests;
