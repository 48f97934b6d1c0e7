//! Rules about earlier orders find them all: those from before, those made and moved on meanwhile.

use super::*;

/// $2 orders of the item $1, as a sale without such rules writes them: their ids rise with time.
const ORDERS: &str = "
INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
SELECT minted.id, 'r', $1, 'b', 1, now(), now()
FROM generate_series(1, $2) AS g,
     LATERAL (SELECT (lpad(to_hex(g), 12, '0') || substr(md5($1 || g), 1, 20))::uuid AS id) AS minted";
/// Those that a rule would miss.
const MISSED: &str = "SELECT count(*) FROM orders WHERE item = 'a' AND NOT is_counted";
const COUNTED: &str = "SELECT count(*) FROM orders WHERE item = 'a' AND is_counted";

async fn order(pool: &PgPool, item: &str, orders: i64) {
    sqlx::query(ORDERS).bind(item).bind(orders).execute(pool).await.unwrap();
}

fn limit(id: usize) -> RestockRequest {
    request(id, "a", Operation::Rules { rules: at_most(2) })
}

/// A transaction that has an order of the item `a` in hand: the one at this place, by id.
async fn take_order(pool: &PgPool, place: i64) -> Transaction<'static, Postgres> {
    let mut transaction = pool.begin().await.unwrap();
    let take = "UPDATE orders SET state = 'paid'
                WHERE id = (SELECT id FROM orders WHERE item = 'a' ORDER BY id OFFSET $1 LIMIT 1)";
    sqlx::query(take).bind(place).execute(&mut *transaction).await.unwrap();
    transaction
}

#[tokio::test]
async fn orders_from_before_a_rule_are_counted_before_it_is_set_and_those_of_other_items_are_left_alone() {
    // As many as a step reads, and more.
    for orders in [STEP_ORDERS, 2 * STEP_ORDERS + 7] {
        let pool = database(&[("a", 1, 1, 0), ("b", 1, 1, 0)]).await;
        order(&pool, "a", orders).await;
        order(&pool, "b", 100).await;
        assert_eq!(code(&pool, limit(1)).await, Code::RulesSet);
        assert_eq!((count(&pool, MISSED).await, count(&pool, COUNTED).await), (0, orders));
        assert_eq!(count(&pool, "SELECT count(*) FROM orders WHERE item = 'b' AND is_counted").await, 0);
        let set = "SELECT count(*) FROM items WHERE counts_orders AND NOT is_counting AND max_per_buyer = 2";
        assert_eq!(count(&pool, set).await, 1);

        // Once counted, they are counted: the next rules are set at once, also while an order is in somebody's hands.
        let taken = take_order(&pool, 0).await;
        let cooldown = Rules { cooldown_ms: Some(1), ..Rules::default() };
        assert_eq!(code(&pool, request(2, "a", Operation::Rules { rules: cooldown })).await, Code::RulesSet);
        taken.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn orders_that_are_paid_for_or_end_and_move_to_other_pages_meanwhile_are_counted() {
    let pool = database(&[("a", 1, 1, 0)]).await;
    let orders = 3 * STEP_ORDERS;
    order(&pool, "a", orders).await;
    // The count stands still at the beginning of its second step.
    let taken = take_order(&pool, STEP_ORDERS).await;
    let setting = setting(&pool, limit(1));
    until_waiting(&pool, 1).await;
    let others = "UPDATE orders SET state = 'expired'
                  WHERE id <> (SELECT id FROM orders ORDER BY id OFFSET $1 LIMIT 1)";
    let moved = sqlx::query(others).bind(STEP_ORDERS).execute(&pool).await.unwrap();
    assert_eq!(moved.rows_affected() as i64, orders - 1, "before the count, and behind it");
    assert_eq!(count(&pool, "SELECT count(*) FROM items WHERE max_per_buyer IS NULL AND is_counting").await, 1);
    taken.commit().await.unwrap();
    assert_eq!(setting.await.unwrap(), Code::RulesSet);
    assert_eq!((count(&pool, MISSED).await, count(&pool, COUNTED).await), (0, orders));
    assert_eq!(count(&pool, "SELECT count(*) FROM orders WHERE state = 'expired'").await, orders - 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM orders WHERE state = 'paid'").await, 1, "it stays paid");
}

#[tokio::test]
async fn an_order_made_while_others_are_counted_is_written_counted() {
    let pool = database(&[("a", 10, 1, 0)]).await;
    order(&pool, "a", 10).await;
    let (_, _, _, _, read) = item(&pool, "a").await;
    let taken = take_order(&pool, 5).await;
    let setting = setting(&pool, limit(1));
    until_waiting(&pool, 1).await;
    // As a purchase commits: not on what it read before, and counted on what it reads now.
    let purchase = "
        WITH decided AS (UPDATE items SET version = version + 1 WHERE id = 'a' AND version = $1 RETURNING counts_orders)
        INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at, is_counted)
        SELECT minted.id, 'r', 'a', 'b', 1, now(), now(), counts_orders
        FROM decided, (SELECT '00000000-0000-7000-8000-000000000001'::uuid AS id) AS minted";
    let bought = async |version: i64| sqlx::query(purchase).bind(version).execute(&pool).await.unwrap().rows_affected();
    assert_eq!(bought(read).await, 0, "it is decided again");
    assert_eq!(bought(item(&pool, "a").await.4).await, 1);
    taken.rollback().await.unwrap();
    assert_eq!(setting.await.unwrap(), Code::RulesSet);
    assert_eq!((count(&pool, MISSED).await, count(&pool, COUNTED).await), (0, 11));
}

#[tokio::test]
async fn a_count_that_is_left_half_done_is_made_again_and_no_rule_is_set_before() {
    let pool = database(&[("a", 1, 1, 0)]).await;
    let orders = 2 * STEP_ORDERS;
    order(&pool, "a", orders).await;
    let taken = take_order(&pool, STEP_ORDERS + 1).await;
    let dying = tokio::spawn({
        let pool = pool.clone();
        async move { Restock::new(functions(&pool)).handle(&[limit(1)]).await }
    });
    until_waiting(&pool, 1).await;
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());
    assert_eq!(count(&pool, COUNTED).await, STEP_ORDERS);
    assert_eq!(count(&pool, "SELECT count(*) FROM verdicts").await, 0);
    // Whatever else is done with the item, it is not taken for counted.
    assert_eq!(code(&pool, request(2, "a", Operation::Add { quantity: 1 })).await, Code::Added);
    assert_eq!(count(&pool, "SELECT count(*) FROM items WHERE is_counting AND max_per_buyer IS NULL").await, 1);
    taken.rollback().await.unwrap();
    assert_eq!(code(&pool, limit(1)).await, Code::RulesSet);
    assert_eq!((count(&pool, MISSED).await, count(&pool, COUNTED).await), (0, orders));
}

#[tokio::test]
async fn a_batch_that_must_count_first_is_decided_in_order_all_the_same() {
    let pool = database(&[("a", 1, 1, 0), ("b", 1, 1, 0)]).await;
    order(&pool, "a", 3).await;
    order(&pool, "b", 3).await;
    let requests = [
        request(1, "new", create(1, at_most(1))),
        limit(2),
        request(3, "a", Operation::Rules { rules: Rules::default() }),
        request(4, "b", Operation::Rules { rules: at_most(5) }),
        request(5, "new", Operation::Add { quantity: 1 }),
    ];
    let expected = [Code::Created, Code::RulesSet, Code::RulesSet, Code::RulesSet, Code::Added];
    assert_eq!(codes(&answers(&pool, &requests).await), expected);
    assert_eq!(count(&pool, "SELECT count(*) FROM orders WHERE NOT is_counted").await, 0);
    let set = "SELECT count(*) FROM items WHERE (id = 'a') = (max_per_buyer IS NULL)";
    assert_eq!(count(&pool, set).await, 3);
}

#[tokio::test]
async fn an_item_of_which_nothing_is_held_or_sold_has_its_rules_without_a_walk() {
    let pool = database(&[("a", 1, 0, 0)]).await;
    order(&pool, "a", 10).await;
    sqlx::query("UPDATE orders SET state = 'expired'").execute(&pool).await.unwrap();
    // Whoever walked would wait for it.
    let mut taken = pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM orders FOR UPDATE").execute(&mut *taken).await.unwrap();
    assert_eq!(code(&pool, limit(1)).await, Code::RulesSet);
    assert_eq!((count(&pool, MISSED).await, count(&pool, COUNTED).await), (10, 0), "no rule counts them");
    assert_eq!(count(&pool, "SELECT count(*) FROM items WHERE counts_orders AND NOT is_counting").await, 1);
    taken.rollback().await.unwrap();
}

#[tokio::test]
async fn a_purchase_that_commits_just_before_the_count_begins_is_counted() {
    let pool = database(&[("a", 1, 0, 0)]).await;
    let mut buying = pool.begin().await.unwrap();
    let hold = "UPDATE items SET available = 0, held = 1, version = version + 1 WHERE id = 'a'";
    sqlx::query(hold).execute(&mut *buying).await.unwrap();
    sqlx::query(ORDERS).bind("a").bind(1_i64).execute(&mut *buying).await.unwrap();
    let counting = tokio::spawn({
        let pool = pool.clone();
        async move { restock::count::count(&pool, &BTreeSet::from(["a".to_owned()])).await }
    });
    until_waiting(&pool, 1).await;
    buying.commit().await.unwrap();
    counting.await.unwrap().unwrap();
    assert_eq!((count(&pool, MISSED).await, count(&pool, COUNTED).await), (0, 1));
    assert_eq!(count(&pool, "SELECT count(*) FROM items WHERE counts_orders AND NOT is_counting").await, 1);
}
