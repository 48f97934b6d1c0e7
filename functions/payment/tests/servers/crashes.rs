//! Processes crash between the steps, the gateway does not answer, messages are lost: one charge at most, and each charge
//! a paid order, or given back.

use super::*;

#[tokio::test]
async fn a_process_that_dies_with_the_charge_in_its_hand_leaves_a_payment_that_the_next_one_ends() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::open().await;
    let item_in_use = lock(&pool, "items", "a").await;
    let doomed = paying(&pool, &bank, request(1, order, "card"));
    // In the transaction that would have made it paid.
    until_waiting(&pool, 1).await;
    doomed.abort();
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock'";
    assert_eq!(count(&pool, cut).await, 1);
    item_in_use.rollback().await.unwrap();
    assert_eq!((state(&pool, order).await, bank.charges()), (State::Paying, 1));

    assert_eq!(code(&pool, &bank, request(1, order, "card")).await, "paid");
    assert_eq!((bank.asked(), bank.charges(), item(&pool, "a").await), (2, 1, (0, 1, 0)));
}

#[tokio::test]
async fn an_answer_that_is_lost_is_unknown_and_not_declined() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::open().await.but(|behaviour| behaviour.lost_answers = 2);
    // Within one call: the gateway is asked until it says what it did.
    assert_eq!(code(&pool, &bank, request(1, order, "card")).await, "paid");
    assert_eq!((bank.asked(), bank.charges()), (3, 1));
    assert_eq!(published(&pool).await, ["order.paying", "order.paid"]);
}

#[tokio::test]
async fn a_payment_that_hangs_is_put_off_keeps_its_units_and_does_not_keep_its_neighbours() {
    let pool = database(&[("a", 2)]).await;
    let [hangs, goes] = holds(&pool, ["a"; 2], Due::InAnHour).await;
    let bank = Bank::silent_on(&[hangs]).await;
    let process = process(&pool, &bank);
    let found = handled(&process, &[request(1, hangs, "card"), request(2, goes, "card")]).await;
    assert_eq!((&found[0], verdict(&found[1]).code), (&Answer::Requeue, Code::Paid));

    // Its time passes; it is being paid for, so nothing ends it.
    execute(&pool, "UPDATE orders SET hold_until = now() - interval '1 s'").await;
    assert_eq!(handled(&process, &[request(1, hangs, "card")]).await, [Answer::Requeue]);
    assert_eq!(count(&pool, "SELECT count(*) FROM orders WHERE state = 'reserved'").await, 0);
    bank.let_out(hangs);
    let found = handled(&process, &[request(1, hangs, "card")]).await;
    assert_eq!(verdict(&found[0]).code, Code::Paid);
    let about_it = bank.gateway.ledger().asked_about(&hangs.to_string());
    assert_eq!((about_it, bank.charges()), (1, 2), "the ask went on, and was found");
}

#[tokio::test]
async fn two_processes_with_the_same_request_charge_once_and_say_the_same() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::silent_on(&[order]).await;
    let payers: Vec<_> = (0..4).map(|_| paying(&pool, &bank, request(1, order, "card"))).collect();
    bank.until_asked(4).await;
    bank.let_out(order);
    let found = all_of(payers).await;
    assert!(found.iter().all(|answers| *answers == found[0]), "{found:?}");
    assert_eq!((verdict(&found[0][0]).code, bank.charges()), (Code::Paid, 1));
    assert_eq!(history(&pool, order).await, steps(&[("paying", "p-1"), ("paid", "p-1")]));
    assert_eq!((item(&pool, "a").await, published(&pool).await.len()), ((0, 1, 0), 2));
}

#[tokio::test]
async fn money_that_was_taken_after_a_decline_was_recorded_ends_in_a_paid_order() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let slow = Bank::silent_on(&[order]).await;
    let late = paying(&pool, &slow, request(1, order, "card"));
    slow.until_asked(1).await;
    // A gateway that breaks its promise: it says no to one, and yes to the other.
    let breaks = Bank::open().await.declines("card");
    let declined = answers(&pool, &breaks, &[request(1, order, "card")]).await;
    assert_eq!(verdict(&declined[0]).code, Code::Declined);
    slow.let_out(order);
    assert_eq!(late.await.unwrap(), declined, "one request, one verdict");
    assert_eq!((state(&pool, order).await, item(&pool, "a").await), (State::Paid, (0, 1, 0)));
    let expected = steps(&[("paying", "p-1"), ("reserved", "p-1"), ("paying", "p-1"), ("paid", "p-1")]);
    assert_eq!(history(&pool, order).await, expected);
    assert_eq!(published(&pool).await, ["order.paying", "order.declined", "order.paying", "order.paid"]);
}

#[tokio::test]
async fn money_that_was_taken_for_an_order_that_somebody_ended_by_hand_is_given_back() {
    for (state, expected) in [("expired", "already_expired"), ("cancelled", "already_cancelled")] {
        let (pool, order) = one_hold(Due::InAnHour).await;
        let bank = Bank::silent_on(&[order]).await;
        let paying = paying(&pool, &bank, request(1, order, "card"));
        bank.until_asked(1).await;
        // No function does this: an order that is being paid for cannot end otherwise.
        sqlx::query("UPDATE orders SET state = $1").bind(state).execute(&pool).await.unwrap();
        execute(&pool, "UPDATE items SET held = 0, available = 1").await;
        // And the process dies; the next one still finds that a charge may be there.
        paying.abort();
        bank.let_out(order);
        assert_eq!(code(&pool, &bank, request(1, order, "card")).await, expected);
        assert_eq!(bank.charges(), 0, "given back");
        assert_eq!(item(&pool, "a").await, (0, 0, 0));
        assert_eq!(count(&pool, "SELECT count(*) FROM payments WHERE is_under_way").await, 0);
        let asked = bank.asked();
        assert_eq!(code(&pool, &bank, request(1, order, "card")).await, expected, "on record");
        assert_eq!(bank.asked(), asked);
    }
}

#[tokio::test]
async fn a_payment_whose_message_was_lost_is_ended_all_the_same() {
    let pool = database(&[("a", 2)]).await;
    let [one, other] = holds(&pool, ["a"; 2], Due::InAnHour).await;
    let bank = Bank::silent_on(&[one, other]).await.declines("empty");
    let requests = [request(1, one, "card"), request(2, other, "empty")];
    left_unknown(&pool, &bank, &requests).await;
    let process = process(&pool, &bank);
    assert_eq!(process.take_up().await.unwrap(), 0, "somebody has asked just now");
    execute(&pool, "UPDATE payments SET next_ask_at = now()").await;
    assert_eq!(process.take_up().await.unwrap(), 2);
    assert_eq!((state(&pool, one).await, state(&pool, other).await), (State::Paid, State::Reserved));
    assert_eq!((bank.charges(), item(&pool, "a").await), (1, (1, 1, 0)));
    // The verdicts are the requests' own, should they come after all.
    let asked = bank.asked();
    let found = answers(&pool, &bank, &requests).await;
    assert_eq!(codes(&found), [Code::Paid, Code::Declined]);
    assert_eq!(bank.asked(), asked);
}

#[tokio::test]
async fn lost_payments_are_looked_for_while_the_function_serves() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::silent_on(&[order]).await;
    left_unknown(&pool, &bank, &[request(1, order, "card")]).await;
    execute(&pool, "UPDATE payments SET next_ask_at = now()").await;
    let upkeep = tokio::spawn(process(&pool, &bank).upkeep(watch::Sender::default()));
    while state(&pool, order).await != State::Paid {
        tokio::task::yield_now().await;
    }
    upkeep.abort();
}

#[tokio::test]
async fn an_outcome_that_is_not_for_the_request_under_way_changes_nothing() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let slow = Bank::silent_on(&[order]).await;
    let first = paying(&pool, &slow, request(1, order, "card"));
    slow.until_asked(1).await;
    let declines = Bank::open().await.declines("card");
    assert_eq!(code(&pool, &declines, request(1, order, "card")).await, "declined");
    let hangs = Bank::silent_on(&[order]).await;
    assert_eq!(handled(&process(&pool, &hangs), &[request(2, order, "other")]).await, [Answer::Requeue]);

    // The first one's outcome comes while the second one's payment is under way; its money is the second one's charge,
    // by the same key, at any gateway that keeps its promises.
    slow.let_out(order);
    assert_eq!(codes(&first.await.unwrap()), [Code::Declined]);
    assert_eq!(state(&pool, order).await, State::Paying);
    hangs.let_out(order);
    assert_eq!(code(&pool, &hangs, request(2, order, "other")).await, "paid");
}

#[tokio::test]
async fn a_payment_under_way_is_ended_even_if_another_function_took_its_request_id_meanwhile() {
    let (pool, order) = one_hold(Due::InAnHour).await;
    let bank = Bank::silent_on(&[order]).await;
    let process = process(&pool, &bank);
    assert_eq!(handled(&process, &[request(1, order, "card")]).await, [Answer::Requeue]);
    // A cancellation under the same id, say, which is refused, and on record now.
    execute(&pool, "INSERT INTO verdicts VALUES ('p-1', NULL, gen_random_uuid(), 'refused', '{}', now())").await;
    bank.let_out(order);
    let found = handled(&process, &[request(1, order, "card")]).await;
    assert_eq!(verdict(&found[0]).code, Code::RequestIdReused, "one request id, one verdict");
    assert_eq!((state(&pool, order).await, bank.charges()), (State::Paid, 1), "what was charged is paid for");
    assert_eq!(item(&pool, "a").await, (0, 1, 0));
}

#[tokio::test]
async fn a_lost_payment_that_cannot_be_ended_does_not_keep_the_others() {
    let pool = database(&[("a", 1), ("broken", 1), ("c", 1)]).await;
    let orders = holds(&pool, ["a", "broken", "c"], Due::InAnHour).await;
    let bank = Bank::silent_on(&orders).await;
    let requests: Vec<_> = orders.iter().enumerate().map(|(id, order)| request(id, *order, "card")).collect();
    left_unknown(&pool, &bank, &requests).await;
    // Somebody has repaired it by hand, and not well: nothing is held that could be sold.
    execute(&pool, "UPDATE items SET held = 0, available = 1 WHERE id = 'broken'").await;
    execute(&pool, "UPDATE payments SET next_ask_at = now()").await;
    assert_eq!(process(&pool, &bank).take_up().await.unwrap(), 2);
    let mut states = Vec::new();
    for order in &orders {
        states.push(state(&pool, *order).await);
    }
    assert_eq!(states, [State::Paid, State::Paying, State::Paid]);
}

/// A gateway that says nothing but about one order: 600 connections would be too many for a test.
struct SilentBut(Uuid);

impl Gateway for SilentBut {
    fn charge<'a>(&'a self, charge: &'a Charge) -> BoxFuture<'a, Result<Outcome, Unknown>> {
        if charge.order_id != self.0 {
            return Box::pin(std::future::pending());
        }
        Box::pin(std::future::ready(Ok(Outcome::Captured { charge_id: "ch".to_owned() })))
    }

    fn void(&self, _: Uuid) -> BoxFuture<'_, Result<Outcome, Unknown>> {
        Box::pin(std::future::pending())
    }

    fn refund(&self, _: Uuid) -> BoxFuture<'_, Result<(), Unknown>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test]
async fn payments_that_hang_leave_others_their_turn_at_the_gateway_however_many_they_are() {
    let pool = database(&[("a", 601)]).await;
    let [goes, hang @ ..] = holds(&pool, ["a"; 601], Due::InAnHour).await;
    let requests: Vec<_> = hang.iter().enumerate().map(|(id, order)| request(id, *order, "card")).collect();
    let process = Payment::new(functions(&pool), Arc::new(SilentBut(goes)), terms());
    assert!(handled(&process, &requests).await.iter().all(|answer| *answer == Answer::Requeue));
    let found = handled(&process, &[request("goes", goes, "card")]).await;
    assert_eq!(verdict(&found[0]).code, Code::Paid);
}
