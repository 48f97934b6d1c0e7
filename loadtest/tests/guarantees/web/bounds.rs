//! Whatever comes on top of a bound is told so, with a status and a code of its own, and the door goes on.

use super::JSON;
use super::client::{Door, head, read};
use crate::support::shop::{Shop, kib_of, until};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const PURCHASES: &str = "/items/ticket/purchases";

#[tokio::test]
async fn what_is_too_large_too_slow_or_nowhere_has_a_status_and_a_code() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let door = Door::open(&shop, "door", &[]).await;
    let slow = async |bytes: String| {
        let mut stream = TcpStream::connect(&door.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        read(stream).await.problem()
    };
    let of = async |method: &str, path: &str, headers: &[(&str, &str)], body: &str| {
        door.ask(method, path, headers, body).await.problem()
    };
    let (large, long) = ("x".repeat(65 * 1024), "x".repeat(17 * 1024));
    let begun = head("POST", PURCHASES, &[JSON], 10);
    let (head_is_slow, body_is_slow, answered) =
        tokio::join!(slow(begun[..30].to_owned()), slow(begun.clone()), async {
            assert_eq!(of("POST", PURCHASES, &[JSON], &large).await, (413, "body_too_large".into()));
            assert_eq!(of("GET", "/purchases/a", &[("X", &long)], "").await, (431, "headers_too_large".into()));
            assert_eq!(of("GET", &format!("/purchases/{long}"), &[], "").await, (431, "headers_too_large".into()));
            assert_eq!(of("POST", PURCHASES, &[], "{}").await, (415, "unsupported_content_type".into()));
            assert_eq!(of("GET", "/nothing", &[], "").await, (404, "not_found".into()));
            assert_eq!(of("DELETE", PURCHASES, &[], "").await, (405, "method_not_allowed".into()));
            for path in
                ["/purchases/%ff", "/purchases/%00", "/items/%00", "/purchases/a%00/events", "/pages/%ff", "/items/%ff"]
            {
                assert_eq!(of("GET", path, &[], "").await, (404, "not_found".into()), "{path}");
            }
            for path in ["/purchases/a?item=a&item=b", "/purchases/a/events?order=a&order=a"] {
                assert_eq!(of("GET", path, &[], "").await, (422, "invalid_query".into()), "{path}");
            }
            for path in ["/", "/items", "/orders/a", "/livez", "/readyz", "/metrics", "/pages/base.css"] {
                assert_eq!(of("PUT", path, &[], "").await, (405, "method_not_allowed".into()), "{path}");
            }
            // More than is read at all has no sentence.
            assert_eq!(door.ask("GET", "/", &[("X", &"x".repeat(21 * 1024))], "").await.status, 431);
        });
    assert_eq!((head_is_slow, body_is_slow, answered), ((408, "too_slow".into()), (408, "too_slow".into()), ()));
    assert_eq!(door.get("/livez").await.status, 200);
}

#[tokio::test]
async fn whoever_has_sent_a_part_of_a_request_keeps_nobody_waiting() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let door = Door::open(&shop, "door", &[]).await;
    let mut begun = Vec::new();
    // More than are read from at the same time.
    for part in ["G", "GET /livez HTTP/1.1\r\n", &head("POST", PURCHASES, &[JSON], 10)].iter().cycle().take(300) {
        let mut stream = TcpStream::connect(&door.address).await.unwrap();
        stream.write_all(part.as_bytes()).await.unwrap();
        begun.push(stream);
    }
    assert_eq!(door.get("/livez").await.status, 200);
    for stream in &begun {
        let read = stream.try_read(&mut [0]).unwrap_err().kind();
        assert_eq!(read, std::io::ErrorKind::WouldBlock, "they are still waited for");
    }
}

/// What a connection may have of its own, in KiB: the head of a request and the beginning of its body as they come, and itself.
const CONNECTION_KIB_MAX: u64 = 40;
/// What the long bodies may have together.
const BODIES_KIB_MAX: u64 = 16 * 1024;

#[tokio::test]
async fn however_many_send_half_of_a_request_memory_is_bounded_and_who_sends_little_is_served() {
    const CLIENTS: u64 = 1_000;
    let shop = Shop::open(&[("ticket", 1)]).await;
    let _worker = shop.worker("w", &[]).await;
    let body = head("POST", PURCHASES, &[JSON], 64 * 1024) + &"x".repeat(60 * 1024);
    let head = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(19 * 1024));
    for (id, begun, may_have_kib) in [("heads", head, 0), ("bodies", body, BODIES_KIB_MAX)] {
        let door = Door::open(&shop, id, &[]).await;
        let before = kib_of(&door.process, "RssAnon");
        let send = async || {
            let mut stream = TcpStream::connect(&door.address).await.unwrap();
            // Who is refused need not be heard out.
            drop(stream.write_all(begun.as_bytes()).await);
            stream
        };
        let mut begun = join_all((0..CLIENTS).map(|_| send())).await;
        assert_eq!(door.buy(id, "wait=60").await.status, 200);
        let taken = kib_of(&door.process, "RssAnon").saturating_sub(before);
        println!("{taken} KiB for {CLIENTS}");
        assert!(taken < may_have_kib + CLIENTS * CONNECTION_KIB_MAX, "{taken} KiB");
        if may_have_kib > 0 {
            let told = join_all(begun.drain(..).map(read)).await;
            assert!(told.iter().any(|told| told.problem() == (503, "too_many_bodies".into())));
        }
    }
}

#[tokio::test]
async fn more_connections_more_requests_and_more_undecided_than_may_be_are_told_to_come_again() {
    let shop = Shop::open(&[("ticket", 1)]).await;
    let bounds = [("CONNECTIONS_MAX", "2"), ("REQUESTS_MAX", "1"), ("UNDECIDED_MAX", "1")];
    let door = Door::open(&shop, "door", &bounds).await;
    let waits = {
        let headers = [JSON, ("Idempotency-Key", "r-1"), ("Prefer", "wait=60")];
        let body = r#"{"buyer":"b","quantity":1}"#;
        let mut stream = TcpStream::connect(&door.address).await.unwrap();
        stream.write_all(format!("{}{body}", head("POST", PURCHASES, &headers, body.len())).as_bytes()).await.unwrap();
        stream
    };
    until("it is open, and the queue has it", async || !shop.is_drained().await).await;
    // A connection that was closed a moment ago may still count.
    let told =
        async |code: &str| until(code, async || door.buy("r-2", "wait=0").await.problem() == (503, code.into())).await;
    told("too_many_requests").await;
    until("whoever looks after it is let in", async || door.get("/livez").await.status == 200).await;
    let idle = TcpStream::connect(&door.address).await.unwrap();
    told("too_many_connections").await;
    drop(idle);
    drop(waits);
    // The queue has it; here it has its place until there is a verdict.
    told("too_many_undecided").await;
    let _worker = shop.worker("w", &[]).await;
    until("there is room again", async || door.buy("r-3", "wait=0").await.status != 503).await;
}

/// What it is sent fills what its system holds for it, and nothing comes back.
#[tokio::test]
async fn a_client_that_never_reads_its_stream_loses_it() {
    let items: Vec<String> = (0..50).map(|number| format!("ticket-{number}")).collect();
    let items: Vec<(&str, i64)> = items.iter().map(|item| (item.as_str(), 1)).collect();
    let shop = Shop::open(&items).await;
    let door = Door::open(&shop, "door", &[("STREAMS_MAX", "1")]).await;
    let open = async |socket: TcpSocket| {
        let mut stream = socket.connect(door.address.parse().unwrap()).await.unwrap();
        let head = head("GET", "/items", &[("Accept", "text/event-stream")], 0);
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut status = [0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut status).await.unwrap();
        (stream, String::from_utf8_lossy(&status).ends_with("200"))
    };
    let narrow = TcpSocket::new_v4().unwrap();
    narrow.set_recv_buffer_size(2_048).unwrap();
    let (_unread, is_open) = open(narrow).await;
    assert!(is_open && !open(TcpSocket::new_v4().unwrap()).await.1, "it has the one stream");
    until("it has lost it", async || open(TcpSocket::new_v4().unwrap()).await.1).await;
}
