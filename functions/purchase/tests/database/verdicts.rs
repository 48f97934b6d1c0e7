//! What a verdict says: the same with every strategy, word for word, and right on the row that it names.

use crate::*;
use purchase::decide::Item;
use shared::messages::time::text;
use sqlx::{FromRow, Row};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use time::OffsetDateTime;
use time::macros::datetime;

const ITEMS: [(&str, i64); 3] = [("a", 20), ("B", 20), ("c", 20)];
/// Deciders at once, and the batches of each.
const DECIDERS: usize = 6;
const BATCHES: usize = 25;
/// Keeps each version of each row.
const KEEP_VERSIONS: &str = "
CREATE TABLE versions AS SELECT * FROM items;
CREATE UNIQUE INDEX ON versions (id, version);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS
    'BEGIN INSERT INTO versions SELECT NEW.*; RETURN NEW; END';
CREATE TRIGGER keep AFTER UPDATE ON items FOR EACH ROW EXECUTE FUNCTION keep()";
/// All that a decision can rest on.
const CHANGES: [&str; 8] = [
    "stock = stock + 7, available = available + 7",
    "closes_at = now()",
    "stock = stock - available, available = 0",
    "closes_at = NULL",
    "tiers = '{vip}'",
    "stock = stock + 20, available = available + 20",
    "tiers = NULL, hold_ms = hold_ms + 1",
    "conflicts = conflicts",
];
/// Items for every answer that there is.
const SALE: [(&str, i64); 6] = [("few", 7), ("one", 1), ("none", 0), ("early", 5), ("late", 5), ("mine", 5)];
const RULES: &str = "
UPDATE items SET opens_at = '2099-12-31 10:30:00.12Z' WHERE id = 'early';
UPDATE items SET closes_at = '2020-01-01Z' WHERE id = 'late';
UPDATE items SET counts_orders = true, max_per_buyer = 2 WHERE id = 'mine'";

#[tokio::test]
async fn the_same_requests_get_the_same_verdicts_word_for_word() {
    let mut expected = Vec::new();
    with_every_strategy(&SALE, async |sale| {
        sale.run(RULES).await;
        let mut found = Vec::new();
        for batch in batches() {
            found.extend(sale.verdicts(&batch).await.into_iter().map(comparable));
        }
        if expected.is_empty() {
            let codes: HashSet<_> = found.iter().map(|verdict| verdict.code).collect();
            assert_eq!(codes.len(), 8, "each code that no rule about time needs: {codes:?}");
            expected.clone_from(&found);
        }
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{:?}", sale.strategy);
        }
    })
    .await;
}

/// The row's versions are kept, somebody changes all that a decision can rest on, all the time, and in the end each verdict is
/// decided once more, on the row of its version.
#[tokio::test]
async fn every_verdict_is_right_on_the_version_of_the_row_that_it_names() {
    with_every_strategy(&ITEMS, async |sale| {
        sale.run(KEEP_VERSIONS).await;
        let deciders: Vec<_> = (0..DECIDERS)
            .map(|decider| {
                let sale = sale.by_another();
                tokio::spawn(async move {
                    let mut decided = Vec::new();
                    for number in 0..BATCHES {
                        let requests = batch(decider * BATCHES + number);
                        let found = sale.verdicts(&requests).await;
                        decided.push((requests, found));
                    }
                    decided
                })
            })
            .collect();
        for number in (0..).take_while(|_| !deciders.iter().all(JoinHandle::is_finished)) {
            let change = format!("UPDATE items SET version = version + 1, {} WHERE id = $1", CHANGES[number % 8]);
            let change = sqlx::query(&change).bind(ITEMS[number % ITEMS.len()].0);
            change.execute(&sale.pool).await.unwrap();
        }

        let rows = sqlx::query("SELECT * FROM versions").fetch_all(&sale.pool).await.unwrap();
        let versions: HashMap<(String, i64), Item> =
            rows.iter().map(|row| ((row.get("id"), row.get("version")), Item::from_row(row).unwrap())).collect();
        let recorded: Vec<(String, String)> =
            sqlx::query_as("SELECT request_id, reply FROM verdicts").fetch_all(&sale.pool).await.unwrap();
        let recorded: HashMap<_, _> = recorded.into_iter().collect();
        let mut codes = HashSet::new();
        for (requests, found) in all_of(deciders).await.concat() {
            for (item, _) in ITEMS {
                let of_item = requests.iter().zip(&found).filter(|(request, _)| request.item == item);
                assert_right(&of_item.collect::<Vec<_>>(), &versions);
            }
            for verdict in found {
                codes.insert(verdict.code);
                // The version in a reply is filled in by the database and by the worker, each for itself.
                let reply = &recorded[verdict.request_id.as_ref().unwrap()];
                assert_eq!(*reply, serde_json::to_string(&verdict).unwrap());
            }
        }
        assert_eq!(codes.len(), 4, "reserved, sold out, closed and not eligible: {codes:?}");
    })
    .await;
}

/// Decides what was decided on one version of an item once more.
fn assert_right(decided: &[(&PurchaseRequest, &Verdict)], versions: &HashMap<(String, i64), Item>) {
    for together in decided.chunk_by(|(_, one), (_, next)| one.item_version == next.item_version) {
        let (PurchaseRequest { item, .. }, first) = together[0];
        let row = &versions[&(item.clone(), first.item_version.unwrap())];
        let snapshot = Snapshot { items: HashMap::from([(item.clone(), row.clone())]), ..Snapshot::default() };
        let requests: Vec<_> = together.iter().map(|(request, _)| *request).collect();
        let mut verdicts = Verdicts::at(first.decided_at.unwrap(), HashMap::new());
        let again = decide(&requests, &snapshot, &mut verdicts, Uuid::now_v7).answers;
        for ((_, found), again) in together.iter().zip(&again) {
            let said = |verdict: &Verdict| (verdict.code, verdict.message.clone(), verdict.decided_at);
            assert_eq!(said(found), said(&verdict(again)), "{row:?}");
        }
    }
}

/// Twelve requests for all items, for one unit or a few.
fn batch(number: usize) -> Vec<PurchaseRequest> {
    let request = |place: usize| {
        let quantity = [1, 3, 2, 9][(number * 5 + place * 7) % 4];
        request(format!("{number}-{place}"), ITEMS[(number + place) % ITEMS.len()].0, quantity)
    };
    (0..12).map(request).collect()
}

/// Quantities that fit, do not, and fit again behind one that did not; copies, repeats, and ids with other content.
fn batches() -> Vec<Vec<PurchaseRequest>> {
    let late = |request| PurchaseRequest { deadline: Some(datetime!(2020-01-01 10:00:00.5 UTC)), ..request };
    let all = ["few", "one", "none", "early", "late", "nowhere", "mine"];
    let first = vec![
        request(1, "few", 3),
        request(2, "few", 5),
        request(3, "one", 1),
        request(4, "few", 2),
        request(1, "few", 3),
        request(2, "few", 1),
        late(request(5, "few", 1)),
        late(request(6, "nowhere", 1)),
        request(7, "few", 3),
        request(8, "few", 2),
        request(9, "few", 1),
        request(4, "few", 1),
        request(4, "few", 2),
    ];
    let second = (0..28).map(|number| request(20 + number, all[number % 7], 1 + (number % 3) as u32)).collect();
    let third = (60..63).map(|number| by_ann(request(number, "mine", 1))).collect();
    vec![first.clone(), second, third, first]
}

/// But for what differs each time: the order's id, and times.
fn comparable(mut verdict: Verdict) -> Verdict {
    let epoch = OffsetDateTime::UNIX_EPOCH;
    if let Some(order) = &mut verdict.order {
        let (hold, decided_at) = (order.hold_until, verdict.decided_at.unwrap());
        assert_eq!(hold - decided_at, Duration::from_secs(600));
        let text = text(hold);
        assert!(verdict.message.contains(&text), "{} says until {text}", verdict.message);
        verdict.message = verdict.message.replace(&text, "then");
        (order.id, order.hold_until) = (Uuid::nil(), epoch);
    }
    verdict.decided_at = verdict.decided_at.map(|_| epoch);
    verdict
}
