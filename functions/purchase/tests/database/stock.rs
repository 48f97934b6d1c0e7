//! The database itself makes overselling impossible, and its schema is set up once, however many start at once.

use crate::{CONNECTIONS_MAX, database, item};
use shared::{db, devstack::Fixture};

#[tokio::test]
async fn never_oversells_even_by_hand() {
    let pool = database(&[("ticket", 1)]).await;
    for (statement, constraint) in [
        ("UPDATE items SET available = available - 2, held = held + 2", "items_available_check"),
        ("UPDATE items SET available = available - 1", "stock_is_conserved"),
        ("UPDATE items SET held = held + 1", "stock_is_conserved"),
        ("UPDATE items SET available = 2, held = -1", "items_held_check"),
        ("INSERT INTO items (id, stock, available) VALUES ('b', 1, 2)", "stock_is_conserved"),
        ("INSERT INTO items (id, stock, available) VALUES ('not an id', 1, 1)", "items_id_check"),
    ] {
        let error = sqlx::query(statement).execute(&pool).await.unwrap_err();
        let violated = error.as_database_error().and_then(|error| error.constraint()).map(str::to_owned);
        assert_eq!(violated.as_deref(), Some(constraint), "{statement}: {error}");
    }
    assert_eq!(item(&pool, "ticket").await, (1, 0, 0, 0));
}

#[tokio::test]
async fn many_workers_that_start_at_once_migrate_once() {
    let fixture = Fixture::new().await;
    let workers = (0..8).map(|_| {
        let pool = db::pool(&fixture.database_url, "test", CONNECTIONS_MAX).unwrap();
        tokio::spawn(async move { db::migrate(&pool).await })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap().unwrap();
    }
}
