//! Every way in which a buyer can leave, against servers that do one thing each.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;

const LONG: Duration = Duration::from_secs(60);

async fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

async fn three(address: SocketAddr, timeout: Duration) -> Vec<Visit> {
    let share = Share { address, item: "i".into(), buyers: 3, timeout, at: SystemTime::now() };
    send_all(share).await.unwrap().visits
}

/// How three buyers fare where the server does this to each connection.
async fn endings(serve: impl AsyncFn(TcpStream), timeout: Duration) -> Vec<Ending> {
    let listener = listener().await;
    let serving = async {
        loop {
            serve(listener.accept().await.unwrap().0).await;
        }
    };
    tokio::select! {
        visits = three(listener.local_addr().unwrap(), timeout) => visits.into_iter().map(|visit| visit.ending).collect(),
        () = serving => unreachable!("it serves for ever"),
    }
}

#[tokio::test]
async fn where_nobody_listens_everybody_is_refused() {
    let listener = listener().await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let visits = three(address, LONG).await;
    assert!(visits.iter().all(|visit| visit.ending == Ending::Refused && visit.connecting.is_none()), "{visits:?}");
}

#[tokio::test]
async fn a_connection_that_is_closed_without_an_answer_is_a_reset() {
    let endings = endings(async |mut stream| drop(stream.read(&mut [0; 1]).await), LONG).await;
    assert_eq!(endings, [const { Ending::Reset }; 3]);
}

#[tokio::test]
async fn a_server_that_answers_too_late_has_not_answered() {
    let open = std::cell::RefCell::new(Vec::new());
    let endings = endings(async |stream| open.borrow_mut().push(stream), Duration::from_millis(50)).await;
    assert_eq!(endings, [const { Ending::TimedOut }; 3]);
}

#[tokio::test]
async fn what_the_server_says_decides() {
    for (status, ending) in [
        ("200 OK", Ending::Sold),
        ("410 Gone", Ending::SoldOut),
        ("409 Conflict", Ending::Conflict),
        ("503 Service Unavailable", Ending::Unavailable),
        ("500 Internal Server Error", Ending::Other("500: {}".into())),
    ] {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
        let serve = async |mut stream: TcpStream| {
            // Enough for the whole request.
            assert!(stream.read(&mut [0; 4_096]).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        assert_eq!(endings(serve, LONG).await, [ending.clone(), ending.clone(), ending], "{status}");
    }
}

#[test]
fn each_error_of_the_system_has_its_kind() {
    for (error, ending) in [
        (ErrorKind::ConnectionRefused, Ending::Refused),
        (ErrorKind::ConnectionReset, Ending::Reset),
        (ErrorKind::BrokenPipe, Ending::Reset),
        (ErrorKind::TimedOut, Ending::TimedOut),
    ] {
        assert_eq!(Ending::of_error(&error.into()), ending, "{error:?}");
    }
    assert!(matches!(Ending::of_error(&ErrorKind::AddrNotAvailable.into()), Ending::Other(_)));
}
