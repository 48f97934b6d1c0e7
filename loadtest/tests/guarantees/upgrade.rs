//! Versions meet: what the last release left, and still writes, goes on with this one; and this one with what comes after it.

use crate::admin::admin;
use crate::startup::{CONFIGURATION, assert_gives_up};
use crate::support::sale::{private_servers, rabbitmqctl};
use crate::support::shop::{Shop, cancellation, payment, until};
use loadtest::servers::Endpoints;
use shared::config::StoreOptions;
use shared::db;
use shared::devstack::seed::execute;
use shared::devstack::{Fixture, Program, Servers, Supervised, as_role, urls_of};
use shared::messages::{Identity, PAYMENT_QUEUE, PurchaseRequest, RELEASE_QUEUE};
use sqlx::PgPool;
use std::path::PathBuf;
use uuid::Uuid;

/// The last migration of 0.2.0.
const LAST_RELEASE: i64 = 11;

/// How 0.2.0 records a purchase: the order $1, of the request $2, which has the fingerprint $3 and the reply $4.
const PURCHASE: &str = "
WITH decided AS (
    UPDATE items SET available = available - 1, held = held + 1, version = version + 1 WHERE id = 'ticket'
), ordered AS (
    INSERT INTO orders (id, request_id, item, buyer, quantity, hold_until, created_at, is_counted)
    VALUES ($1, $2, 'ticket', 'b-' || $2, 1, now() + interval '1 hour', now(), false)
), published AS (
    INSERT INTO outbox (kind, order_ids) VALUES ('order.reserved', ARRAY[$1])
)
INSERT INTO verdicts (request_id, item, fingerprint, content, status, reply, decided_at)
VALUES ($2, 'ticket', $3, NULL, 'reserved', $4, now())";
/// How it begins to pay for the order $1, by the request p-$2; and then it dies.
const PAYMENT: &str = "
WITH moved AS (
    UPDATE orders SET state = 'paying' WHERE id = $1
), told AS (
    INSERT INTO order_history (order_id, from_state, to_state, cause, request_id, at)
    VALUES ($1, 'reserved', 'paying', 'payment_begun', 'p-' || $2, now())
), published AS (
    INSERT INTO outbox (kind, order_ids) VALUES ('order.paying', ARRAY[$1])
)
INSERT INTO payments (order_id, request_id, fingerprint, payment_method, asked_at, next_ask_at, void_at)
VALUES ($1, 'p-' || $2, gen_random_uuid(), 'card', now(), now(), now() + interval '900 s')";

/// What an old worker has sold, and answered.
async fn sold_before(pool: &PgPool, request_id: &str) -> (Uuid, String) {
    let (id, hold) = (Uuid::now_v7(), "2099-01-01T00:00:00.000000Z");
    let request = PurchaseRequest {
        request_id: request_id.to_owned(),
        item: "ticket".to_owned(),
        buyer: format!("b-{request_id}"),
        quantity: 1,
        deadline: None,
        sender: None,
    };
    let reply = format!(
        r#"{{"request_id":"{request_id}","item":"ticket","status":"reserved","code":"reserved","message":"as it was","order":{{"id":"{id}","item":"ticket","quantity":1,"hold_until":"{hold}"}},"item_version":0,"decided_at":"{hold}"}}"#
    );
    let purchase = sqlx::query(PURCHASE).bind(id).bind(request_id).bind(request.fingerprint()).bind(&reply);
    purchase.execute(pool).await.unwrap();
    (id, reply)
}

async fn paid_before(pool: &PgPool, request_id: &str) -> Uuid {
    let (id, _) = sold_before(pool, request_id).await;
    sqlx::query(PAYMENT).bind(id).bind(request_id).execute(pool).await.unwrap();
    id
}

#[tokio::test]
async fn what_the_last_release_left_and_still_writes_goes_on_with_this_version() {
    let Fixture { amqp_url, database_url } = Fixture::new().await;
    let superuser = db::pool(&database_url, "test", 1).unwrap();
    execute(&superuser, "CREATE ROLE before_roles LOGIN; GRANT ALL ON SCHEMA public TO before_roles").await;
    let owner = StoreOptions { database_url: as_role(&database_url, "before_roles"), database_connections_max: 4 };
    let pool = db::pool(&owner.database_url, "test", 4).unwrap();
    db::migrator(LAST_RELEASE).run(&pool).await.unwrap();
    execute(&pool, "INSERT INTO items (id, stock, available) VALUES ('ticket', 9, 9)").await;
    let ((left, reply), paying) = (sold_before(&pool, "left").await, paid_before(&pool, "paying").await);
    // As functions/README.md says: while all run, as the tables' owner.
    db::open_and_migrate(&owner, "test").await.unwrap();
    let ((beside, reply_beside), paying_beside) =
        (sold_before(&pool, "beside").await, paid_before(&pool, "paying-beside").await);
    // And when the old ones are stopped, for roles of their own.
    execute(&superuser, include_str!("../../../migrations/roles.sql")).await;
    let migrator =
        StoreOptions { database_url: as_role(&database_url, "turnstile_migrator"), database_connections_max: 1 };
    db::open_and_migrate(&migrator, "test").await.unwrap();

    let mut shop = Shop::on(&amqp_url, &database_url, &[]).await;
    let _purchase = shop.worker("w", &[("MIGRATE", "never")]).await;
    let _others = shop.workers(&["payment", "release", "relay"]).await;
    for (id, reply) in [("left", reply), ("beside", reply_beside)] {
        assert_eq!(shop.purchase(id).await.body, reply, "byte for byte");
    }
    assert_eq!(shop.cancel("c-left", &left.to_string()).await.code(), "cancelled");
    assert_eq!(shop.pay("p-beside", &beside.to_string()).await.code(), "paid");
    assert_eq!(shop.purchase("new").await.code(), "reserved");
    let paid = "SELECT count(*) FROM orders WHERE id = ANY($1) AND state = 'paid'";
    until("payments that were begun are taken up", async || {
        let paid = sqlx::query_scalar::<_, i64>(paid).bind(vec![paying, paying_beside]);
        paid.fetch_one(&shop.pool).await.unwrap() == 2
    })
    .await;
    shop.outbox_is_empty().await;
    let audit = admin(&shop, &["audit"]).await;
    assert_eq!(audit.code, Some(0), "{}{}", audit.out, audit.err);
}

/// With the programs of 0.2.0 in the folder `LAST_RELEASE`, by the steps of functions/README.md; CONTRIBUTING.md has the commands.
#[tokio::test]
#[ignore = "needs the last release's programs, in the folder LAST_RELEASE"]
async fn the_last_release_itself_is_followed_by_this_version() {
    let (servers, Endpoints { amqp_url, database_url, .. }) = private_servers(1).await;
    let superuser = db::pool(&database_url, "test", 1).unwrap();
    execute(&superuser, "CREATE ROLE before_roles LOGIN; GRANT ALL ON SCHEMA public TO before_roles").await;
    let owner = as_role(&database_url, "before_roles");
    let last = async |function: &str, id: &str| {
        let program = Program::new(PathBuf::from(std::env::var_os("LAST_RELEASE").unwrap()).join(function));
        let program = program.args(["--worker-id", id]).env("AMQP_URL", &amqp_url).env("DATABASE_URL", &owner);
        let log = servers.folder().join(format!("last-{id}.log"));
        Supervised::spawn(program.env("GATEWAY", "simulated").log(log)).await.unwrap()
    };
    // The first to come makes the schema and the queues, which an item then waits in for the others.
    let mut old = vec![last("purchase", "w").await];
    let is_there = "SELECT count(*) FROM pg_tables WHERE tablename = 'payments'";
    until("0.2.0 has made its schema", async || {
        sqlx::query_scalar::<_, i64>(is_there).fetch_one(&superuser).await.unwrap() == 1
    })
    .await;
    for (function, id) in [("purchase", "v"), ("payment", "p"), ("release", "r"), ("restock", "s"), ("relay", "e")] {
        old.push(last(function, id).await);
    }
    let mut shop = Shop::as_it_is(&amqp_url, &database_url).await;
    until("0.2.0 consumes", async || rabbitmqctl(&servers.rabbitmq, &["list_consumers"]).await.lines().count() >= 19)
        .await;
    shop.execute("INSERT INTO items (id, stock, available) VALUES ('ticket', 99, 99)").await;
    let (first, second) = (shop.purchase("r-1").await, shop.purchase("r-2").await);
    let paid = shop.ask_at("", PAYMENT_QUEUE, "p-1", &payment("p-1", first.order())).await;
    assert_eq!(paid.code(), "paid");

    // While all of it runs, the new schema, by the tables' owner; who runs goes on, who ended comes back as the new version,
    // on the queues as they are, as a user who may declare none.
    db::open_and_migrate(&StoreOptions { database_url: owner.clone(), database_connections_max: 4 }, "test")
        .await
        .unwrap();
    let third = shop.purchase("r-3").await;
    assert_eq!(shop.purchase("r-1").await.body, first.body, "byte for byte");
    assert_eq!(shop.ask_at("", RELEASE_QUEUE, "c-3", &cancellation("c-3", third.order())).await.code(), "cancelled");
    assert_eq!(last("purchase", "late").await.wait().await.unwrap().code(), Some(CONFIGURATION));
    let beside = shop.worker("beside", &[("MIGRATE", "never"), ("DATABASE_URL", &owner)]).await;
    old.remove(0).stop().await.unwrap();
    for number in 0..60 {
        shop.buy(&format!("b-{number}"), "ticket").await;
    }
    let replies = shop.replies(60).await;
    assert!(replies.values().all(|reply| reply.code() == "reserved"));

    // The order of steps for queues with other arguments, and for roles of their own.
    until("the queues are empty", async || shop.is_drained().await).await;
    for mut process in old.into_iter().chain([beside]) {
        process.stop().await.unwrap();
    }
    change_queues_and_roles(&servers, &superuser, &shop).await;
    let _purchase = shop.worker("w-2", &[("MIGRATE", "never")]).await;
    let _others = shop.workers(&["payment", "release", "relay"]).await;
    assert_eq!(shop.purchase("r-2").await.body, second.body, "byte for byte");
    assert_eq!(shop.pay("p-1", first.order()).await.body, paid.body, "byte for byte");
    assert_eq!(shop.cancel("c-2", second.order()).await.code(), "cancelled");
    assert_eq!(shop.purchase("new").await.code(), "reserved");
    shop.outbox_is_empty().await;
    let audit = admin(&shop, &["audit"]).await;
    assert_eq!(audit.code, Some(0), "{}{}", audit.out, audit.err);
    drop(shop);
    servers.stop().await.unwrap();
}

async fn change_queues_and_roles(servers: &Servers, superuser: &PgPool, shop: &Shop) {
    for queue in
        (0..8).map(|number| format!("purchase.{number}")).chain(["payment", "release", "restock"].map(String::from))
    {
        rabbitmqctl(&servers.rabbitmq, &["delete_queue", &queue, "--if-empty", "--if-unused"]).await;
    }
    let definitions = concat!(env!("CARGO_MANIFEST_DIR"), "/../rabbitmq/definitions.json");
    rabbitmqctl(&servers.rabbitmq, &["import_definitions", definitions]).await;
    execute(superuser, include_str!("../../../migrations/roles.sql")).await;
    let migrated =
        admin(shop, &["migrate", "--database-url", &as_role(&shop.database_url, "turnstile_migrator")]).await;
    assert_eq!(migrated.code, Some(0), "{}", migrated.err);
}

#[tokio::test]
async fn a_worker_starts_again_on_a_newer_schema_unless_that_is_none_for_it() {
    let mut shop = Shop::open(&[("ticket", 2)]).await;
    shop.execute(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                  VALUES (9999, 'more', true, '', 0)",
    )
    .await;
    let _worker = shop.worker("w", &[]).await;
    assert_eq!(shop.purchase("r").await.code(), "reserved");
    assert!(shop.log("w").await.contains("of a newer version of this program"));
    assert_eq!(admin(&shop, &["audit"]).await.code, Some(0));
    let migrate = ["migrate", "--database-url", &as_role(&shop.database_url, "turnstile_migrator")];
    let refused = admin(&shop, &migrate).await;
    assert!(refused.code == Some(CONFIGURATION) && refused.err.contains("start that one instead"), "{}", refused.err);
    shop.execute("UPDATE _sqlx_migrations SET description = 'breaking: more' WHERE version = 9999").await;
    let [amqp_url, database_url] = urls_of("purchase", &shop.amqp_url, &shop.database_url);
    let environment = [("AMQP_URL", amqp_url.as_str()), ("DATABASE_URL", &database_url)];
    assert_gives_up(&environment, CONFIGURATION, "start that one instead").await;
    assert_eq!(admin(&shop, &["audit"]).await.code, Some(CONFIGURATION));
    assert_eq!(shop.purchase("r-2").await.code(), "reserved", "who runs goes on");
}
