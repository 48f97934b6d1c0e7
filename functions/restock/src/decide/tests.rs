//! The decision on data made up here.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where by panicking")]

use super::*;
use proptest::prelude::*;
use shared::devstack::seed::codes;
use shared::idempotency::Recorded;
use shared::messages::{Operation, Rules};
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

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

/// Does these to the item `a`, one after another.
fn of(operations: &[Operation], a: Item) -> (Vec<Code>, Item) {
    let requests: Vec<_> =
        operations.iter().enumerate().map(|(id, operation)| request(id, "a", operation.clone())).collect();
    let plan = decided(&requests, items([a.clone()])).unwrap().0;
    (codes(&plan.answers), plan.changed.get("a").cloned().unwrap_or(a))
}

#[test]
fn a_sale_that_is_closed_stays_closed_since_it_was_and_has_no_window_that_ends_before_it_begins() {
    let (hour, minute) = (NOW + Duration::HOUR, NOW + Duration::MINUTE);
    let close = |opens_at, closes_at| {
        let (_, a) = of(&[Operation::Close], Item { opens_at, closes_at, ..item("a", 5) });
        (a.opens_at, a.closes_at)
    };
    assert_eq!(close(None, None), (None, Some(NOW)));
    assert_eq!(close(Some(minute), Some(hour)), (None, Some(NOW)), "one that has not begun never begins");
    assert_eq!(close(Some(NOW), None), (None, Some(NOW)));
    let over = NOW - Duration::HOUR;
    assert_eq!(close(None, Some(over)), (None, Some(over)), "since then");
}

#[test]
fn a_sale_is_opened_at_one_end_alone_and_the_other_stays() {
    let [past, soon, later, last] = [-1, 1, 2, 3].map(|hours| Some(NOW + Duration::hours(hours)));
    let opened = |opens_at, closes_at, operation| {
        let (codes, a) = of(&[operation], Item { opens_at, closes_at, ..item("a", 5) });
        (codes[0] == Code::Opened).then_some((a.opens_at, a.closes_at))
    };
    for (window, operation, expected) in [
        ((soon, None), open(None, last), Some((soon, last))),
        ((soon, later), open(None, last), Some((soon, last))),
        ((None, None), open(None, last), Some((None, last))),
        ((past, past), open(None, last), Some((past, last))),
        ((soon, last), open(later, None), Some((later, last))),
        ((None, past), open(later, None), Some((later, None))),
        ((soon, later), open(None, None), Some((Some(NOW), None))),
        ((past, past), open(soon, last), Some((soon, last))),
        ((later, None), open(None, soon), None),
        ((None, soon), open(later, None), None),
        ((None, None), open(None, past), None),
    ] {
        assert_eq!(opened(window.0, window.1, operation.clone()), expected, "{window:?} {operation:?}");
    }
}

#[test]
fn a_window_that_is_over_is_not_recorded_so_a_corrected_request_may_have_its_id() {
    let requests = [request(1, "a", open(None, Some(NOW))), request(1, "a", open(None, None))];
    let (plan, added) = decided(&requests, items([item("a", 5)])).unwrap();
    assert_eq!(codes(&plan.answers), [Code::InvalidField, Code::Opened]);
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
            for new in verdicts.all_added() {
                let item = new.about.item.map(Into::into);
                recorded.insert(new.request_id.to_owned(), Recorded { item, ..new.recorded.clone() });
            }
        }
        let (whole, _) = whole.unwrap();
        prop_assert_eq!(whole.answers, answers);
        for (id, item) in whole.created.iter().chain(&whole.changed) {
            prop_assert_eq!(item, &single[id]);
            prop_assert_eq!(item.available + item.held + item.sold, item.stock);
            prop_assert!(item.available >= 0);
            prop_assert_eq!((item.held, item.sold), start().get(id).map_or((0, 0), |_| (2, 1)), "not ours to move");
            prop_assert!(item.opens_at.zip(item.closes_at).is_none_or(|(opens_at, closes_at)| opens_at < closes_at));
        }
    }
}
