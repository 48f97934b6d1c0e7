//! The rules on data made up here: what each says, where it ends, and which of them comes first.

use super::*;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-27 10:00 UTC);
const HOUR: Duration = Duration::HOUR;
const HOUR_MS: Option<i64> = Some(3_600_000);

fn request(quantity: u32) -> PurchaseRequest {
    let [request_id, item, buyer] = ["r", "a", "b"].map(str::to_owned);
    PurchaseRequest { request_id, item, buyer, quantity, deadline: None }
}

/// A buyer who bought these units `ago`.
fn buyer(units: i64, ago: Duration) -> Buyer<'static> {
    Buyer { tier: None, history: BuyerHistory { units, last_at: Some(NOW - ago) } }
}

fn tiers<const N: usize>(names: [&str; N]) -> Option<Vec<String>> {
    Some(names.map(str::to_owned).to_vec())
}

/// Why a request for this quantity gets nothing.
fn refused(rules: &Rules, quantity: u32, buyer: &Buyer) -> Option<Refusal> {
    rules.refuse(&request(quantity), NOW, buyer)
}

fn code(rules: &Rules, quantity: u32, buyer: &Buyer) -> Option<Code> {
    refused(rules, quantity, buyer).map(|(code, _)| code)
}

#[test]
fn without_rules_everything_is_allowed_and_nothing_is_asked_for() {
    let rules = Rules::default();
    assert_eq!(refused(&rules, 1_000, &buyer(i64::MAX, Duration::ZERO)), None);
    assert!(!rules.look_at_history() && !rules.look_at_tier());
    let window = Rules { opens_at: Some(NOW), closes_at: Some(NOW + HOUR), ..Rules::default() };
    assert!(!window.look_at_history() && !window.look_at_tier(), "a sale window asks nothing of the buyer");
}

#[test]
fn each_refusal_says_when_or_what_would_be_allowed() {
    let none = Rules::default;
    let vip = Rules { tiers: tiers(["vip"]), ..none() };
    let limited = Rules { max_per_buyer: Some(4), ..none() };
    let cases = [
        (Rules { opens_at: Some(NOW + HOUR), ..none() }, 1, "The sale of a opens at 2026-11-27T11:00:00.000000Z."),
        (Rules { closes_at: Some(NOW), ..none() }, 1, "The sale of a closed at 2026-11-27T10:00:00.000000Z."),
        (vip, 1, "a is for buyers of tier vip only; you have none."),
        (
            Rules { tiers: tiers(["gold", "vip"]), ..none() },
            1,
            "a is for buyers of tier gold or vip only; you have none.",
        ),
        (
            Rules { cooldown_ms: Some(7_200_000), ..none() },
            1,
            "You bought a at 2026-11-27T09:00:00.000000Z; you may buy more of it from 2026-11-27T11:00:00.000000Z on.",
        ),
        (
            limited.clone(),
            2,
            "One buyer may have 4 of a, held and paid for; you have 3, so you may ask for 1 more, not 2.",
        ),
        (
            Rules { max_per_buyer: Some(3), ..none() },
            1,
            "One buyer may have 3 of a, held and paid for; you have 3, so you may ask for no more.",
        ),
    ];
    for (rules, quantity, message) in cases {
        assert_eq!(refused(&rules, quantity, &buyer(3, HOUR)).unwrap().1, message);
    }
    let new = refused(&limited, 5, &Buyer::default()).unwrap().1;
    assert_eq!(new, "One buyer may have 4 of a, held and paid for; you have 0, so you may ask for 4 more, not 5.");
    let silver = Buyer { tier: Some("silver"), ..Buyer::default() };
    let vip = Rules { tiers: tiers(["vip"]), ..none() };
    assert_eq!(refused(&vip, 1, &silver).unwrap().1, "a is for buyers of tier vip only; yours is silver.");
}

#[test]
fn a_limit_allows_what_reaches_it_and_refuses_what_passes_it() {
    let rules = Rules { max_per_buyer: Some(4), ..Rules::default() };
    for (has, asks, allowed) in [(0, 4, true), (0, 5, false), (3, 1, true), (3, 2, false), (4, 1, false)] {
        let found = code(&rules, asks, &buyer(has, HOUR));
        assert_eq!(found, (!allowed).then_some(Code::BuyerLimit), "has {has}, asks for {asks}");
    }
    // Lowered below what they have.
    assert!(refused(&rules, 1, &buyer(9, HOUR)).unwrap().1.contains("no more"));
}

#[test]
fn a_cooldown_ends_at_its_very_instant() {
    let rules = Rules { cooldown_ms: HOUR_MS, ..Rules::default() };
    let tick = Duration::MICROSECOND;
    assert_eq!(code(&rules, 1, &buyer(1, HOUR)), None);
    assert_eq!(code(&rules, 1, &buyer(1, HOUR - tick)), Some(Code::Cooldown));
    assert_eq!(code(&rules, 1, &Buyer::default()), None, "who bought nothing waits for nothing");
}

#[test]
fn a_tier_is_a_whole_word() {
    let rules = Rules { tiers: tiers(["vip", "gold"]), ..Rules::default() };
    for (tier, allowed) in [(Some("vip"), true), (Some("gold"), true), (Some("VIP"), false), (Some("vi"), false)] {
        let buyer = Buyer { tier, ..Buyer::default() };
        assert_eq!(code(&rules, 1, &buyer), (!allowed).then_some(Code::NotEligible), "{tier:?}");
    }
}

#[test]
fn what_no_waiting_cures_is_told_first() {
    let all = Rules {
        opens_at: None,
        closes_at: Some(NOW),
        tiers: tiers(["vip"]),
        cooldown_ms: HOUR_MS,
        max_per_buyer: Some(2),
    };
    let open = Rules { closes_at: None, ..all.clone() };
    let vip = |units| Buyer { tier: Some("vip"), ..buyer(units, Duration::ZERO) };
    assert_eq!(code(&all, 1, &buyer(2, Duration::ZERO)), Some(Code::SaleClosed));
    assert_eq!(code(&open, 1, &buyer(2, Duration::ZERO)), Some(Code::NotEligible));
    assert_eq!(code(&open, 1, &vip(2)), Some(Code::BuyerLimit), "tomorrow they may have no more either");
    assert_eq!(code(&open, 1, &vip(1)), Some(Code::Cooldown));
    assert_eq!(code(&open, 2, &vip(1)), Some(Code::Cooldown), "one unit less would not be allowed now");
    let rested = Buyer { tier: Some("vip"), ..buyer(1, HOUR) };
    assert_eq!(code(&open, 2, &rested), Some(Code::BuyerLimit));
    assert_eq!(code(&open, 1, &rested), None);
}
