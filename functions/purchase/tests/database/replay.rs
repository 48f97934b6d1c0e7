//! Every verdict names the version of the row that it was decided on. Here the row's versions are kept, somebody changes all that
//! a decision can rest on, all the time, and in the end each verdict is decided once more, on the row of its version.

use crate::{answers, by, database, request, verdict, with_every_strategy};
use purchase::{
    decide::{Item, Outcome, Snapshot, decide},
    rules::Rules,
};
use shared::messages::{PurchaseRequest, Verdict};
use sqlx::{PgPool, Row};
use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use uuid::Uuid;

const ITEMS: [&str; 3] = ["a", "B", "c"];
/// Deciders at once, and the batches of each.
const DECIDERS: usize = 6;
const BATCHES: usize = 25;

/// Keeps each version of each row.
const KEEP_VERSIONS: &str = "
CREATE TABLE versions AS SELECT * FROM items;
CREATE UNIQUE INDEX ON versions (id, version);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO versions SELECT NEW.*; RETURN NEW; END';
CREATE TRIGGER keep AFTER UPDATE ON items FOR EACH ROW EXECUTE FUNCTION keep()";
const CHANGES: [&str; 8] = [
    "UPDATE items SET stock = stock + 7, available = available + 7, version = version + 1 WHERE id = $1",
    "UPDATE items SET closes_at = now(), version = version + 1 WHERE id = $1",
    "UPDATE items SET stock = stock - available, available = 0, version = version + 1 WHERE id = $1",
    "UPDATE items SET closes_at = NULL, version = version + 1 WHERE id = $1",
    "UPDATE items SET tiers = '{vip}', version = version + 1 WHERE id = $1",
    "UPDATE items SET stock = stock + 20, available = available + 20, version = version + 1 WHERE id = $1",
    "UPDATE items SET tiers = NULL, hold_ms = hold_ms + 1, version = version + 1 WHERE id = $1",
    "UPDATE items SET version = version + 1 WHERE id = $1",
];

#[tokio::test]
async fn every_verdict_is_right_on_the_version_of_the_row_that_it_names() {
    with_every_strategy(async |strategy| {
        let pool = database(&ITEMS.map(|item| (item, 20))).await;
        sqlx::raw_sql(KEEP_VERSIONS).execute(&pool).await.unwrap();
        let is_over = AtomicBool::new(false);
        let deciding = async {
            let deciders = (0..DECIDERS).map(|decider| {
                let purchase = by(strategy, &pool);
                tokio::spawn(async move {
                    let mut decided = Vec::new();
                    for number in 0..BATCHES {
                        let requests = batch(decider * BATCHES + number);
                        let told: Vec<_> = answers(&purchase, &requests).await.iter().map(verdict).collect();
                        decided.push((requests, told));
                    }
                    decided
                })
            });
            let mut decided = Vec::new();
            for decider in deciders.collect::<Vec<_>>() {
                decided.extend(decider.await.unwrap());
            }
            is_over.store(true, Ordering::Relaxed);
            decided
        };
        let changing = async {
            for number in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let change = sqlx::query(CHANGES[number % CHANGES.len()]).bind(ITEMS[number % ITEMS.len()]);
                change.execute(&pool).await.unwrap();
            }
        };
        let (decided, ()) = tokio::join!(deciding, changing);

        let versions = versions(&pool).await;
        let mut codes = HashSet::new();
        for (requests, told) in &decided {
            for item in ITEMS {
                let of_item = requests.iter().zip(told).filter(|(request, _)| request.item == item);
                codes.extend(assert_right(of_item.collect(), item, &versions));
            }
        }
        assert_eq!(codes.len(), 4, "reserved, sold out, closed and not eligible: {codes:?}");
    })
    .await;
}

/// Decides what was decided on one version of the item once more.
fn assert_right(
    decided: Vec<(&PurchaseRequest, &Verdict)>,
    item: &str,
    versions: &HashMap<(String, i64), Item>,
) -> Vec<&'static str> {
    let mut codes = Vec::new();
    for together in decided.chunk_by(|(_, one), (_, next)| one.item_version == next.item_version) {
        let row = &versions[&(item.to_owned(), together[0].1.item_version.unwrap())];
        let snapshot = Snapshot {
            now: together[0].1.decided_at.unwrap(),
            items: HashMap::from([(item.to_owned(), row.clone())]),
            recorded: HashMap::new(),
            tiers: HashMap::new(),
        };
        let requests: Vec<_> = together.iter().map(|(request, _)| *request).collect();
        for ((_, told), outcome) in together.iter().zip(decide(&requests, &snapshot, Uuid::now_v7).outcomes) {
            let Outcome::Decided(again) = outcome else { panic!("each id is sent once: {outcome:?}") };
            let again: Verdict = serde_json::from_str(&again.reply).unwrap();
            assert_eq!(
                (told.code, &told.message, told.decided_at),
                (again.code, &again.message, again.decided_at),
                "{row:?}"
            );
            codes.push(told.code.as_str());
        }
    }
    codes
}

async fn versions(pool: &PgPool) -> HashMap<(String, i64), Item> {
    let select = "SELECT id, version, available, hold_ms, opens_at, closes_at, tiers FROM versions";
    let item = |row: &sqlx::postgres::PgRow| Item {
        version: row.get("version"),
        available: row.get("available"),
        hold: Duration::from_millis(row.get::<i64, _>("hold_ms").unsigned_abs()),
        rules: Rules {
            opens_at: row.get("opens_at"),
            closes_at: row.get("closes_at"),
            tiers: row.get("tiers"),
            ..Rules::default()
        },
        histories: HashMap::new(),
    };
    let rows = sqlx::query(select).fetch_all(pool).await.unwrap();
    rows.iter().map(|row| ((row.get("id"), row.get("version")), item(row))).collect()
}

/// Twelve requests for all items, for one unit or a few.
fn batch(number: usize) -> Vec<PurchaseRequest> {
    let request = |place: usize| {
        let quantity = [1, 3, 2, 9][(number * 5 + place * 7) % 4];
        request(format!("{number}-{place}"), ITEMS[(number + place) % ITEMS.len()], quantity)
    };
    (0..12).map(request).collect()
}
