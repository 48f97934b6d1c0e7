//! The decision on data made up here.
#![allow(clippy::wildcard_enum_match_arm, reason = "a test names the outcomes it expects, and fails on any other")]

use super::*;
use proptest::prelude::*;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-27 10:00 UTC);

mod interleaved;

/// Buyers are few, so that they come again.
fn request(id: u32, item: &str, quantity: u32) -> PurchaseRequest {
    let (request_id, buyer) = (format!("r-{id}"), format!("b-{}", id % 3));
    PurchaseRequest { request_id, item: item.to_owned(), buyer, quantity, deadline: None }
}

fn item(available: i64) -> Item {
    let hold = Duration::from_secs(600);
    Item { version: 7, available, hold, rules: Rules::default(), histories: HashMap::new() }
}

/// The same with these rules.
fn ruled(available: i64, rules: Rules) -> Item {
    Item { rules, ..item(available) }
}

fn snapshot<const N: usize>(items: [(&str, Item); N]) -> Snapshot {
    let items = items.into_iter().map(|(id, item)| (id.to_owned(), item)).collect();
    Snapshot { now: NOW, items, recorded: HashMap::new(), tiers: HashMap::new() }
}

fn decided<'a>(requests: &'a [PurchaseRequest], snapshot: &Snapshot) -> Plan<'a> {
    let mut minted = 0;
    decide(&requests.iter().collect::<Vec<_>>(), snapshot, || {
        minted += 1;
        Uuid::from_u128(minted)
    })
}

fn verdict(outcome: &Outcome) -> Verdict {
    match outcome {
        Outcome::Decided(decision) => serde_json::from_str(&decision.reply).unwrap(),
        outcome => panic!("not a new verdict: {outcome:?}"),
    }
}

/// Decides one by one, each on what the one before left: what deciding a batch must be equal to.
fn one_by_one(requests: &[PurchaseRequest], mut snapshot: Snapshot) -> Vec<(Code, Option<u32>)> {
    let mut codes = Vec::new();
    for request in requests {
        let plan = decided(std::slice::from_ref(request), &snapshot);
        codes.push(match &plan.outcomes[0] {
            Outcome::Repeat(reply) => code(&serde_json::from_str(reply).unwrap()),
            Outcome::Reused(rejection) => (rejection.code, None),
            Outcome::SameAs(_) | Outcome::ClashesWith(..) => unreachable!("a batch of one"),
            outcome @ Outcome::Decided(decision) => {
                let recorded = Recorded { fingerprint: decision.fingerprint, reply: decision.reply.clone() };
                snapshot.recorded.insert(request.request_id.clone(), recorded);
                if let Some(order) = &decision.order {
                    let item = snapshot.items.get_mut(&order.item).unwrap();
                    let history = item.histories.entry(request.buyer.clone()).or_default();
                    *history = history.after(order.quantity, snapshot.now);
                }
                code(&verdict(outcome))
            }
        });
        for (id, change) in plan.changes {
            snapshot.items.get_mut(id).unwrap().available -= change.units;
        }
    }
    codes
}

fn code(verdict: &Verdict) -> (Code, Option<u32>) {
    (verdict.code, verdict.order.as_ref().map(|order| order.quantity))
}

proptest! {
    #[test]
    fn deciding_a_batch_is_deciding_one_by_one(
        wishes in prop::collection::vec((0_u32..30, 0_usize..4, 1_u32..4), 0..60),
        stocks in [0_i64..30, 0_i64..30, 0_i64..30],
    ) {
        // Few ids, so that repeats and reuse happen; the item "none" does not exist.
        let names = ["a", "b", "c", "none"];
        let requests: Vec<_> = wishes.iter().map(|(id, name, quantity)| request(*id, names[*name], *quantity)).collect();
        let limited = Rules { max_per_buyer: Some(5), ..Rules::default() };
        let vip = Rules { cooldown: Some(Duration::from_secs(1)), tiers: Some(vec!["vip".to_owned()]), ..Rules::default() };
        let items = [("a", item(stocks[0])), ("b", ruled(stocks[1], limited)), ("c", ruled(stocks[2], vip))];
        let mut before = snapshot(items);
        before.tiers = ["b-0", "b-1"].map(|buyer| (buyer.to_owned(), "vip".to_owned())).into();
        before.items.get_mut("b").unwrap().histories.insert("b-2".to_owned(), BuyerHistory::default().after(3, NOW));
        let plan = decided(&requests, &before);
        let codes: Vec<_> = plan.outcomes.iter().map(|outcome| match outcome {
            Outcome::SameAs(first) => code(&verdict(&plan.outcomes[*first])),
            Outcome::Reused(rejection) | Outcome::ClashesWith(_, rejection) => (rejection.code, None),
            outcome => code(&verdict(outcome)),
        }).collect();
        prop_assert_eq!(codes, one_by_one(&requests, before.clone()));

        // Conservation: what an item gives away is what its orders hold, and never more than it has.
        for (id, change) in &plan.changes {
            let held: i64 = plan.outcomes.iter().filter_map(|outcome| match outcome {
                Outcome::Decided(Decision { order: Some(order), .. }) if order.item == *id => Some(i64::from(order.quantity)),
                _ => None,
            }).sum();
            prop_assert_eq!(held, change.units);
            prop_assert!(change.units <= before.items[*id].available);
        }
    }

    #[test]
    fn who_comes_first_is_served_first(quantities in prop::collection::vec(1_u32..5, 0..60), stock in 0_i64..60) {
        let requests: Vec<_> = (0..).zip(&quantities).map(|(id, quantity)| request(id, "a", *quantity)).collect();
        let plan = decided(&requests, &snapshot([("a", item(stock))]));
        let mut smallest_refused = u32::MAX;
        for (request, outcome) in requests.iter().zip(&plan.outcomes) {
            match verdict(outcome).status {
                Status::Reserved => prop_assert!(request.quantity < smallest_refused, "{} was passed over", request.request_id),
                Status::SoldOut | Status::Refused | Status::Done | Status::Invalid => smallest_refused = smallest_refused.min(request.quantity),
            }
        }
    }
}

#[test]
fn each_refusal_names_its_reason() {
    let hour = Duration::from_secs(3_600);
    let items = || {
        snapshot([
            ("open", ruled(2, Rules { opens_at: Some(NOW), closes_at: Some(NOW + hour), ..Rules::default() })),
            ("early", ruled(2, Rules { opens_at: Some(NOW + hour), ..Rules::default() })),
            ("late", ruled(2, Rules { closes_at: Some(NOW), ..Rules::default() })),
            ("gone", item(0)),
            ("gone-one-each", ruled(0, Rules { max_per_buyer: Some(1), ..Rules::default() })),
        ])
    };
    let cases = [
        (request(1, "open", 2), Code::Reserved, "2 units are held for you until 2026-11-27T10:10:00Z: open."),
        (request(1, "open", 3), Code::SoldOut, "2 of open left, 3 asked for."),
        (request(1, "gone", 1), Code::SoldOut, "gone is sold out."),
        (request(1, "early", 1), Code::SaleNotOpen, "The sale of early opens at 2026-11-27T11:00:00Z."),
        (request(1, "late", 1), Code::SaleClosed, "The sale of late closed at 2026-11-27T10:00:00Z."),
        (request(1, "none", 1), Code::UnknownItem, "There is no item none."),
        // A rule is told before the stock, and where it allows the request, the stock.
        (
            request(1, "gone-one-each", 2),
            Code::BuyerLimit,
            "One buyer may have 1 of gone-one-each, held and paid for; you have 0, so you may ask for 1 more, not 2.",
        ),
        (request(1, "gone-one-each", 1), Code::SoldOut, "gone-one-each is sold out."),
        (
            PurchaseRequest { deadline: Some(NOW), ..request(1, "open", 1) },
            Code::DeadlinePassed,
            "The request's deadline, 2026-11-27T10:00:00Z, has passed.",
        ),
    ];
    for (request, code, message) in cases {
        let found = verdict(&decided(std::slice::from_ref(&request), &items()).outcomes[0]);
        assert_eq!((found.code, found.message.as_str()), (code, message));
        assert_eq!(found.item_version, (code != Code::UnknownItem).then_some(7));
    }
}

#[test]
fn a_repeat_gets_the_recorded_reply_and_other_content_gets_none() {
    let requests = [request(1, "a", 1), request(1, "a", 2)];
    let mut before = snapshot([("a", item(5))]);
    let recorded = Recorded { fingerprint: requests[0].fingerprint(), reply: "as it was sent".to_owned() };
    before.recorded.insert("r-1".to_owned(), recorded);
    let plan = decided(&requests, &before);
    assert_eq!(plan.outcomes[0], Outcome::Repeat("as it was sent".to_owned()));
    assert!(matches!(&plan.outcomes[1], Outcome::Reused(rejection) if rejection.code == Code::RequestIdReused));
    assert!(plan.changes.is_empty(), "neither touches the item");
}

#[test]
fn what_a_buyer_reserves_counts_for_the_next_request_of_the_same_batch() {
    let rules = |max, cooldown| Rules { max_per_buyer: max, cooldown, ..Rules::default() };
    let items =
        [("few", ruled(9, rules(Some(2), None))), ("slow", ruled(9, rules(None, Some(Duration::from_millis(1)))))];
    let of = |number, buyer: &str, item, quantity| {
        let buyer = buyer.to_owned();
        PurchaseRequest { buyer, ..request(number, item, quantity) }
    };
    let requests = [
        of(0, "ann", "few", 2),
        of(1, "ann", "few", 1),
        of(2, "bob", "few", 3),
        of(3, "bob", "few", 1),
        of(4, "ann", "slow", 1),
        of(5, "ann", "slow", 1),
        of(6, "bob", "slow", 1),
    ];
    let plan = decided(&requests, &snapshot(items));
    let codes: Vec<_> = plan.outcomes.iter().map(|outcome| verdict(outcome).code).collect();
    let (reserved, limit) = (Code::Reserved, Code::BuyerLimit);
    // What was refused counts for nothing, and nobody counts for another.
    assert_eq!(codes, [reserved, limit, limit, reserved, reserved, Code::Cooldown, reserved]);
    assert_eq!((plan.changes["few"].units, plan.changes["slow"].units), (3, 2));
}
