//! Verdicts past their time go, without anybody waiting for it, and what is asked after that is asked for the first time.

use crate::{
    ORDERS, Reader, VERDICTS, answers, count, database, item, migrated, plan, purchase, request, run, until_waiting,
};
use purchase::retention::{DELETE, MOVE_ON, Retention, STEP_PAGES, TAKE_TURN, step, walk};
use shared::{
    db::is_conflict,
    devstack::{Folder, Postgres},
};
use sqlx::{PgPool, Transaction};
use std::sync::Arc;

/// Verdicts of 40 days ago, on the item `old`; four fill a page.
const LOAD_OLD: &str = "
INSERT INTO verdicts SELECT 'old-' || g, 'old', gen_random_uuid(), 'sold_out', repeat('x', 1900), now() - interval '40 days'
FROM generate_series(1, $1) AS g";
const MAKE_DUE: &str = "UPDATE verdict_walk SET due_at = now()";
const AGE_ALL: &str = "UPDATE verdicts SET decided_at = now() - interval '40 days'";
const PAGES: &str = "SELECT pg_relation_size('verdicts') / current_setting('block_size')::bigint";
const INDEX_PAGES: &str = "SELECT pg_relation_size('verdicts_pkey') / current_setting('block_size')::bigint";

#[tokio::test]
async fn verdicts_past_their_time_go_and_the_others_stay() {
    let pool = database(&[("ticket", 9)]).await;
    let (gone, kept) = (request(1, "ticket", 1), request(2, "ticket", 1));
    let first = answers(&purchase(&pool), &[gone.clone(), kept.clone()]).await;
    let age = "UPDATE verdicts SET decided_at = now() - CASE request_id
               WHEN 'r-1' THEN interval '30 days 1 minute' ELSE interval '29 days 23 hours' END";
    run(&pool, age).await;
    assert_eq!(walk_all(&pool).await, 1);

    let again = answers(&purchase(&pool), &[gone.clone(), kept]).await;
    assert_eq!(again[1], first[1], "kept: the same, byte for byte");
    assert_ne!(again[0], first[0], "gone: asked for the first time");
    assert_eq!(answers(&purchase(&pool), &[gone]).await[0], again[0], "and from then on the same again");
    assert_eq!(item(&pool, "ticket").await.0, 6);
    assert_eq!(count(&pool, ORDERS).await, 3, "orders stay, also two of one request id");
}

#[tokio::test]
async fn all_workers_together_walk_once_a_day() {
    let pool = database(&[]).await;
    assert_eq!(walk_all(&pool).await, 0);
    load_old(&pool, 3).await;
    assert_eq!(walk_all(&pool).await, 0, "it is not time yet");
    run(&pool, "UPDATE verdict_walk SET due_at = due_at - interval '1 day'").await;
    assert_eq!(walk_all(&pool).await, 3);
}

#[tokio::test]
async fn a_table_of_many_steps_is_walked_wholly_and_a_broken_off_walk_goes_on_where_it_was() {
    let pool = database(&[]).await;
    load_old(&pool, 4 * 4 * STEP_PAGES).await;
    assert!(count(&pool, PAGES).await > 3 * STEP_PAGES);
    let all = count(&pool, VERDICTS).await;

    let first = step(&mut pool.acquire().await.unwrap(), Retention::default()).await.unwrap().unwrap();
    let deleted = first.deleted;
    assert!(
        first.pause.is_some() && deleted > 0 && count(&pool, "SELECT next_page FROM verdict_walk").await == STEP_PAGES
    );
    run(&pool, MAKE_DUE).await;
    assert_eq!(walk_all(&pool).await, all as u64 - deleted);
    assert_eq!(count(&pool, VERDICTS).await, 0);
    assert_eq!(count(&pool, "SELECT next_page FROM verdict_walk").await, 0, "the next walk begins at the beginning");
}

#[tokio::test]
async fn of_two_walkers_one_walks_and_the_other_does_not_wait_for_it() {
    let pool = database(&[]).await;
    load_old(&pool, 2).await;
    let held = HeldWalk::over(&pool, "old-2").await;
    let mut other = pool.acquire().await.unwrap();
    assert_eq!(step(&mut other, Retention::default()).await.unwrap(), None);
    assert_eq!(held.release().await, 2, "each goes once");
    assert_eq!(step(&mut other, Retention::default()).await.unwrap(), None);
}

#[tokio::test]
async fn a_request_repeated_while_its_verdict_goes_gets_the_old_one_until_it_is_gone() {
    let pool = database(&[("ticket", 9)]).await;
    let (repeated, last) = (request(1, "ticket", 1), request(2, "ticket", 1));
    let old = answers(&purchase(&pool), &[repeated.clone(), last]).await;
    run(&pool, AGE_ALL).await;

    // The walk has deleted the first verdict, not yet committed, and is stopped at the second.
    let held = HeldWalk::over(&pool, "r-2").await;
    let meanwhile = answers(&purchase(&pool), &[repeated.clone(), request(3, "ticket", 1)]).await;
    assert_eq!(meanwhile[0], old[0], "byte for byte, and without waiting for the walk");
    assert_eq!(held.release().await, 2);

    let new = answers(&purchase(&pool), std::slice::from_ref(&repeated)).await;
    assert_ne!(new[0], old[0], "a new decision");
    assert_eq!(answers(&purchase(&pool), &[repeated]).await, new);
}

#[tokio::test]
async fn a_commit_that_meets_a_verdict_on_its_way_out_waits_and_then_holds_or_is_decided_again() {
    let pool = database(&[]).await;
    for (round, goes) in [(1, true), (2, false)] {
        // Read before the id was recorded, on no item's row: only the verdicts' key stands between the two.
        let request = request(round, "none", 1);
        let mut late = pool.acquire().await.unwrap();
        let reader = Reader::reads(&mut late, &request).await;
        answers(&purchase(&pool), std::slice::from_ref(&request)).await;
        let mut deleter = pool.begin().await.unwrap();
        sqlx::query("DELETE FROM verdicts WHERE request_id = $1")
            .bind(&request.request_id)
            .execute(&mut *deleter)
            .await
            .unwrap();

        let committing = tokio::spawn(async move { reader.commits(&mut late).await });
        until_waiting(&pool, 1).await;
        match goes {
            true => deleter.commit().await.unwrap(),
            false => deleter.rollback().await.unwrap(),
        }
        match committing.await.unwrap() {
            Ok(_) => assert!(goes, "the verdict is gone, the new one stands in its place"),
            Err(error) => assert!(!goes && is_conflict(&error), "it stayed, and is found when decided again: {error}"),
        }
        assert_eq!(count(&pool, VERDICTS).await, round, "one verdict for each id");
    }
}

#[tokio::test]
async fn no_step_reads_more_than_its_pages() {
    let pool = database(&[]).await;
    let mut connection = pool.acquire().await.unwrap();
    for (statement, types, arguments, plan_has) in [
        (TAKE_TURN, "", "", "Index Scan using verdict_walk_pkey"),
        (DELETE, "(bigint, bigint, int)", "(0, 1, 30)", "Tid Range Scan on verdicts"),
        (MOVE_ON, "(bigint, int, int)", "(0, 1, 1)", "Index Scan using verdict_walk_pkey"),
    ] {
        let plan = plan(&mut connection, statement, types, arguments).await;
        assert!(plan.contains(plan_has) && !plan.contains("Seq Scan"), "{plan}");
    }
}

#[tokio::test]
async fn as_many_new_verdicts_as_go_take_no_more_room() {
    // A server of its own: an index page that fell empty is used again when no older transaction is open, in any database.
    let folder = Arc::new(Folder::create().unwrap());
    let postgres = Postgres::start(&folder).await.unwrap();
    postgres.create_database("alone").await.unwrap();
    let pool = migrated(&postgres.url("alone")).await;
    run(&pool, "ALTER SYSTEM SET autovacuum = off").await;
    run(&pool, "SELECT pg_reload_conf()").await;
    load_old(&pool, 1_000).await;
    let mut sizes = Vec::new();
    for _day in 0..5 {
        run(&pool, MAKE_DUE).await;
        assert_eq!(walk_all(&pool).await, 1_000);
        run(&pool, "VACUUM verdicts").await;
        load_old(&pool, 1_000).await;
        sizes.push((count(&pool, PAGES).await, count(&pool, INDEX_PAGES).await));
    }
    pool.close().await;
    postgres.stop().await.unwrap();
    Arc::into_inner(folder).unwrap().remove().await.unwrap();
    assert!(sizes.iter().all(|size| *size == sizes[0]), "pages of the table and of its key, day by day: {sizes:?}");
}

/// A walk that has deleted what comes before one verdict, and waits for that one, so its transaction is open.
struct HeldWalk {
    blocker: Transaction<'static, sqlx::Postgres>,
    walking: tokio::task::JoinHandle<u64>,
}

impl HeldWalk {
    async fn over(pool: &PgPool, request_id: &str) -> Self {
        let mut blocker = pool.begin().await.unwrap();
        let lock = "SELECT 1 FROM verdicts WHERE request_id = $1 FOR UPDATE";
        sqlx::query(lock).bind(request_id).execute(&mut *blocker).await.unwrap();
        let walker = pool.clone();
        let walking = tokio::spawn(async move { walk_all(&walker).await });
        until_waiting(pool, 1).await;
        Self { blocker, walking }
    }

    /// Returns how many verdicts went.
    async fn release(self) -> u64 {
        self.blocker.rollback().await.unwrap();
        self.walking.await.unwrap()
    }
}

async fn walk_all(pool: &PgPool) -> u64 {
    walk(&mut pool.acquire().await.unwrap(), Retention::default()).await.unwrap()
}

async fn load_old(pool: &PgPool, verdicts: i64) {
    sqlx::query(LOAD_OLD).bind(verdicts).execute(pool).await.unwrap();
}
