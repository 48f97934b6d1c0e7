//! The rules of a sale over many workers: whichever of them decides, and at whatever instant, no buyer passes a limit.

use crate::support::queue;
use crate::support::shop::{Shop, kib_of, memory_of, request, until};
use loadtest::raw::{self, Property, RawSender};
use loadtest::stats::Latency;
use shared::devstack::Supervised;
use shared::messages::{ARRAY_BYTES_MAX, REQUESTS_MAX};
use shared::topology::Topology;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::{Instant, interval};

const ONE_EACH: &str = "UPDATE items SET counts_orders = true, max_per_buyer = 1, version = version + 1";
/// Workers that have decided on the row that the test has locked, and wait to commit.
const WAITING_WORKERS: &str = "
SELECT count(DISTINCT application_name) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// For as long as it takes.
const LOCK: &str =
    "SET LOCAL idle_in_transaction_session_timeout = 0; LOCK TABLE items, verdicts IN ACCESS EXCLUSIVE MODE";

/// As many as `dead.invalid` keeps.
const UNREADABLE: u32 = 10_000;
/// Of the honest sale beside them.
const BUYERS: usize = 2_000;

#[tokio::test]
async fn one_buyer_at_many_workers_at_once_cannot_pass_their_limit() {
    let mut shop = Shop::open(&[("ticket", 1_000)]).await;
    // They wait for the row until all of them do, however busy the machine is.
    let patient = shop.patient_url();
    let patient = [("DATABASE_URL", patient.as_str())];
    let _workers =
        [shop.worker("w1", &patient).await, shop.worker("w2", &patient).await, shop.worker("w3", &patient).await];
    let partitions = ways_into_partitions(&shop).await;
    let mut probes = 0;
    until("each worker has partitions of its own", async || {
        for partition in &partitions {
            probes += 1;
            ask(&shop, partition, &format!("probe-{probes}"), "nothing").await;
        }
        let mut answering = HashSet::new();
        for _ in &partitions {
            answering.insert(shop.reply().await.worker_id);
        }
        answering.len() == 3
    })
    .await;
    shop.execute(ONE_EACH).await;

    // An item has one partition, so one worker. Here its requests go around the exchange `purchase`, one into each
    // partition, and the row is locked until all workers have read the same version of it, each to sell the buyer their one unit.
    let blocker = shop.begin("SELECT 1 FROM items FOR UPDATE").await;
    for (number, partition) in partitions.iter().enumerate() {
        ask(&shop, partition, &format!("first-{number}"), "ticket").await;
    }
    until("each worker waits to commit", async || shop.count(WAITING_WORKERS).await == 3).await;
    blocker.rollback().await.unwrap();
    let replies = shop.replies(partitions.len()).await;
    let [bought, limited] =
        ["reserved", "buyer_limit"].map(|code| replies.values().filter(|reply| reply.code() == code).count());
    assert_eq!((bought, limited), (1, partitions.len() - 1));
    assert!(shop.count("SELECT conflicts FROM items").await >= 2, "the version stopped two of three");
    assert_eq!(shop.stock("ticket").await, (999, 1));
}

/// Not a test but a measurement: what large messages take of a worker's memory while they cannot be decided.
#[tokio::test]
#[ignore = "takes a minute: cargo test -p loadtest --test guarantees large_messages -- --ignored --nocapture"]
async fn a_full_window_of_large_messages_takes_little_memory() {
    let mut shop = Shop::open(&[("ticket", 10)]).await;
    let ways = ways_into_partitions(&shop).await;
    let worker = shop.worker("w", &[]).await;
    shop.purchase("first").await;
    let lock = shop.begin(LOCK).await;
    println!("before: {}", memory_of(&worker));
    for partitions in [3, 8] {
        for number in 0..10_000 {
            let id = format!("{partitions}-{number}");
            let padding = " ".repeat(60 * 1024);
            let body = format!(r#"{{"request_id":"{id}","item":"other","buyer":"ann","quantity":1}}{padding}"#);
            shop.send_to(&ways[number % partitions], "other", body.as_bytes(), shop.properties(&id)).await;
        }
        println!("10,000 requests of 60 KiB more in {partitions} partitions: {}", memory_of(&worker));
    }
    lock.rollback().await.unwrap();
    for _ in 0..20_000 {
        shop.reply().await;
    }
    println!("after: {}", memory_of(&worker));
}

/// What a worker may take of memory with arrays, whatever is in them.
const ARRAYS_MIB_MAX: u64 = 256;

/// Of those that wait in memory, of the largest, and of the largest of which nothing can be read: which quantity each asks for, how
/// many requests are in one, and how many arrays are sent. All windows are full of the first; the second are more than the limit.
const ARRAYS: [(&str, u32, usize, usize); 3] =
    [("small", 1, 16, 16_000), ("large", 1, REQUESTS_MAX, 1_200), ("wrong", 0, REQUESTS_MAX, 100)];

/// How much is sent before the worker has put it where it waits: a debug build reads arrays more slowly than the broker sends them, and
/// what it has not read is in its memory.
const UNREAD_BYTES_MAX: usize = 16 * 1024 * 1024;

#[tokio::test]
async fn a_worker_with_waiting_arrays_takes_little_memory() {
    for kind in ARRAYS {
        assert_arrays_take_little_memory(kind, 50).await;
    }
}

/// And when all of them are answered.
#[tokio::test]
#[ignore = "takes some minutes: cargo test -p loadtest --test guarantees answered_arrays -- --ignored --nocapture"]
async fn a_worker_with_answered_arrays_took_little_memory() {
    for kind in ARRAYS {
        assert_arrays_take_little_memory(kind, kind.3).await;
    }
}

async fn assert_arrays_take_little_memory(
    (kind, quantity, requests, arrays): (&str, u32, usize, usize),
    answered: usize,
) {
    let mut shop = Shop::open(&[("ticket", 10)]).await;
    let ways = ways_into_partitions(&shop).await;
    let worker = shop.worker("w", &[]).await;
    shop.purchase("first").await;
    // It gets in line for no further partition while it cannot decide.
    until("it has all partitions", async || shop.log("w").await.contains("consuming")).await;
    let of_array = |id: &str| {
        let of = |number| {
            format!(
                r#"{{"request_id":"{id}-{number:-<90}","item":"ticket","buyer":"{id:-<90}","quantity":{quantity}}}"#
            )
        };
        format!("[{}]", (0..requests).map(of).collect::<Vec<_>>().join(","))
    };
    let lock = shop.begin(LOCK).await;
    let (mut bytes, mut unread) = (0, 0);
    for number in 0..arrays {
        let id = format!("{kind}-{number:05}");
        let body = of_array(&id);
        assert!(body.len() <= ARRAY_BYTES_MAX);
        (bytes, unread) = (bytes + body.len() as u64, unread + body.len());
        shop.send_unconfirmed(&ways[number % 8], "ticket", body.as_bytes(), shop.properties(&id)).await;
        // Those that are invalid wait for nothing.
        if quantity > 0 && (unread >= UNREAD_BYTES_MAX || number + 1 == arrays) {
            until("it has read them", async || held_bytes(&worker) >= bytes).await;
            unread = 0;
        }
    }
    shop.channel.wait_for_confirms().await.unwrap();
    until("the broker has sent all of them", async || shop.is_drained().await).await;
    let assert_little = |when: &str| {
        println!("{arrays} {kind} arrays of {requests} requests {when}: {}", memory_of(&worker));
        let mib = kib_of(&worker, "VmHWM") / 1024;
        assert!(mib <= ARRAYS_MIB_MAX, "{kind} arrays {when}: {mib} MiB at the peak");
    };
    assert_little("wait in 8 partitions");
    lock.rollback().await.unwrap();
    for _ in 0..answered {
        shop.reply().await;
    }
    assert_little(&format!("and {answered} are answered"));
}

/// And what it costs others that somebody sends what no client library reads.
#[tokio::test]
#[ignore = "takes half a minute: cargo test -p loadtest --test guarantees ten_thousand_messages -- --ignored --nocapture"]
async fn ten_thousand_messages_that_nobody_can_read_cost_their_own_partition_alone() {
    let mut shop = Shop::open(&[("ticket", 1_000_000)]).await;
    let ways = ways_into_partitions(&shop).await;
    let _worker = shop.worker("w", &[]).await;
    shop.purchase("first").await;
    let without = honest_sale(&mut shop, &ways[1..], "without").await;
    let other = Shop::as_it_is(&shop.amqp_url, &shop.database_url).await;
    let unreadable = async {
        let started = Instant::now();
        let mut sender = RawSender::connect(&other.amqp_url).await.unwrap();
        let properties = raw::properties(&[(Property::CorrelationId, b"\xff\xfe")]);
        for _ in 0..UNREADABLE {
            sender.publish(&ways[0], "ticket", &properties, b"{}").await.unwrap();
        }
        sender.close().await.unwrap();
        until("each is kept", async || other.depth("dead.invalid").await == UNREADABLE).await;
        started.elapsed()
    };
    let (with, took) = tokio::join!(honest_sale(&mut shop, &ways[1..], "with"), unreadable);
    println!("{:.3} ms a message that nobody can read", took.as_secs_f64() * 1e3 / f64::from(UNREADABLE));
    for (sale, Latency { p50, p99, .. }) in [("without", without), ("with", with)] {
        println!("others, {sale} them: p50 {p50:.1} ms, p99 {p99:.1} ms");
    }
}

/// 200 buyers a second for ten seconds by these ways in turn, and how long they wait.
async fn honest_sale(shop: &mut Shop, ways: &[String], name: &str) -> Latency {
    let mut ticks = interval(Duration::from_millis(5));
    let (mut sent, mut waits) = (Vec::new(), Vec::new());
    while waits.len() < BUYERS {
        tokio::select! {
            due = ticks.tick(), if sent.len() < BUYERS => {
                let id = format!("{name}-{}", sent.len());
                let body = request(&id, "ticket", 1);
                shop.send_to(&ways[sent.len() % ways.len()], "ticket", body.as_bytes(), shop.properties(&id)).await;
                sent.push(due);
            }
            reply = shop.reply() => {
                assert_eq!(reply.code(), "reserved");
                let number: usize = reply.correlation_id.rsplit('-').next().unwrap().parse().unwrap();
                waits.push(sent[number].elapsed());
            }
        }
    }
    waits.into_iter().collect()
}

/// What a process has in memory and in files without a name.
fn held_bytes(process: &Supervised) -> u64 {
    let files = std::fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().map(|file| file.unwrap().path());
    let nameless =
        files.filter(|file| std::fs::read_link(file).is_ok_and(|of| of.to_string_lossy().ends_with("(deleted)")));
    // One that is closed meanwhile holds nothing.
    let in_files: u64 = nameless.filter_map(|file| Some(std::fs::metadata(file).ok()?.len())).sum();
    in_files + kib_of(process, "RssAnon") * 1024
}

async fn ways_into_partitions(shop: &Shop) -> Vec<String> {
    let mut ways = Vec::new();
    for partition in Topology::read().queues_of("purchase") {
        ways.push(queue::way_into(&shop.channel, &partition).await);
    }
    ways
}

/// Asks for one unit for ann, by this way.
async fn ask(shop: &Shop, way: &str, id: &str, item: &str) {
    let body = format!(r#"{{"request_id":"{id}","item":"{item}","buyer":"ann","quantity":1}}"#);
    shop.send_to(way, item, body.as_bytes(), shop.properties(id)).await;
}
