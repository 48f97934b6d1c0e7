//! A payment meets the end of a hold, or a cancellation, or a purchase, at the same instant: one of them wins.

use super::*;

/// As the release function does it: what it passes over, and what it does not.
const EXPIRE: &str = "
WITH due AS MATERIALIZED (
    SELECT id FROM orders WHERE state = 'reserved' AND hold_until <= now() FOR NO KEY UPDATE SKIP LOCKED
), expired AS (
    UPDATE orders SET state = 'expired' FROM due WHERE orders.id = due.id RETURNING orders.id
)
SELECT count(*) FROM expired";

#[tokio::test]
async fn a_payment_that_meets_an_expiry_or_a_cancellation_waits_for_it_and_charges_nothing() {
    for (end, expected) in [("expired", Code::AlreadyExpired), ("cancelled", Code::AlreadyCancelled)] {
        let (pool, order) = one_hold(Due::InAnHour).await;
        let bank = Bank::open().await;
        let mut ending = lock(&pool, "orders", order).await;
        let paying = paying(&pool, &bank, request(1, order, "card"));
        until_waiting(&pool, 1).await;
        sqlx::query("UPDATE orders SET state = $1").bind(end).execute(&mut *ending).await.unwrap();
        ending.commit().await.unwrap();
        assert_eq!(codes(&paying.await.unwrap()), [expected]);
        assert_eq!(bank.asked(), 0);
    }
}

#[tokio::test]
async fn a_hold_that_runs_out_while_its_order_is_paid_for_ends_neither_before_nor_after() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::silent_on(&[order]).await;
    let process = process(&pool, &bank);
    assert_eq!(handled(&process, &[request(1, order, "card")]).await, [Answer::Requeue]);
    execute(&pool, "UPDATE orders SET hold_until = now() - interval '1 s'").await;
    assert_eq!(count(&pool, EXPIRE).await, 0);

    // While the outcome is about to be committed, too.
    let item_in_use = lock(&pool, "items", "a").await;
    bank.let_out(order);
    let paying = tokio::spawn(async move { handled(&process, &[request(1, order, "card")]).await });
    until_waiting(&pool, 1).await;
    assert_eq!(count(&pool, EXPIRE).await, 0);
    item_in_use.rollback().await.unwrap();
    assert_eq!(codes(&paying.await.unwrap()), [Code::Paid]);
    assert_eq!(count(&pool, EXPIRE).await, 0);
    assert_eq!((state(&pool, order).await, item(&pool, "a").await), (State::Paid, (0, 1, 0)));
}

#[tokio::test]
async fn a_declined_order_whose_time_has_passed_meanwhile_runs_out() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::silent_on(&[order]).await.declines("empty");
    let process = process(&pool, &bank);
    assert_eq!(handled(&process, &[request(1, order, "empty")]).await, [Answer::Requeue]);
    execute(&pool, "UPDATE orders SET hold_until = now() - interval '1 s'").await;
    bank.let_out(order);
    assert_eq!(verdict(&handled(&process, &[request(1, order, "empty")]).await[0]).code, Code::Declined);
    assert_eq!(count(&pool, EXPIRE).await, 1);
    assert_eq!(code(&pool, &bank, request(2, order, "card")).await, "already_expired");
    assert_eq!(bank.charges(), 0);
}

#[tokio::test]
async fn a_request_id_that_is_used_for_two_orders_at_the_same_instant_pays_for_one() {
    let pool = database(&[("a", 2)]).await;
    let [one, other] = holds(&pool, ["a"; 2], Due::InAnHour).await;
    let bank = Bank::open().await;
    // Nobody can write a payment for now: both read that there is none.
    let mut unwritable = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE payments IN EXCLUSIVE MODE").execute(&mut *unwritable).await.unwrap();
    let payers = [one, other].map(|order| paying(&pool, &bank, request(1, order, "card")));
    until_waiting(&pool, 2).await;
    unwritable.rollback().await.unwrap();
    let mut codes: Vec<_> = codes(&all_of(payers).await.concat()).into_iter().map(Code::as_str).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["paid", "request_id_reused"]);
    assert_eq!((bank.charges(), item(&pool, "a").await), (1, (1, 1, 0)));
}

#[tokio::test]
async fn many_who_pay_for_the_same_orders_at_once_charge_each_order_once() {
    let pool = database(&[("a", 30), ("b", 30)]).await;
    let bank = Bank::open().await.declines("empty");
    let orders: [_; 60] = holds(&pool, std::array::from_fn(|number| ["a", "b"][number % 2]), Due::InAnHour).await;
    // Each wants all of them, in an order of its own; some with a method that is declined.
    let (pool, bank, orders) = (&pool, &bank, &orders);
    let payers = (0..4).map(async |payer: usize| {
        let mut paid = 0;
        for some in [&orders[payer * 15..], &orders[..payer * 15]].concat().chunks(7) {
            let method = if payer == 0 { "empty" } else { "card" };
            let requests = some.iter().map(|order| request(format!("{payer}-{order}"), *order, method));
            let found = codes(&answers(pool, bank, &requests.collect::<Vec<_>>()).await);
            paid += found.iter().filter(|code| **code == Code::Paid).count();
        }
        paid
    });
    let paid = join_all(payers).await.into_iter().sum::<usize>() as i64;
    assert_eq!(bank.charges() as i64, paid);
    for (sql, expected) in [
        ("SELECT count(*) FROM orders WHERE state = 'paid'", paid),
        ("SELECT count(*) FROM orders WHERE state = 'paying'", 0),
        ("SELECT sum(sold)::bigint FROM items", paid),
        ("SELECT sum(held)::bigint FROM items", 60 - paid),
        ("SELECT count(*) FROM order_history WHERE to_state = 'paid'", paid),
    ] {
        assert_eq!(count(pool, sql).await, expected, "{sql}");
    }
    for order in orders {
        assert_eq!(history(pool, *order).await.pop().unwrap().0, state(pool, *order).await.as_str());
    }
}

#[tokio::test]
async fn payments_of_other_items_go_on_while_one_items_row_is_at_fault() {
    for fault in Fault::ALL {
        let pool = database(&[("a", 1), ("b", 1)]).await;
        let [of_a, of_b] = holds(&pool, ["a", "b"], Due::InAnHour).await;
        let bank = Bank::open().await;
        let faulty = fault.begin(&pool).await;
        let process = process(&seed::hurried(&pool), &bank);
        let requests = [request(1, of_a, "card"), request(2, of_b, "card")];
        let answers = async || handled(&process, &requests).await;
        let found = until_decided(async || answers().await.split_off(1)).await;
        assert_eq!((codes(&found), &answers().await[0]), (vec![Code::Paid], &Answer::Later));
        faulty.mend().await;
        let found = until_decided(answers).await;
        assert_eq!((codes(&found), bank.charges()), (vec![Code::Paid, Code::Paid], 2));
    }
}
