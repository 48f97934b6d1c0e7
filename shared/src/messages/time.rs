//! Moments as replies and events say them: RFC 3339 in UTC, always with six digits of a second, as Python 3.10 asks.
//!
//! For `#[serde(with = "…")]`. What is read may have any offset and any digits. Requests are written by the `time` crate's
//! own rules instead: fingerprints on record are made of that text.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cell::RefCell;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

thread_local! {
    /// The last two texts: the verdicts of a batch say when they were decided, and until when units are held, thousands of times.
    static LAST: RefCell<[Option<(OffsetDateTime, String)>; 2]> = const { RefCell::new([None, None]) };
}

/// The moment as a text, for people too.
pub fn text(at: OffsetDateTime) -> String {
    LAST.with_borrow_mut(|last| {
        if let Some((_, text)) = last.iter().flatten().find(|(moment, _)| *moment == at) {
            return text.clone();
        }
        let text = at.to_offset(UtcOffset::UTC).format(FORMAT);
        let text = text.expect("the years that the database keeps here have four digits");
        last.swap(0, 1);
        last[0] = Some((at, text.clone()));
        text
    })
}

pub fn serialize<S: Serializer>(at: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*at))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OffsetDateTime, D::Error> {
    time::serde::rfc3339::deserialize(deserializer)
}

/// The same for a moment that may be absent.
pub mod option {
    use super::*;

    pub fn serialize<S: Serializer>(at: &Option<OffsetDateTime>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(text).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<OffsetDateTime>, D::Error> {
        #[derive(Deserialize)]
        struct Moment(#[serde(with = "super")] OffsetDateTime);
        Ok(Option::<Moment>::deserialize(deserializer)?.map(|Moment(at)| at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn a_moment_always_has_six_digits_and_is_in_utc() {
        for (at, expected) in [
            (datetime!(2026-11-27 10:00 UTC), "2026-11-27T10:00:00.000000Z"),
            (datetime!(2026-11-27 10:00 UTC), "2026-11-27T10:00:00.000000Z"),
            (datetime!(2026-11-27 10:00:00.5 UTC), "2026-11-27T10:00:00.500000Z"),
            (datetime!(2026-11-27 10:00:00.123_456_789 UTC), "2026-11-27T10:00:00.123456Z"),
            (datetime!(2026-11-27 10:00 +01:00), "2026-11-27T09:00:00.000000Z"),
            (datetime!(0001-01-01 00:00 UTC), "0001-01-01T00:00:00.000000Z"),
        ] {
            assert_eq!(text(at), expected);
        }
    }
}
