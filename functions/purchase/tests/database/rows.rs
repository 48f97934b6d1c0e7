//! A fault of one item's row stops the requests for that item, and nobody else's.

use crate::*;
use shared::{
    db,
    devstack::seed::{Fault, until_decided},
};

#[tokio::test]
async fn an_item_whose_row_is_at_fault_waits_alone_and_in_order() {
    for fault in Fault::ALL {
        with_every_strategy(&[("a", 2), ("b", 2), ("c", 2)], async |sale| {
            let faulty = fault.begin(&sale.pool).await;
            let hurried = Sale::of(db::isolated(&sale.pool), sale.strategy, &sale.redis_url);
            let [one, two, three, four] = [(1, 1), (2, 2), (3, 1), (4, 1)].map(|(id, units)| request(id, "a", units));
            let found = hurried
                .answers(&[one.clone(), request(5, "b", 1), two.clone(), request(6, "c", 1), three.clone()])
                .await;
            let later = |place: usize| found[place] == Answer::Later;
            assert_eq!((later(0), later(2), later(4)), (true, true, true), "{:?}: {found:?}", sale.strategy);
            assert_eq!(seed::codes(&[found[1].clone(), found[3].clone()]), [Code::Reserved, Code::Reserved]);
            // They come again, and others with them.
            let found = hurried.answers(&[one.clone(), two.clone(), request(7, "b", 1), four.clone()]).await;
            assert_eq!(found.iter().filter(|answer| **answer == Answer::Later).count(), 3, "{found:?}");
            assert_eq!(verdict(&found[2]).code, Code::Reserved);
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
