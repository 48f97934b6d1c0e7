//! A Redis that was restarted or flushed: what it counted before is never asked about again. And one that is away, or says
//! something else than an answer: the batch is held, whatever it is, and goes on once it has passed.

use super::*;

#[tokio::test]
async fn an_old_snapshot_is_there_and_is_not_used_and_without_the_fence_would_still_sell_nothing_twice() {
    for (has_snapshot, is_fenced) in [(true, true), (false, true), (true, false)] {
        let (mut redis, sale) = counted(&[("a", 10)]).await;
        sale.sells(0..4, &[(4, Reserved)]).await;
        if has_snapshot {
            redis.save().await.unwrap();
        }
        sale.sells(4..9, &[(5, Reserved)]).await;
        let before = sale.epoch().await;
        redis.kill_and_restart().await.unwrap();
        let old = has_snapshot.then_some(6);
        assert_eq!(sale.counted_in(before).await, old, "as many as there were when the snapshot was made");
        if !is_fenced {
            // The fence takes it for the Redis that was known.
            let info: InfoDict = sale.say("INFO server").await;
            let forge = sqlx::query("UPDATE redis_fence SET run_id = $1").bind(info.get::<String>("run_id").unwrap());
            forge.execute(&sale.pool).await.unwrap();
        }
        assert_away(&sale).await;
        sale.sells(9..14, &[(1, Reserved), (4, SoldOut)]).await;
        let (available, held, _, conflicts) = sale.item("a").await;
        assert_eq!((available, held), (0, 10));
        assert_eq!(conflicts == 0, is_fenced, "Redis said nothing that was not true; or PostgreSQL did not believe it");
        assert_eq!(sale.epoch().await != before, is_fenced);
        if is_fenced {
            assert_eq!((sale.counted_in(before).await, sale.counted().await), (old, Some(0)), "nobody asked");
        }
    }
}

#[tokio::test]
async fn what_is_missing_is_never_sold_out() {
    let (_redis, sale) = counted(&[("a", 10)]).await;
    for (numbers, what) in [(0..3, "FLUSHALL"), (3..6, "FLUSHDB")] {
        sale.sells(numbers, &[(3, Reserved)]).await;
        sale.say::<()>(what).await;
    }
    sale.sells(6..12, &[(4, Reserved), (2, SoldOut)]).await;
    assert_eq!(sale.conflicts().await, 0, "without a conflict");
    // Its scripts are learnt again with the next connection.
    sale.say::<()>("SCRIPT FLUSH").await;
    assert_away(&sale).await;
    sale.sells(12..13, &[(1, SoldOut)]).await;
}

#[tokio::test]
async fn workers_that_meet_a_redis_at_once_agree_on_its_epoch() {
    let (_redis, sale) = counted(&[("a", 100)]).await;
    let selling = (0..8).map(|number| sale.by_another().decides(&[request(number, "a", 1)]));
    all_of(selling).await;
    assert_eq!(sale.counted().await, Some(92));
    let keys: Vec<String> = sale.say("KEYS *:item:*").await;
    assert_eq!(keys.len(), 1, "{keys:?}");
}

#[tokio::test]
async fn a_redis_that_is_full_read_only_refuses_or_is_away_holds_the_batch_until_it_no_longer_does() {
    let (redis, sale) = sale_of_many().await;
    sale.sells(0..1, &[(1, Reserved)]).await;
    for (number, (is_refusal, reason, begin, end)) in (1..).zip([
        (false, "OOM", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        (false, "read only", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        (true, "NoPerm", "ACL SETUSER default -evalsha", "ACL SETUSER default +evalsha"),
        (true, "NoPerm", "ACL SETUSER default resetkeys", "ACL SETUSER default allkeys"),
    ]) {
        sale.say::<()>(begin).await;
        for _ in 0..2 {
            let error = held(&sale, number).await;
            assert_eq!(matches!(error, Error::Unfit(_)), is_refusal, "{begin}: {error}");
            let text = error.to_string();
            assert!(text.starts_with("Redis") && text.contains(reason), "{begin}: {text}");
        }
        sale.say::<()>(end).await;
        sale.sells(number..number + 1, &[(1, Reserved)]).await;
    }
    redis.stop().await.unwrap();
    assert_away(&sale).await;
    assert_eq!(sale.count(VERDICTS).await, 5, "each once, and none of them while it was held");
}

#[tokio::test]
async fn a_redis_that_asks_for_a_password_or_a_url_that_cannot_be_read_is_a_matter_of_configuration() {
    let (_redis, sale) = sale_of_many().await;
    sale.say::<()>("CONFIG SET requirepass secret").await;
    for _ in 0..2 {
        let error = held(&sale, 1).await;
        assert!(matches!(&error, Error::Unfit(text) if text.contains("Redis refuses")), "{error}");
    }
    for wrong in ["", "localhost", "http://localhost", "redis://host:port"] {
        let unusable = Counter::new(wrong, None).err().expect(wrong);
        assert!(unusable.to_string().contains("REDIS_URL"), "{wrong}: {unusable}");
    }
}

#[tokio::test]
async fn a_redis_that_is_busy_holds_the_batch() {
    let (_redis, sale) = sale_of_many().await;
    sale.sells(0..1, &[(1, Reserved)]).await;
    sale.say::<()>("CONFIG SET busy-reply-threshold 1").await;
    let (mut busy, mut asking) = (sale.connect().await, sale.connect().await);
    let endless = tokio::spawn(async move {
        let error = cmd("EVAL").arg("while true do end").arg(0).exec_async(&mut busy).await;
        drop((error, busy));
    });
    while cmd("PING").exec_async(&mut asking).await.is_ok() {}
    let error = held(&sale, 1).await;
    assert!(matches!(&error, Error::Away(text) if text.starts_with("Redis does not answer")), "{error}");
    sale.say::<()>("SCRIPT KILL").await;
    endless.await.unwrap();
    sale.sells(1..2, &[(1, Reserved)]).await;
}

#[tokio::test]
async fn a_redis_that_gives_no_answer_holds_the_batch_until_it_goes_on() {
    let (_redis, sale) = sale_of_many().await;
    sale.sells(0..1, &[(1, Reserved)]).await;
    sale.say::<()>("CLIENT PAUSE 600000 WRITE").await;
    let error = held(&sale, 1).await;
    assert!(matches!(&error, Error::Away(text) if text.starts_with("Redis does not answer")), "{error}");
    sale.say::<()>("CLIENT UNPAUSE").await;
    sale.sells(1..2, &[(1, Reserved)]).await;
}

async fn assert_away(sale: &Sale) {
    let error = sale.worker.handle(&[request("while away", "a", 1)]).await.unwrap_err();
    assert!(matches!(&error, Error::Away(text) if text.contains("Redis")), "{error}");
}

/// A sale of the item `a`, and of a hundred others.
async fn sale_of_many() -> (Redis, Sale) {
    let (redis, sale) = counted(&[("a", 100)]).await;
    let insert = "INSERT INTO items (id, stock, available) SELECT 'other-' || g, 1, 1 FROM generate_series(0, 99) AS g";
    sale.run(insert).await;
    (redis, sale)
}

/// Why a batch is held in which somebody asks for the item `a`, and others for a hundred more.
async fn held(sale: &Sale, number: u32) -> Error {
    let others = (0..100).map(|other| request(format!("{number}-{other}"), &format!("other-{other}"), 1));
    let requests: Vec<_> = std::iter::once(request(number, "a", 1)).chain(others).collect();
    let error = sale.worker.handle(&requests).await.unwrap_err();
    assert!(error.to_string().len() < 400, "it is said once: {error}");
    error
}
