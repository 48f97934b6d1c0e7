//! How do you test an optimistic lock? Let two read the same version, and have both commit.

use crate::{Blocker, MOVE_ON, answers, count, database, item, purchase, request, verdict};
use purchase::{commit::commit, decide::decide, read::read};
use shared::messages::Status;
use std::collections::HashMap;
use uuid::Uuid;

#[tokio::test]
async fn of_two_deciders_that_read_the_same_version_one_wins_and_the_other_decides_again() {
    let pool = database(&[("ticket", 1)]).await;
    let (first, second) = (request(1, "ticket", 1), request(2, "ticket", 1));
    let (mut one, mut other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
    let none = HashMap::new();

    // Both read version 0 with one unit left, and both decide to sell it.
    let read_by_one = read(&mut one, &[&first]).await.unwrap();
    let read_by_other = read(&mut other, &[&second]).await.unwrap();
    let plan_of_one = decide(&[&first], &read_by_one, Uuid::now_v7);
    let plan_of_other = decide(&[&second], &read_by_other, Uuid::now_v7);
    assert_eq!((plan_of_one.changes["ticket"].units, plan_of_other.changes["ticket"].units), (1, 1));

    let held = commit(&mut one, &[&first], &plan_of_one, read_by_one.now, &none).await.unwrap();
    assert_eq!(held.len(), 1, "the first to commit wins");
    let held = commit(&mut other, &[&second], &plan_of_other, read_by_other.now, &none).await.unwrap();
    assert!(held.is_empty(), "the version has moved on");
    assert_eq!(count(&pool, "SELECT count(*) FROM verdicts").await, 1, "the loser left no trace");

    // Decided again, on what is there now.
    let again = answers(&purchase(&pool), &[second]).await;
    assert_eq!(verdict(&again[0]).status, Status::SoldOut);
    assert_eq!(item(&pool, "ticket").await, (0, 1, 2, 0));
}

#[tokio::test]
async fn a_conflict_is_tried_again_and_counted() {
    let pool = database(&[("a", 5), ("b", 5)]).await;
    let blocker = Blocker::runs(&pool, MOVE_ON).await;
    let deciding = tokio::spawn({
        let purchase = purchase(&pool);
        async move { answers(&purchase, &[request(1, "a", 1), request(2, "b", 1)]).await }
    });
    blocker.release_when_waited_for(&pool).await;

    let answers = deciding.await.unwrap();
    assert!(answers.iter().all(|answer| verdict(answer).status == Status::Reserved));
    // a: one move by the blocker, one conflict, one sale on the version after it; b went through at once, once.
    assert_eq!(item(&pool, "a").await, (4, 1, 2, 1));
    assert_eq!(verdict(&answers[0]).item_version, Some(1));
    assert_eq!(item(&pool, "b").await, (4, 1, 1, 0));
}
