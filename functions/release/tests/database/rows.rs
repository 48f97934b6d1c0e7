//! A row that is at fault stops what needs it, and no other order.

use super::*;

#[tokio::test]
async fn cancels_and_expiries_of_other_items_go_on_while_one_items_row_is_at_fault() {
    for fault in Fault::ALL {
        let pool = database_of_holds(&[("a", 2), ("b", 3)]).await;
        let [of_a, of_b] = holds(&pool, ["a", "b"], Due::InAnHour).await;
        let due = holds(&pool, ["a", "b"], Due::Now).await;
        let faulty = fault.begin(&pool).await;
        let hurried = seed::hurried(&pool);
        let release = Release::new(hurried.clone());
        let batch = [request(2, of_b), request(1, of_a)];
        let answers = async || release.handle(&batch).await.unwrap();
        let found = until_decided(async || answers().await[..1].to_vec()).await;
        assert_eq!((codes(&found), &answers().await[1]), (vec![Code::Cancelled], &Answer::Later));
        let mut expirer = Expirer::new(&hurried, Isolation::new(&hurried), Notifier::start(&pool));
        assert_eq!(expirer.expire().await.unwrap(), 1);
        assert_eq!((state(&pool, due[0]).await, state(&pool, due[1]).await), (State::Reserved, State::Expired));
        let next = hold(&pool, "b", 1, Due::Now).await;
        assert_eq!((expirer.expire().await.unwrap(), state(&pool, next).await), (1, State::Expired), "at every look");
        faulty.mend().await;
        let found = until_decided(async || release.handle(&[request(1, of_a)]).await.unwrap()).await;
        assert_eq!(codes(&found), [Code::Cancelled]);
        assert_eq!(expired(&pool).await, 1);
        assert_eq!((item(&pool, "a").await.0, item(&pool, "b").await.0), (2, 3), "each unit came back once");
    }
}

#[tokio::test]
async fn an_order_that_somebody_has_locked_keeps_no_other_order_of_its_item() {
    let pool = database_of_holds(&[("a", 2)]).await;
    let [locked, other] = holds(&pool, ["a"; 2], Due::InAnHour).await;
    let row = lock(&pool, "orders", locked).await;
    let release = Release::new(db::isolated(&pool));
    let requests = [request(1, locked), request(2, other), request(3, Uuid::nil())];
    let answers = async || release.handle(&requests).await.unwrap();
    let found = until_decided(async || answers().await.split_off(1)).await;
    assert_eq!((codes(&found), &answers().await[0]), (vec![Code::Cancelled, Code::UnknownOrder], &Answer::Later));
    row.rollback().await.unwrap();
    let found = until_decided(answers).await;
    assert_eq!(codes(&found), [Code::Cancelled, Code::Cancelled, Code::UnknownOrder]);
}
