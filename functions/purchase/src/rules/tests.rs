//! The rules on data made up here: what each says, where it ends, and which of them comes first.

use super::*;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-27 10:00 UTC);
const HOUR: Duration = Duration::HOUR;
const HOUR_MS: Option<i64> = Some(3_600_000);
const NONE: Rules = Rules { opens_at: None, closes_at: None, tiers: None, cooldown_ms: None, max_per_buyer: None };

/// A buyer who bought these units `ago`.
fn buyer(units: i64, ago: Duration) -> Buyer<'static> {
    Buyer { tier: None, history: BuyerHistory { units, last_at: Some(NOW - ago) } }
}

fn of_tier(tier: &str) -> Buyer<'_> {
    Buyer { tier: Some(tier), ..Buyer::default() }
}

fn tiers<const N: usize>(names: [&str; N]) -> Rules {
    Rules { tiers: Some(names.map(str::to_owned).to_vec()), ..NONE }
}

fn at_most(max: i64) -> Rules {
    Rules { max_per_buyer: Some(max), ..NONE }
}

/// Why a request for this quantity gets nothing.
fn refused(rules: &Rules, quantity: u32, buyer: &Buyer) -> Option<Refusal> {
    let [request_id, item, name] = ["r", "a", "b"].map(str::to_owned);
    rules.refuse(&PurchaseRequest { request_id, item, buyer: name, quantity, deadline: None, sender: None }, NOW, buyer)
}

fn code(rules: &Rules, quantity: u32, buyer: &Buyer) -> Option<Code> {
    refused(rules, quantity, buyer).map(|(code, _)| code)
}

#[test]
fn without_rules_everything_is_allowed_and_nothing_is_asked_for() {
    assert_eq!(refused(&NONE, 1_000, &buyer(i64::MAX, Duration::ZERO)), None);
    let window = Rules { opens_at: Some(NOW), closes_at: Some(NOW + HOUR), ..NONE };
    assert!(!NONE.look_at_buyers() && !window.look_at_buyers(), "a sale window asks nothing of the buyer");
}

#[test]
fn each_refusal_says_when_or_what_would_be_allowed() {
    let (bought, new) = (buyer(3, HOUR), Buyer::default());
    let limit = |max, has, may| {
        format!("One buyer may have {max} of a, held and paid for; you have {has}, so you may ask for {may}.")
    };
    let cooldown =
        "You bought a at 2026-11-27T09:00:00.000000Z; you may buy more of it from 2026-11-27T11:00:00.000000Z on.";
    let long = format!("a is for buyers of tier gold or {} or others only; you have none.", "v".repeat(128));
    for (rules, quantity, buyer, message) in [
        (Rules { opens_at: Some(NOW + HOUR), ..NONE }, 1, new, "The sale of a opens at 2026-11-27T11:00:00.000000Z."),
        (Rules { closes_at: Some(NOW), ..NONE }, 1, new, "The sale of a closed at 2026-11-27T10:00:00.000000Z."),
        (tiers(["vip"]), 1, new, "a is for buyers of tier vip only; you have none."),
        (tiers(["vip"]), 1, of_tier("silver"), "a is for buyers of tier vip only; yours is silver."),
        (tiers(["gold", "vip"]), 1, new, "a is for buyers of tier gold or vip only; you have none."),
        (tiers(["gold", &"v".repeat(128), &"w".repeat(128)]), 1, new, &long),
        (Rules { cooldown_ms: Some(7_200_000), ..NONE }, 1, bought, cooldown),
        (at_most(4), 2, bought, &limit(4, 3, "1 more, not 2")),
        (at_most(4), 5, new, &limit(4, 0, "4 more, not 5")),
        (at_most(3), 1, bought, &limit(3, 3, "no more")),
        // Lowered below what they have.
        (at_most(2), 1, bought, &limit(2, 3, "no more")),
    ] {
        assert_eq!(refused(&rules, quantity, &buyer).unwrap().1, message);
    }
}

#[test]
fn each_rule_ends_where_it_says() {
    let cooldown = Rules { cooldown_ms: HOUR_MS, ..NONE };
    for (has, asks, allowed) in [(0, 4, true), (0, 5, false), (3, 1, true), (3, 2, false), (4, 1, false)] {
        let found = code(&at_most(4), asks, &buyer(has, HOUR));
        assert_eq!(found, (!allowed).then_some(Code::BuyerLimit), "has {has}, asks for {asks}");
    }
    assert_eq!(code(&cooldown, 1, &buyer(1, HOUR)), None);
    assert_eq!(code(&cooldown, 1, &buyer(1, HOUR - Duration::MICROSECOND)), Some(Code::Cooldown));
    assert_eq!(code(&cooldown, 1, &Buyer::default()), None, "who bought nothing waits for nothing");
    for (tier, allowed) in [("vip", true), ("gold", true), ("VIP", false), ("vi", false)] {
        let found = code(&tiers(["vip", "gold"]), 1, &of_tier(tier));
        assert_eq!(found, (!allowed).then_some(Code::NotEligible), "a tier is a whole word: {tier}");
    }
}

#[test]
fn what_no_waiting_cures_is_told_first() {
    let open = Rules { cooldown_ms: HOUR_MS, max_per_buyer: Some(2), ..tiers(["vip"]) };
    let closed = Rules { closes_at: Some(NOW), ..open.clone() };
    let vip = |units, ago| Buyer { tier: Some("vip"), ..buyer(units, ago) };
    let now = Duration::ZERO;
    for (rules, quantity, buyer, expected, why) in [
        (&closed, 1, buyer(2, now), Some(Code::SaleClosed), "whoever it is"),
        (&open, 1, buyer(2, now), Some(Code::NotEligible), "whatever they have"),
        (&open, 1, vip(2, now), Some(Code::BuyerLimit), "tomorrow they may have no more either"),
        (&open, 1, vip(1, now), Some(Code::Cooldown), "then they may have one more"),
        (&open, 2, vip(1, now), Some(Code::Cooldown), "one unit less would not be allowed now"),
        (&open, 2, vip(1, HOUR), Some(Code::BuyerLimit), "one unit less would be"),
        (&open, 1, vip(1, HOUR), None, "all of them allow it"),
    ] {
        assert_eq!(code(rules, quantity, &buyer), expected, "{why}");
    }
}
