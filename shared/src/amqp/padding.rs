//! Messages that mean nothing: they fill a window that is waited for until it is full, when buyers are too few to do it, and
//! show who is active on a partition that is idle.
//!
//! On a connection of its own, because a broker that is short of memory blocks a connection that has ever published. Confirmed,
//! because the client library sends what is to be published behind everything else, its goodbye included: without waiting
//! for the confirms, the last ones are lost now and then, and a window that lacks one message is never full.

use super::{Error, Nodes, answered, connect};
use futures_util::future::{BoxFuture, try_join_all};
use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

/// The type that tells them from requests.
pub(super) const PADDING_TYPE: &str = "turnstile.filler";

/// Puts so many of them into each queue.
///
/// # Errors
/// Those of [`connect`], and [`Error::Lost`].
pub fn fill<'a>(nodes: &'a Nodes, name: &'a str, queues: &'a [(String, u64)]) -> BoxFuture<'a, Result<(), Error>> {
    Box::pin(async move {
        let connection = connect(nodes, &format!("{name} fill")).await?;
        let channel = answered(async {
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok(channel)
        })
        .await?;
        for (queue, count) in queues {
            let publishing = (0..*count).map(|_| async {
                let properties = BasicProperties::default().with_type(PADDING_TYPE.into());
                let options = BasicPublishOptions::default();
                channel.basic_publish("".into(), queue.as_str().into(), options, b"", properties).await?.await
            });
            answered(async { Ok(try_join_all(publishing).await?) }).await?;
        }
        answered(async { Ok(connection.close(200, "done".into()).await?) }).await
    })
}
