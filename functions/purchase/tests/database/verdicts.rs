//! What a verdict says: the same with every strategy, word for word, and right on the row that it names.

use crate::{by, database, joined, request, run, verdicts, with_every_strategy};
use purchase::decide::{Item, Snapshot, decide};
use shared::{
    handler::Answer,
    idempotency::Verdicts,
    messages::{Code, PurchaseRequest, Verdict, time::text},
};
use sqlx::{FromRow, PgPool, Row};
use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
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
async fn the_same_requests_get_the_same_verdicts_word_for_word() {
    let mut expected = Vec::new();
    with_every_strategy(async |strategy| {
        let purchase = by(strategy, &sale().await);
        let mut found = Vec::new();
        for batch in batches() {
            found.extend(verdicts(&purchase, &batch).await.into_iter().map(comparable));
        }
        if expected.is_empty() {
            let codes: HashSet<_> = found.iter().map(|verdict| verdict.code).collect();
            assert_eq!(codes.len(), 8, "each code that no rule about time needs: {codes:?}");
            expected.clone_from(&found);
        }
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found, expected, "{strategy:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_deadline_is_any_time_that_rfc_3339_can_write_and_is_told_as_it_was_sent() {
    with_every_strategy(async |strategy| {
        let cases = [
            ("0000-01-01T00:00:00+23:59", Code::DeadlinePassed),
            ("0000-12-31T23:59:59Z", Code::DeadlinePassed),
            ("2020-01-01T12:00:00.123456789+02:00", Code::DeadlinePassed),
            ("2020-01-01T12:00:00.5Z", Code::DeadlinePassed),
            ("9999-12-31T23:59:59.999999999Z", Code::Reserved),
            ("9999-12-31T23:59:59-23:59", Code::Reserved),
        ];
        let until = |text| Some(OffsetDateTime::parse(text, &Rfc3339).unwrap());
        let asked: Vec<_> = (cases.iter().zip(0..))
            .map(|((text, _), number)| PurchaseRequest { deadline: until(text), ..request(number, "a", 1) })
            .collect();
        let found = verdicts(&by(strategy, &database(&[("a", 2)]).await), &asked).await;
        for (found, (deadline, code)) in found.iter().zip(cases) {
            assert_eq!(found.code, code, "{strategy:?}: {deadline}");
            if code == Code::DeadlinePassed {
                assert_eq!(found.message, format!("The request's deadline, {deadline}, has passed."), "{strategy:?}");
            }
        }
    })
    .await;
}

/// The row's versions are kept, somebody changes all that a decision can rest on, all the time, and in the end each verdict is
/// decided once more, on the row of its version.
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
                        let found = verdicts(&purchase, &requests).await;
                        decided.push((requests, found));
                    }
                    decided
                })
            });
            let decided = joined(deciders).await.concat();
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
        for (requests, found) in &decided {
            for item in ITEMS {
                let of_item = requests.iter().zip(found).filter(|(request, _)| request.item == item);
                codes.extend(assert_right(of_item.collect(), item, &versions));
            }
        }
        assert_eq!(codes.len(), 4, "reserved, sold out, closed and not eligible: {codes:?}");
        assert_recorded_as_answered(&pool, decided.into_iter().flat_map(|(_, found)| found)).await;
    })
    .await;
}

/// Decides what was decided on one version of the item once more.
fn assert_right(
    decided: Vec<(&PurchaseRequest, &Verdict)>,
    item: &str,
    versions: &HashMap<(String, i64), Item>,
) -> Vec<Code> {
    let mut codes = Vec::new();
    for together in decided.chunk_by(|(_, one), (_, next)| one.item_version == next.item_version) {
        let row = &versions[&(item.to_owned(), together[0].1.item_version.unwrap())];
        let snapshot = Snapshot { items: HashMap::from([(item.to_owned(), row.clone())]), ..Snapshot::default() };
        let requests: Vec<_> = together.iter().map(|(request, _)| *request).collect();
        let mut verdicts = Verdicts::at(together[0].1.decided_at.unwrap(), HashMap::new());
        let again = decide(&requests, &snapshot, &mut verdicts, Uuid::now_v7).answers;
        for ((_, found), again) in together.iter().zip(again) {
            let Answer::Verdict(again) = again else { panic!("each id is sent once: {again:?}") };
            let again: Verdict = serde_json::from_str(&again).unwrap();
            assert_eq!(
                (found.code, &found.message, found.decided_at),
                (again.code, &again.message, again.decided_at),
                "{row:?}"
            );
            codes.push(found.code);
        }
    }
    codes
}

async fn versions(pool: &PgPool) -> HashMap<(String, i64), Item> {
    let rows = sqlx::query("SELECT * FROM versions").fetch_all(pool).await.unwrap();
    rows.iter().map(|row| ((row.get("id"), row.get("version")), Item::from_row(row).unwrap())).collect()
}

/// The version in a reply is filled in by the database and by the worker, each for itself.
async fn assert_recorded_as_answered(pool: &PgPool, answered: impl Iterator<Item = Verdict>) {
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT request_id, reply FROM verdicts").fetch_all(pool).await.unwrap();
    let recorded: HashMap<_, _> = rows.into_iter().collect();
    for answer in answered {
        let reply = &recorded[answer.request_id.as_ref().unwrap()];
        assert_eq!(*reply, serde_json::to_string(&answer).unwrap());
    }
}

/// Twelve requests for all items, for one unit or a few.
fn batch(number: usize) -> Vec<PurchaseRequest> {
    let request = |place: usize| {
        let quantity = [1, 3, 2, 9][(number * 5 + place * 7) % 4];
        request(format!("{number}-{place}"), ITEMS[(number + place) % ITEMS.len()], quantity)
    };
    (0..12).map(request).collect()
}

/// Items for every answer that there is.
async fn sale() -> PgPool {
    let pool = database(&[("few", 7), ("one", 1), ("none", 0), ("early", 5), ("late", 5), ("mine", 5)]).await;
    run(&pool, "UPDATE items SET opens_at = '2099-12-31 10:30:00.12Z' WHERE id = 'early'").await;
    run(&pool, "UPDATE items SET closes_at = '2020-01-01Z' WHERE id = 'late'").await;
    run(&pool, "UPDATE items SET counts_orders = true, max_per_buyer = 2 WHERE id = 'mine'").await;
    pool
}

/// Quantities that fit, do not, and fit again behind one that did not; copies, repeats, and ids with other content.
fn batches() -> Vec<Vec<PurchaseRequest>> {
    let late = time::macros::datetime!(2020-01-01 10:00:00.5 UTC);
    let all = ["few", "one", "none", "early", "late", "nowhere", "mine"];
    let first = vec![
        request(1, "few", 3),
        request(2, "few", 5),
        request(3, "one", 1),
        request(4, "few", 2),
        request(1, "few", 3),
        request(2, "few", 1),
        PurchaseRequest { deadline: Some(late), ..request(5, "few", 1) },
        PurchaseRequest { deadline: Some(late), ..request(6, "nowhere", 1) },
        request(7, "few", 3),
        request(8, "few", 2),
        request(9, "few", 1),
        request(4, "few", 1),
        request(4, "few", 2),
    ];
    let second = (0..28).map(|number| request(20 + number, all[number % 7], 1 + (number % 3) as u32)).collect();
    let mine = |number| PurchaseRequest { buyer: "ann".to_owned(), ..request(number, "mine", 1) };
    vec![first.clone(), second, vec![mine(60), mine(61), mine(62)], first]
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
