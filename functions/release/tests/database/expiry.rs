//! A hold ends when its time has passed, and gives back what it held.

use super::*;

#[tokio::test]
async fn a_hold_whose_time_has_passed_ends_and_the_others_go_on() {
    let pool = database_of_holds(&[("a", 5), ("b", 2)]).await;
    let due = [hold(&pool, "a", 1, Due::Now).await, hold(&pool, "a", 3, Due::Now).await];
    let of_b = hold(&pool, "b", 2, Due::Now).await;
    let live = hold(&pool, "a", 1, Due::InAnHour).await;
    assert_eq!(expired(&pool).await, 3);
    assert_eq!((item(&pool, "a").await, item(&pool, "b").await), ((4, 1, 1), (2, 0, 1)));
    for order in [due[0], due[1], of_b] {
        assert_eq!(state(&pool, order).await, State::Expired);
        let expected = ("reserved".to_owned(), "expired".to_owned(), "hold_passed".to_owned(), None);
        assert_eq!(history(&pool, order).await, [expected]);
    }
    assert_eq!(state(&pool, live).await, State::Reserved);
    assert!(history(&pool, live).await.is_empty());

    assert_eq!(expired(&pool).await, 0, "what has ended ends once");
    assert_eq!(item(&pool, "a").await, (4, 1, 1));
}

#[tokio::test]
async fn only_reserved_orders_expire() {
    for other in [State::Paying, State::Paid, State::Expired, State::Cancelled] {
        let (pool, order) = one_hold(Due::Now).await;
        sqlx::query("UPDATE orders SET state = $1").bind(other.as_str()).execute(&pool).await.unwrap();
        assert_eq!(expired(&pool).await, 0);
        assert_eq!((state(&pool, order).await, item(&pool, "a").await), (other, (0, 1, 0)));
    }
}

#[tokio::test]
async fn more_than_a_batch_is_ended_at_one_look() {
    let orders = i64::from(BATCH_ORDERS_MAX) + 6;
    let pool = database_of_holds(&[("a", orders), ("b", orders)]).await;
    let many = "INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at)
                SELECT gen_random_uuid(), 'r', CASE g % 2 WHEN 0 THEN 'a' ELSE 'b' END, 'b', 2, now(), now()
                FROM generate_series(1, $1) AS g";
    sqlx::query(many).bind(orders).execute(&pool).await.unwrap();
    assert_eq!(expired(&pool).await, orders);
    assert_eq!(item(&pool, "a").await.0 + item(&pool, "b").await.0, 2 * orders);
    assert_eq!(count(&pool, "SELECT count(*) FROM order_history").await, orders);
}

#[tokio::test]
async fn an_item_that_was_altered_by_hand_keeps_no_other_items_holds() {
    let pool = database_of_holds(&[("a", 1), ("broken", 1), ("gone", 1)]).await;
    let [broken, gone] = holds(&pool, ["broken", "gone"], Due::Now).await;
    let sound = hold(&pool, "a", 1, Due::Now).await;
    execute(&pool, "UPDATE items SET held = 0, sold = 1 WHERE id = 'broken'; DELETE FROM items WHERE id = 'gone'")
        .await;
    assert_eq!(expired(&pool).await, 1);
    let states = [state(&pool, sound).await, state(&pool, broken).await, state(&pool, gone).await];
    assert_eq!(states, [State::Expired, State::Reserved, State::Reserved]);
    assert_eq!(item(&pool, "a").await, (1, 0, 1));
    // Put right, it ends as any other.
    execute(&pool, "UPDATE items SET held = 1, sold = 0 WHERE id = 'broken'").await;
    assert_eq!((expired(&pool).await, state(&pool, broken).await), (1, State::Expired));
}

#[tokio::test]
async fn holds_run_out_while_the_function_serves() {
    let (pool, order) = one_hold(Due::Now).await;
    let named = PgConnectOptions::clone(&functions(&pool).connect_options()).application_name("expirer");
    let upkeep = tokio::spawn(Release::new(PgPool::connect_lazy_with(named)).upkeep(watch::Sender::default()));
    let ends = async |order| {
        while state(&pool, order).await == State::Reserved {
            tokio::task::yield_now().await;
        }
    };
    ends(order).await;
    assert_eq!(item(&pool, "a").await, (1, 0, 1));

    // Its connections are cut: it goes on with others.
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'expirer'";
    assert!(count(&pool, cut).await >= 1);
    execute(&pool, "UPDATE items SET available = 0, held = 1").await;
    let next = hold(&pool, "a", 1, Due::Now).await;
    ends(next).await;
    upkeep.abort();
    assert_eq!(item(&pool, "a").await.0, 1);
    assert_eq!(codes(&answers(&pool, &[request(1, next)]).await), [Code::AlreadyExpired]);
}
