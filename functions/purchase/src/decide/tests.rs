//! The decision on data made up here.

use super::*;
use proptest::prelude::*;
use shared::messages::Status;
use time::macros::datetime;

const NOW: OffsetDateTime = datetime!(2026-11-27 10:00 UTC);

mod interleaved;

/// Buyers are few, so that they come again.
fn request(id: u32, item: &str, quantity: u32) -> PurchaseRequest {
    let (request_id, buyer) = (format!("r-{id}"), format!("b-{}", id % 3));
    PurchaseRequest { request_id, item: item.to_owned(), buyer, quantity, deadline: None, sender: None }
}

fn item(available: i64) -> Item {
    Item { version: 7, available, hold_ms: 600_000, rules: Rules::default(), histories: HashMap::new() }
}

/// The same with these rules.
fn ruled(available: i64, rules: Rules) -> Item {
    Item { rules, ..item(available) }
}

fn snapshot<const N: usize>(items: [(&str, Item); N]) -> Snapshot {
    let items = items.into_iter().map(|(id, item)| (id.to_owned(), item)).collect();
    Snapshot { items, tiers: HashMap::new() }
}

/// A decided batch; nothing was on record before.
fn decided<'a, 'b>(requests: &'a [PurchaseRequest], snapshot: &'b Snapshot) -> Decided<'a, 'b> {
    let requests: Vec<_> = requests.iter().collect();
    let mut ids = 0;
    decide(&requests, snapshot, &mut Verdicts::at(NOW, HashMap::new()), || {
        ids += 1;
        Uuid::from_u128(ids)
    })
}

fn verdict(answer: &Answer) -> Verdict {
    match answer {
        Answer::Verdict(reply) => serde_json::from_str(reply).unwrap(),
        Answer::Rejected(rejection) => rejection.verdict(),
        Answer::Requeue | Answer::Later => panic!("it is decided at once"),
    }
}

fn code(answer: &Answer) -> (Code, Option<u32>) {
    let verdict = verdict(answer);
    (verdict.code, verdict.order.map(|order| order.quantity))
}

/// Decides one by one, each on what the one before left: what deciding a batch must be equal to.
fn one_by_one(requests: &[PurchaseRequest], mut snapshot: Snapshot) -> Vec<(Code, Option<u32>)> {
    let mut recorded = HashMap::new();
    let mut codes = Vec::new();
    for request in requests {
        let mut verdicts = Verdicts::at(NOW, recorded.clone());
        let decided = decide(&[request], &snapshot, &mut verdicts, Uuid::nil);
        codes.push(code(&decided.answers[0]));
        let units: Vec<_> = decided.changes.iter().map(|(id, change)| (*id, change.units)).collect();
        for (id, units) in units {
            let item = snapshot.items.get_mut(id).unwrap();
            item.available -= units;
            if units > 0 {
                let history = item.histories.entry(request.buyer.clone()).or_default();
                *history = history.after(request.quantity, NOW);
            }
        }
        recorded.extend(verdicts.all_added().iter().map(|new| (new.request_id.to_owned(), new.recorded.clone())));
    }
    codes
}

proptest! {
    #[test]
    fn deciding_a_batch_is_deciding_one_by_one(
        asked in prop::collection::vec((0_u32..30, 0_usize..4, 1_u32..4), 0..60),
        stocks in [0_i64..30, 0_i64..30, 0_i64..30],
    ) {
        // Few ids, so that repeats and reuse happen; the item "none" does not exist.
        let names = ["a", "b", "c", "none"];
        let requests: Vec<_> = asked.iter().map(|(id, name, quantity)| request(*id, names[*name], *quantity)).collect();
        let limited = Rules { max_per_buyer: Some(5), ..Rules::default() };
        let vip = Rules { cooldown_ms: Some(1_000), tiers: Some(vec!["vip".to_owned()]), ..Rules::default() };
        let items = [("a", item(stocks[0])), ("b", ruled(stocks[1], limited)), ("c", ruled(stocks[2], vip))];
        let mut before = snapshot(items);
        before.tiers = ["b-0", "b-1"].map(|buyer| (buyer.to_owned(), "vip".to_owned())).into();
        before.items.get_mut("b").unwrap().histories.insert("b-2".to_owned(), BuyerHistory::default().after(3, NOW));
        let decided = decided(&requests, &before);
        let codes: Vec<_> = decided.answers.iter().map(code).collect();
        prop_assert_eq!(codes, one_by_one(&requests, before.clone()));

        // Conservation: what an item gives away is what its orders hold, and never more than it has.
        for (id, change) in &decided.changes {
            let orders = decided.orders.iter().filter(|order| order.request.item == *id);
            prop_assert_eq!(orders.map(|order| i64::from(order.request.quantity)).sum::<i64>(), change.units);
            prop_assert!(change.units <= before.items[*id].available);
        }
    }

    /// What the commit of `atomic` goes by, where the row has moved on meanwhile.
    #[test]
    fn a_batch_that_is_not_exact_gets_the_same_answers_of_any_row_with_enough_units(
        quantities in prop::collection::vec(1_u32..5, 1..20), stock in 0_i64..40, moved in 0_i64..40,
    ) {
        let requests: Vec<_> = (0..).zip(&quantities).map(|(id, quantity)| request(id, "a", *quantity)).collect();
        let (before, meanwhile) = (snapshot([("a", item(stock))]), snapshot([("a", item(moved))]));
        let (decided, again) = (decided(&requests, &before), decided(&requests, &meanwhile));
        let change = decided.changes["a"];
        if moved >= change.units && !change.is_exact {
            prop_assert_eq!(decided.answers, again.answers);
        }
        prop_assert_eq!(change.is_exact, change.units < quantities.iter().map(|quantity| i64::from(*quantity)).sum());
    }

    #[test]
    fn who_comes_first_is_served_first(quantities in prop::collection::vec(1_u32..5, 0..60), stock in 0_i64..60) {
        let requests: Vec<_> = (0..).zip(&quantities).map(|(id, quantity)| request(id, "a", *quantity)).collect();
        let before = snapshot([("a", item(stock))]);
        let decided = decided(&requests, &before);
        let mut smallest_refused = u32::MAX;
        for (request, answer) in requests.iter().zip(&decided.answers) {
            match verdict(answer).status {
                Status::Reserved => prop_assert!(request.quantity < smallest_refused, "{} was passed over", request.request_id),
                Status::SoldOut | Status::Refused | Status::Done | Status::Invalid => smallest_refused = smallest_refused.min(request.quantity),
            }
        }
    }
}

#[test]
fn each_answer_says_why() {
    let open = Rules { opens_at: Some(NOW), closes_at: Some(NOW + Duration::HOUR), ..Rules::default() };
    let one_each = Rules { max_per_buyer: Some(1), ..Rules::default() };
    let items = snapshot([("open", ruled(2, open)), ("gone", item(0)), ("gone-one-each", ruled(0, one_each))]);
    let cases = [
        (request(1, "open", 2), Code::Reserved, "2 units are held for you until 2026-11-27T10:10:00.000000Z: open."),
        (request(1, "open", 3), Code::SoldOut, "2 of open left, 3 asked for."),
        (request(1, "gone", 1), Code::SoldOut, "gone is sold out."),
        (request(1, "none", 1), Code::UnknownItem, "There is no item none."),
        // A rule comes before the stock, and where it allows the request, the stock.
        (
            request(1, "gone-one-each", 2),
            Code::BuyerLimit,
            "One buyer may have 1 of gone-one-each, held and paid for; you have 0, so you may ask for 1 more, not 2.",
        ),
        (request(1, "gone-one-each", 1), Code::SoldOut, "gone-one-each is sold out."),
    ];
    for (request, code, message) in cases {
        let found = verdict(&decided(std::slice::from_ref(&request), &items).answers[0]);
        assert_eq!((found.code, found.message.as_str()), (code, message));
        assert_eq!(found.item_version, (code != Code::UnknownItem).then_some(7));
    }
}

#[test]
fn a_deadline_is_any_time_that_rfc_3339_can_write_and_is_told_as_it_was_sent() {
    let items = snapshot([("a", item(1))]);
    for (deadline, has_passed) in [
        ("0000-01-01T00:00:00+23:59", true),
        ("0000-12-31T23:59:59Z", true),
        ("2020-01-01T12:00:00.123456789+02:00", true),
        ("2020-01-01T12:00:00.5Z", true),
        ("2026-11-27T10:00:00Z", true),
        ("2026-11-27T10:00:00.000000001Z", false),
        ("9999-12-31T23:59:59.999999999Z", false),
        ("9999-12-31T23:59:59-23:59", false),
    ] {
        let until = OffsetDateTime::parse(deadline, &Rfc3339).unwrap();
        let found =
            verdict(&decided(&[PurchaseRequest { deadline: Some(until), ..request(1, "a", 1) }], &items).answers[0]);
        let code = if has_passed { Code::DeadlinePassed } else { Code::Reserved };
        assert_eq!(found.code, code, "{deadline}");
        let passed = format!("The request's deadline, {deadline}, has passed.");
        assert_eq!(found.message == passed, has_passed, "{}", found.message);
    }
}
