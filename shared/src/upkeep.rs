//! What a function does besides its messages: it looks, now and then, whether there is something to do.

use crate::retry::RetryPolicy;
use futures_util::future::BoxFuture;
use std::fmt::Display;
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;

/// Work that is looked for.
pub trait Upkeep: Send + Sized + 'static {
    /// The longest pause between two looks.
    const PAUSE_MAX: Duration;
    /// What cannot be done while a look fails.
    const FAILING: &'static str;
    type Error: Display + Send;

    /// Does what is to be done now.
    fn look(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Looks for as long as it is polled, and says in `failing` what cannot be done, and why, for as long as that is so. The
    /// pauses are drawn from zero on, so that instances do not look in step.
    fn keep_looking(mut self, failing: watch::Sender<Option<String>>) -> BoxFuture<'static, ()> {
        let wait_ms = u64::try_from(Self::PAUSE_MAX.as_millis()).expect("a pause is not that long");
        let pauses = RetryPolicy { wait_ms, factor: 1.0, wait_ms_max: wait_ms, attempts_max: u32::MAX };
        Box::pin(async move {
            for pause in pauses.waits() {
                let failed = self.look().await.err().map(|error| format!("{}: {error}", Self::FAILING));
                failing.send_if_modified(|said| {
                    let is_new = *said != failed;
                    *said = failed;
                    is_new
                });
                tokio::time::sleep(pause).await;
            }
        })
    }
}
