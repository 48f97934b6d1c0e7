//! Whether a connection is one session, as settings, notifications and the lock of a migration need it to be.
//!
//! A pooler in transaction mode gives a connection of PostgreSQL's to whoever begins a transaction next. Whether two transactions got
//! the same one is left to chance; but a listener that has nothing else to do is notified if and only if its session is its own.

use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection};
use std::io::ErrorKind;
use std::time::Duration;

/// How long a notification takes at most that nobody keeps. A pooler has dropped it by then.
const NOTIFIED_WAIT_MAX: Duration = Duration::from_secs(1);
/// What a standby says, which has no notifications. Nobody of ours writes there, and `admin` looks within one transaction.
const READ_ONLY: &str = "25006";

/// One round trip for each end, once both are connected; how long that may take is for the caller to say.
pub(super) async fn is_one(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let listening = PgPoolOptions::new().max_connections(1).connect_lazy_with(options.clone());
    let channel = format!("turnstile_{:x}", fastrand::u64(..));
    let listen = async {
        let mut listener = PgListener::connect_with(&listening).await?;
        listener.eager_reconnect(false);
        listener.listen(&channel).await.map(|()| listener)
    };
    let (mut notifier, mut listener) = match tokio::try_join!(PgConnection::connect_with(options), listen) {
        Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == READ_ONLY) => return Ok(true),
        connected => connected?,
    };
    match notifier.execute(format!("NOTIFY {channel}").as_str()).await {
        // It was notified itself, which is no answer to anything: its connection was the listener's a moment ago.
        Err(sqlx::Error::Protocol(_)) => return Ok(false),
        notified => notified.map(drop)?,
    }
    let is_one = is_notified(&mut listener, &channel).await?;
    notifier.close().await?;
    Ok(is_one)
}

/// Of another channel it is notified only where its connection was somebody else's before, who listened as well.
async fn is_notified(listener: &mut PgListener, channel: &str) -> Result<bool, sqlx::Error> {
    let is_of_it = |notification: PgNotification| notification.channel() == channel;
    match tokio::time::timeout(NOTIFIED_WAIT_MAX, listener.try_recv()).await {
        // Its connection is lost, which says nothing of a pooler.
        Ok(Ok(None)) => Err(sqlx::Error::Io(ErrorKind::UnexpectedEof.into())),
        Ok(notified) => notified.map(|notified| notified.is_some_and(is_of_it)),
        // A server that is slow delivers what it has before it answers.
        Err(_) => {
            listener.execute("SELECT").await?;
            Ok(listener.next_buffered().is_some_and(is_of_it))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db;
    use crate::devstack::{Disturbance, Forwarder, fixture};

    #[tokio::test]
    async fn a_connection_that_is_lost_during_the_trial_is_taken_for_no_poolers() {
        let (forwarder, url) = Forwarder::before(&fixture::database().await).await.unwrap();
        let mut listener = PgListener::connect_with(&db::pool(&url, "test", 1).unwrap()).await.unwrap();
        listener.eager_reconnect(false);
        listener.listen("nothing").await.unwrap();
        assert!(forwarder.disturb(Disturbance::Cut, None));
        assert!(matches!(is_notified(&mut listener, "nothing").await, Err(sqlx::Error::Io(_))));
    }

    #[tokio::test]
    async fn what_others_are_notified_of_is_no_answer() {
        let pool = db::pool(&fixture::database().await, "test", 2).unwrap();
        let mut listener = PgListener::connect_with(&pool).await.unwrap();
        listener.listen_all(["ours", "theirs"]).await.unwrap();
        for (channel, is_answer) in [("theirs", false), ("ours", true)] {
            pool.execute(format!("NOTIFY {channel}").as_str()).await.unwrap();
            assert_eq!(is_notified(&mut listener, "ours").await.unwrap(), is_answer, "{channel}");
        }
    }
}
