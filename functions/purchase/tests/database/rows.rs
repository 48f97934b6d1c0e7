//! A fault of one item's row stops the requests for that item, and nobody else's.

use crate::*;
use shared::devstack::seed::{Fault, until_decided};

#[tokio::test]
async fn an_item_whose_row_is_at_fault_waits_alone_and_in_order() {
    for fault in Fault::ALL {
        with_every_strategy(&[("a", 2), ("b", 2), ("c", 2)], async |sale| {
            let faulty = fault.begin(&sale.pool).await;
            let hurried = Sale::of(seed::hurried(&sale.pool), sale.strategy, &sale.redis_url);
            let [one, two, three, four] = [(1, 1), (2, 2), (3, 1), (4, 1)].map(|(id, units)| request(id, "a", units));
            let batch = [one.clone(), request(5, "b", 1), two.clone(), request(6, "c", 1), three.clone()];
            let others = async |batch: &[PurchaseRequest]| {
                let mut answers = hurried.answers(batch).await;
                let is_of_a = |place: usize| batch[place].item == "a";
                assert!(
                    (0..batch.len()).all(|place| !is_of_a(place) || answers[place] == Answer::Later),
                    "{answers:?}"
                );
                let mut places = 0..;
                answers.retain(|_| places.next().is_some_and(|place| !is_of_a(place)));
                answers
            };
            let found = until_decided(async || others(&batch).await).await;
            assert_eq!(seed::codes(&found), [Code::Reserved, Code::Reserved], "{:?}", sale.strategy);
            // They come again, and others with them.
            let batch = [one.clone(), two.clone(), request(7, "b", 1), four.clone()];
            let found = until_decided(async || others(&batch).await).await;
            assert_eq!(seed::codes(&found), [Code::Reserved], "{:?}", sale.strategy);
            faulty.mend().await;
            let waiting = [one, two, three, four];
            let found = until_decided(async || hurried.answers(&waiting).await).await;
            let expected = [Code::Reserved, Code::SoldOut, Code::Reserved, Code::SoldOut];
            assert_eq!(seed::codes(&found), expected, "{:?}", sale.strategy);
            assert_eq!(sale.count(VERDICTS).await, 7, "nobody got one meanwhile");
        })
        .await;
    }
}

/// Whatever an index refuses again and again looks like a request id that somebody else has just recorded.
#[tokio::test]
async fn an_index_that_refuses_one_item_for_ever_stops_that_item_alone() {
    with_every_strategy(&[("a", 5), ("b", 5)], async |sale| {
        sale.run("CREATE UNIQUE INDEX once ON orders (item) WHERE item = 'a'").await;
        assert_eq!(sale.codes(&[request(1, "a", 1)]).await, [Code::Reserved]);
        let found = sale.answers(&[request(2, "a", 1), request(3, "b", 1)]).await;
        assert_eq!((&found[0], verdict(&found[1]).code), (&Answer::Later, Code::Reserved), "{:?}", sale.strategy);
    })
    .await;
}
