//! What a Redis may say instead of an answer: the batch is held, whatever it is, and goes on once it has passed.

use super::{Sale, codes, connect};
use crate::{VERDICTS, count, request, run};
use shared::{error::Error, handler::Handler, messages::Code::Reserved};

#[tokio::test]
async fn a_redis_that_is_full_read_only_or_refuses_holds_the_batch_until_it_no_longer_does() {
    let sale = sale_of_many().await;
    assert_eq!(sale.sells(0..1).await, codes(&[(1, Reserved)]));
    for (number, (is_refusal, reason, begin, end)) in (1..).zip([
        (false, "OOM", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        (false, "read only", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        (true, "NoPerm", "ACL SETUSER default -evalsha", "ACL SETUSER default +evalsha"),
        (true, "NoPerm", "ACL SETUSER default resetkeys", "ACL SETUSER default allkeys"),
    ]) {
        sale.say(begin).await;
        for _ in 0..2 {
            let error = held(&sale, number).await;
            assert_eq!(matches!(error, Error::Unfit(_)), is_refusal, "{begin}: {error}");
            let text = error.to_string();
            assert!(text.starts_with("Redis") && text.contains(reason), "{begin}: {text}");
        }
        sale.say(end).await;
        assert_eq!(sale.sells(number..number + 1).await, codes(&[(1, Reserved)]), "after {begin}");
    }
    let recorded = count(&sale.pool, VERDICTS).await;
    assert_eq!(recorded, 5, "each once, and none of them while it was held");
}

#[tokio::test]
async fn a_redis_that_asks_for_a_password_is_a_matter_of_configuration() {
    let sale = sale_of_many().await;
    sale.say("CONFIG SET requirepass secret").await;
    for _ in 0..2 {
        let error = held(&sale, 1).await;
        assert!(matches!(&error, Error::Unfit(text) if text.contains("Redis refuses")), "{error}");
    }
}

#[tokio::test]
async fn a_redis_that_is_busy_holds_the_batch() {
    let sale = sale_of_many().await;
    assert_eq!(sale.sells(0..1).await, codes(&[(1, Reserved)]));
    sale.say("CONFIG SET busy-reply-threshold 1").await;
    let mut busy = connect(&sale.redis).await;
    let endless = tokio::spawn(async move {
        let error = redis::cmd("EVAL").arg("while true do end").arg(0).exec_async(&mut busy).await;
        drop((error, busy));
    });
    let mut asking = connect(&sale.redis).await;
    while redis::cmd("PING").exec_async(&mut asking).await.is_ok() {}
    let error = held(&sale, 1).await;
    assert!(matches!(&error, Error::Away(text) if text.starts_with("Redis does not answer")), "{error}");
    sale.say("SCRIPT KILL").await;
    endless.await.unwrap();
    assert_eq!(sale.sells(1..2).await, codes(&[(1, Reserved)]));
}

/// A sale of the item `a`, and of a hundred others.
async fn sale_of_many() -> Sale {
    let sale = Sale::of(100).await;
    let insert = "INSERT INTO items (id, stock, available) SELECT 'other-' || g, 1, 1 FROM generate_series(0, 99) AS g";
    run(&sale.pool, insert).await;
    sale
}

/// Why a batch is held in which somebody asks for the item `a`, and others for a hundred more.
async fn held(sale: &Sale, number: u32) -> Error {
    let others = (0..100).map(|other| request(format!("{number}-{other}"), &format!("other-{other}"), 1));
    let requests: Vec<_> = std::iter::once(request(number, "a", 1)).chain(others).collect();
    let error = sale.worker.handle(&requests).await.unwrap_err();
    assert!(error.to_string().len() < 400, "it is said once: {error}");
    error
}
