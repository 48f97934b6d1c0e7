//! The decision on data made up here.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

use super::*;
use proptest::prelude::*;
use shared::idempotency::Recorded;
use shared::messages::{Operation, Rules, STOCK_MAX};
use time::{Duration, OffsetDateTime, macros::datetime};

const NOW: OffsetDateTime = datetime!(2026-11-27 10:00 UTC);

fn request(id: usize, item: &str, operation: Operation) -> RestockRequest {
    RestockRequest { request_id: format!("s-{id}"), item: item.to_owned(), operation }
}

fn create(stock: i64) -> Operation {
    Operation::Create { stock, hold_ms: 1, opens_at: None, closes_at: None, rules: Rules::default() }
}

fn open(opens_at: Option<OffsetDateTime>, closes_at: Option<OffsetDateTime>) -> Operation {
    Operation::Open { opens_at, closes_at }
}

/// An item with these units, 2 of them held and 1 sold.
fn item(id: &str, available: i64) -> Item {
    Item {
        id: id.to_owned(),
        stock: available + 3,
        available,
        held: 2,
        sold: 1,
        version: 7,
        hold_ms: 600_000,
        opens_at: None,
        closes_at: None,
        rules: Rules::default(),
        finds_orders: false,
    }
}

fn items<const N: usize>(items: [Item; N]) -> HashMap<String, Item> {
    items.into_iter().map(|item| (item.id.clone(), item)).collect()
}

/// What is decided, and how many verdicts it adds.
fn decided(requests: &[RestockRequest], items: HashMap<String, Item>) -> Result<(Plan, usize), BTreeSet<String>> {
    let mut verdicts = Verdicts::at(NOW, HashMap::new());
    let plan = decide(requests, items, &mut verdicts)?;
    Ok((plan, verdicts.all_added().len()))
}

fn verdict(answer: &Answer) -> Verdict {
    match answer {
        Answer::Verdict(reply) => serde_json::from_str(reply).unwrap(),
        Answer::Rejected(rejection) => rejection.verdict(),
        Answer::Requeue => panic!("it is decided at once"),
    }
}

fn codes(plan: &Plan) -> Vec<Code> {
    plan.answers.iter().map(|answer| verdict(answer).code).collect()
}

/// Does these to the item `a`, one after another.
fn of(operations: &[Operation], a: Item) -> (Vec<Code>, Item) {
    let requests: Vec<_> =
        operations.iter().enumerate().map(|(id, operation)| request(id, "a", operation.clone())).collect();
    let plan = decided(&requests, items([a.clone()])).unwrap().0;
    (codes(&plan), plan.changed.get("a").cloned().unwrap_or(a))
}

#[test]
fn stock_is_added_and_removed_but_never_what_is_held_or_sold() {
    let (found, a) = of(
        &[Operation::Remove { quantity: 6 }, Operation::Remove { quantity: 5 }, Operation::Add { quantity: 2 }],
        item("a", 5),
    );
    assert_eq!(found, [Code::StockInUse, Code::Removed, Code::Added]);
    assert_eq!((a.stock, a.available, a.held, a.sold, a.version), (5, 2, 2, 1, 9), "a version for each that is done");
    let (plan, added) = decided(&[request(1, "a", Operation::Remove { quantity: 6 })], items([item("a", 5)])).unwrap();
    let message = verdict(&plan.answers[0]).message;
    assert_eq!(message, "5 units of a can be removed, 6 asked for; the others are held or sold.");
    assert_eq!((plan.changed.len(), plan.events.len(), added), (0, 0, 1), "it is recorded, and that is all");
}

#[test]
fn no_item_gets_more_units_than_an_item_can_have() {
    let most = STOCK_MAX - 8;
    let add = |quantity| Operation::Add { quantity };
    let (found, a) = of(&[add(STOCK_MAX), add(most + 1), add(most), add(1)], item("a", 5));
    assert_eq!(found, [Code::StockLimit, Code::StockLimit, Code::Added, Code::StockLimit]);
    assert_eq!(a.stock, STOCK_MAX);
}

#[test]
fn what_one_request_does_the_next_one_finds() {
    let operations = [create(1), Operation::Add { quantity: 2 }, Operation::Remove { quantity: 3 }, create(5)];
    let requests: Vec<_> = operations.into_iter().enumerate().map(|(id, next)| request(id, "new", next)).collect();
    let (plan, _) = decided(&requests, items([])).unwrap();
    assert_eq!(codes(&plan), [Code::Created, Code::Added, Code::Removed, Code::ItemExists]);
    assert_eq!((plan.created["new"].stock, plan.created["new"].version, plan.changed.len()), (0, 2, 0));
    let published: Vec<_> = plan.events.iter().map(|(kind, item)| (*kind, item.stock)).collect();
    assert_eq!(
        published,
        [(EventKind::ItemCreated, 1), (EventKind::ItemStockAdded, 3), (EventKind::ItemStockRemoved, 0)]
    );
    let versions: Vec<_> = plan.answers.iter().map(|answer| verdict(answer).item_version).collect();
    assert_eq!(versions, [None, Some(0), Some(1), Some(2)]);

    let early: Vec<_> = requests.into_iter().rev().collect();
    let (plan, _) = decided(&early[1..], items([])).unwrap();
    assert_eq!(codes(&plan), [Code::UnknownItem, Code::UnknownItem, Code::Created]);
}

#[test]
fn a_sale_opens_now_or_later_and_closes_now() {
    let (hour, minute) = (NOW + Duration::HOUR, NOW + Duration::MINUTE);
    for (operation, code, opens_at, closes_at) in [
        (open(None, None), Code::Opened, Some(NOW), None),
        (open(Some(minute), Some(hour)), Code::Opened, Some(minute), Some(hour)),
        (open(None, Some(minute)), Code::Opened, Some(NOW), Some(minute)),
        (open(None, Some(NOW)), Code::InvalidField, None, None),
        (open(Some(NOW - Duration::HOUR), Some(NOW - Duration::MINUTE)), Code::InvalidField, None, None),
        (Operation::Close, Code::Closed, None, Some(NOW)),
    ] {
        let (found, a) = of(std::slice::from_ref(&operation), item("a", 5));
        assert_eq!((&found[..], a.opens_at, a.closes_at), (&[code][..], opens_at, closes_at), "{operation:?}");
    }
    // One that has not begun never begins, and one that is over was over since then.
    let later = Item { opens_at: Some(minute), closes_at: Some(hour), ..item("a", 5) };
    assert_eq!(of(&[Operation::Close], later).1.closes_at, Some(NOW));
    let over = Item { opens_at: None, closes_at: Some(NOW - Duration::HOUR), ..item("a", 5) };
    assert_eq!(of(&[Operation::Close], over).1.closes_at, Some(NOW - Duration::HOUR));
    let (_, a) = of(&[open(None, None), Operation::Close], item("a", 5));
    assert_eq!((a.opens_at, a.closes_at), (None, Some(NOW)), "a window that begins before it ends");
}

#[test]
fn a_window_that_is_over_is_not_recorded_so_a_corrected_request_may_have_its_id() {
    let requests = [request(1, "a", open(None, Some(NOW))), request(1, "a", open(None, None))];
    let (plan, added) = decided(&requests, items([item("a", 5)])).unwrap();
    assert_eq!(codes(&plan), [Code::InvalidField, Code::Opened]);
    assert_eq!(added, 1);
}

#[test]
fn rules_about_earlier_orders_wait_until_those_are_counted_and_other_rules_do_not() {
    let tiers = Rules { tiers: Some(["vip".to_owned()].into()), ..Rules::default() };
    let limit = Rules { max_per_buyer: Some(2), ..tiers.clone() };
    let cooldown = Rules { cooldown_ms: Some(5), ..Rules::default() };
    for rules in [&limit, &cooldown] {
        let set = Operation::Rules { rules: rules.clone() };
        let requests = [request(1, "a", set.clone()), request(2, "b", Operation::Close), request(3, "b", set.clone())];
        let counted = Item { finds_orders: true, ..item("a", 1) };
        let uncounted = decided(&requests, items([counted.clone(), item("b", 1)])).unwrap_err();
        assert_eq!(uncounted, ["b".to_owned()].into());
        let (found, a) = of(&[set, Operation::Rules { rules: tiers.clone() }], counted);
        assert_eq!((found, &a.rules), (vec![Code::RulesSet; 2], &tiers), "the whole set is replaced");
        // Nobody has ordered what is created here.
        let requests = [request(1, "new", create(1)), request(2, "new", Operation::Rules { rules: rules.clone() })];
        assert_eq!(decided(&requests, items([])).unwrap().0.created["new"].rules, *rules);
    }
    assert_eq!(of(&[Operation::Rules { rules: tiers.clone() }], item("a", 1)).1.rules, tiers);
}

fn operation() -> impl Strategy<Value = Operation> {
    let time = || prop::option::of((-3..4_i64).prop_map(|hours| NOW + Duration::hours(hours)));
    prop_oneof![
        (0..6_i64).prop_map(create),
        (1..6_i64).prop_map(|quantity| Operation::Add { quantity }),
        (1..6_i64).prop_map(|quantity| Operation::Remove { quantity }),
        (time(), time()).prop_map(|(opens_at, closes_at)| open(opens_at, closes_at)),
        Just(Operation::Close),
        prop::option::of(1..3_i64)
            .prop_map(|max_per_buyer| { Operation::Rules { rules: Rules { max_per_buyer, ..Rules::default() } } }),
    ]
}

proptest! {
    #[test]
    fn deciding_a_batch_is_deciding_its_requests_one_by_one(
        operations in prop::collection::vec((0..12_usize, 0..3_usize, operation()), 0..24),
    ) {
        let start = || items([Item { finds_orders: true, ..item("item-0", 4) }, item("item-1", 0)]);
        let requests: Vec<_> =
            operations.into_iter().map(|(id, item, next)| request(id, &format!("item-{item}"), next)).collect();
        let whole = decided(&requests, start());
        let (mut single, mut recorded, mut answers) = (start(), HashMap::<String, Recorded>::new(), Vec::new());
        for request in &requests {
            let mut verdicts = Verdicts::at(NOW, recorded.clone());
            let Ok(plan) = decide(std::slice::from_ref(request), single.clone(), &mut verdicts) else {
                prop_assert!(whole.is_err());
                return Ok(());
            };
            answers.extend(plan.answers);
            single.extend(plan.created.into_iter().chain(plan.changed));
            recorded.extend(verdicts.all_added().iter().map(|new| (new.request_id.to_owned(), new.recorded.clone())));
        }
        let (whole, _) = whole.unwrap();
        prop_assert_eq!(whole.answers, answers);
        for (id, item) in whole.created.iter().chain(&whole.changed) {
            prop_assert_eq!(item, &single[id]);
            prop_assert_eq!(item.available + item.held + item.sold, item.stock);
            prop_assert!(item.available >= 0);
            prop_assert!(item.opens_at.zip(item.closes_at).is_none_or(|(opens_at, closes_at)| opens_at < closes_at));
        }
    }
}
