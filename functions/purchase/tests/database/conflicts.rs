//! How do you test an optimistic lock? Let two read the same version, and have both commit.

use crate::{
    Blocker, MOVE_ON, Reader, TAKE_LAST, VERDICTS, by, codes, count, database, decided_while, decides, item, purchase,
    request, run, with_every_strategy,
};
use purchase::strategy::StrategyName;
use shared::messages::Code;

/// Another function's request has this id.
const RECORD: &str = "
INSERT INTO verdicts (request_id, fingerprint, status, reply, decided_at)
VALUES ('r-2', gen_random_uuid(), 'done', '{}', now())";

#[tokio::test]
async fn of_two_deciders_that_read_the_same_version_one_wins_and_the_other_decides_again() {
    let pool = database(&[("ticket", 1)]).await;
    let (first, second) = (request(1, "ticket", 1), request(2, "ticket", 1));
    let (mut one, mut other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());

    // Both read version 0 with one unit left, and both decide to sell it.
    let by_one = Reader::reads(&mut one, &first).await;
    let by_other = Reader::reads(&mut other, &second).await;
    assert_eq!((by_one.decides().1, by_other.decides().1), (1, 1));

    assert_eq!(by_one.commits(&mut one).await.unwrap(), 1, "the first to commit wins");
    assert_eq!(by_other.commits(&mut other).await.unwrap(), 0, "the version has moved on");
    assert_eq!(count(&pool, VERDICTS).await, 1, "the loser left no trace");

    // Decided again, on what is there now.
    assert_eq!(codes(&purchase(&pool), &[second]).await, [Code::SoldOut]);
    assert_eq!(item(&pool, "ticket").await, (0, 1, 2, 0));
}

#[tokio::test]
async fn a_conflict_is_tried_again_and_counted() {
    let pool = database(&[("a", 5), ("b", 5)]).await;
    let requests = [request(1, "a", 1), request(2, "b", 1)];
    let verdicts = decided_while(&pool, MOVE_ON, &purchase(&pool), &requests).await;
    assert!(verdicts.iter().all(|verdict| verdict.code == Code::Reserved));
    // a: one move by the blocker, one conflict, one sale on the version after it; b went through at once, once.
    assert_eq!(item(&pool, "a").await, (4, 1, 2, 1));
    assert_eq!(verdicts[0].item_version, Some(1));
    assert_eq!(item(&pool, "b").await, (4, 1, 1, 0));
}

#[tokio::test]
async fn only_the_strategies_that_read_first_conflict_over_a_decision_that_is_still_right() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 5)]).await;
        let verdict = &decided_while(&pool, MOVE_ON, &by(strategy, &pool), &[request(1, "a", 1)]).await[0];
        assert_eq!((verdict.code, verdict.item_version), (Code::Reserved, Some(1)), "decided on the row as it is");
        let conflicts = match strategy {
            StrategyName::Optimistic => 1,
            StrategyName::Pessimistic | StrategyName::Atomic | StrategyName::Redis => 0,
        };
        assert_eq!(item(&pool, "a").await, (4, 1, 2, conflicts), "{strategy:?}");
    })
    .await;
}

#[tokio::test]
async fn an_item_that_conflicts_is_counted_though_a_request_id_is_contended_at_the_same_time() {
    with_every_strategy(async |strategy| {
        let pool = database(&[("a", 1), ("limited", 5)]).await;
        run(&pool, "UPDATE items SET counts_orders = true, max_per_buyer = 1 WHERE id = 'limited'").await;
        let row = Blocker::runs(&pool, TAKE_LAST).await;
        let id = Blocker::runs(&pool, RECORD).await;
        let requests = [request(1, "a", 1), request(2, "a", 1), request(3, "limited", 1)];
        let deciding = decides(&by(strategy, &pool), &requests);
        row.release_when_waited_for(&pool).await;
        id.release_when_waited_for(&pool).await;
        let codes: Vec<_> = deciding.await.unwrap().iter().map(|verdict| verdict.code).collect();
        assert_eq!(codes, [Code::SoldOut, Code::RequestIdReused, Code::Reserved], "{strategy:?}");
        let conflicts = match strategy {
            // One attempt conflicts over the item, and the id undoes the next one.
            StrategyName::Optimistic | StrategyName::Atomic => 1,
            // Redis is asked once more.
            StrategyName::Redis => 2,
            // The item is waited for, and the id undoes the first attempt.
            StrategyName::Pessimistic => 0,
        };
        assert_eq!(item(&pool, "a").await.3, conflicts, "{strategy:?}");
    })
    .await;
}
