//! Those who are after the same item at the same instant: no unit that somebody holds is removed, nothing is done twice.

use super::*;

/// As a purchase commits: on the version that it has read.
const HOLD: &str = "
UPDATE items SET available = available - $2, held = held + $2, version = version + 1 WHERE id = 'a' AND version = $1";

async fn hold(pool: &PgPool, version: i64, units: i64) -> bool {
    sqlx::query(HOLD).bind(version).bind(units).execute(pool).await.unwrap().rows_affected() == 1
}

fn remove(id: usize, quantity: i64) -> RestockRequest {
    request(id, "a", Operation::Remove { quantity })
}

#[tokio::test]
async fn a_removal_that_meets_a_purchase_waits_for_it_and_leaves_what_it_holds() {
    let pool = database(&[("a", 5, 0, 0)]).await;
    let mut purchase = lock(&pool, "items", "a").await;
    sqlx::query(HOLD).bind(0_i64).bind(4_i64).execute(&mut *purchase).await.unwrap();
    let removing = tokio::spawn({
        let pool = pool.clone();
        async move { codes(&answers(&pool, &[remove(1, 2), remove(2, 1)]).await) }
    });
    until_waiting(&pool, 1).await;
    purchase.commit().await.unwrap();
    assert_eq!(removing.await.unwrap(), [Code::StockInUse, Code::Removed]);
    assert_eq!(item(&pool, "a").await, (4, 0, 4, 0, 2));
}

#[tokio::test]
async fn a_purchase_that_was_decided_before_a_change_is_decided_again() {
    for operation in [
        Operation::Add { quantity: 1 },
        Operation::Remove { quantity: 1 },
        Operation::Close,
        Operation::Open { opens_at: None, closes_at: None },
        Operation::Rules { rules: Rules { tiers: Some(["vip".to_owned()].into()), ..Rules::default() } },
    ] {
        let pool = database(&[("a", 5, 0, 0)]).await;
        let (_, _, _, _, read) = item(&pool, "a").await;
        answers(&pool, &[request(1, "a", operation.clone())]).await;
        assert!(!hold(&pool, read, 1).await, "{operation:?}");
    }
}

#[tokio::test]
async fn removals_and_purchases_at_once_never_take_the_same_unit() {
    // 240 units are to be removed and 40 to be bought: somebody goes short.
    const STOCK: i64 = 250;
    const WANTED: i64 = 40;
    let pool = database(&[("a", STOCK, 0, 0)]).await;
    let removers = (0..3_usize).map(|remover| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut removed = 0;
            for number in 0..20 {
                let found = codes(&answers(&pool, &[remove(remover * 100 + number, 4)]).await);
                removed += 4 * found.iter().filter(|code| **code == Code::Removed).count() as i64;
            }
            removed
        })
    });
    let removers: Vec<_> = removers.collect();
    let mut held = 0;
    loop {
        let over = removers.iter().all(|remover| remover.is_finished());
        let (_, available, _, _, version) = item(&pool, "a").await;
        if over && (available == 0 || held == WANTED) {
            break;
        }
        if available > 0 && held < WANTED && hold(&pool, version, 1).await {
            held += 1;
        }
    }
    let removed: i64 = all_of(removers).await.into_iter().sum();
    let (stock, available, now_held, _, _) = item(&pool, "a").await;
    assert_eq!((stock, now_held, available), (STOCK - removed, held, STOCK - removed - held));
    assert!(removed > 0 && held > 0);
}

#[tokio::test]
async fn two_who_create_the_same_items_in_other_orders_do_not_wait_in_a_circle() {
    let pool = database(&[("m", 1, 0, 0)]).await;
    let workers = (0..6_usize).map(|worker| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let mut created = 0;
            for round in 0..10 {
                let mut items = [format!("a-{round}"), "m".to_owned(), format!("z-{round}")];
                items.rotate_left(worker % 3);
                let requests: Vec<_> = items
                    .iter()
                    .map(|item| request(format!("{worker}-{round}-{item}"), item, create(1, Rules::default())))
                    .collect();
                let found = codes(&answers(&pool, &requests).await);
                created += found.iter().filter(|code| **code == Code::Created).count();
            }
            created
        })
    });
    let created: usize = all_of(workers).await.into_iter().sum();
    assert_eq!(created, 20, "each item once");
    assert_eq!(count(&pool, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await, 0);
}

#[tokio::test]
async fn an_item_whose_row_is_at_fault_waits_alone_and_in_order() {
    for fault in Fault::ALL.into_iter().chain([Fault::Slow]) {
        let pool = database(&[("a", 5, 0, 0), ("b", 5, 0, 0)]).await;
        let faulty = fault.begin(&pool).await;
        let restock = Restock::new(db::isolated(&functions(&pool)));
        let of_b = request(2, "b", Operation::Add { quantity: 1 });
        let batch = [of_b, remove(1, 4), remove(3, 2)];
        let answers = async || restock.handle(&batch).await.unwrap();
        let found = until_decided(async || answers().await[..1].to_vec()).await;
        assert_eq!((codes(&found), &answers().await[1..]), (vec![Code::Added], &[Answer::Later, Answer::Later][..]));
        faulty.mend().await;
        let waiting = [remove(1, 4), remove(3, 2), remove(4, 1)];
        let found = until_decided(async || restock.handle(&waiting).await.unwrap()).await;
        assert_eq!(codes(&found), [Code::Removed, Code::StockInUse, Code::Removed]);
    }
}
