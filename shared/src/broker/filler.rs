//! Messages that mean nothing: they fill a window that is waited for until it is full, when buyers are too few to do it, and
//! show who is active on a partition that is idle.
//!
//! On a connection of its own, because a broker that is short of memory blocks a connection that has ever published.

use super::{Error, Nodes, answered, connect};
use futures_util::future::BoxFuture;
use lapin::{BasicProperties, options::BasicPublishOptions};

/// The type that tells them from requests.
pub(super) const FILLER_TYPE: &str = "turnstile.filler";

/// Puts so many of them into each queue.
///
/// # Errors
/// Those of [`connect`], and [`Error::Lost`].
pub fn fill<'a>(nodes: &'a Nodes, name: &'a str, queues: &'a [(String, u64)]) -> BoxFuture<'a, Result<(), Error>> {
    Box::pin(async move {
        let connection = connect(nodes, &format!("{name} fill")).await?;
        answered(async {
            let channel = connection.create_channel().await?;
            for (queue, count) in queues {
                for _ in 0..*count {
                    let properties = BasicProperties::default().with_type(FILLER_TYPE.into());
                    let options = BasicPublishOptions::default();
                    drop(channel.basic_publish("".into(), queue.as_str().into(), options, b"", properties).await?);
                }
            }
            Ok(connection.close(200, "done".into()).await?)
        })
        .await
    })
}
