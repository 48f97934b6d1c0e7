//! What a function does besides its messages: it looks, now and then, whether there is something to do.

use crate::retry::RetryPolicy;
use futures_util::future::BoxFuture;
use std::{fmt::Display, future::Future, time::Duration};

/// Work that is looked for.
pub trait Upkeep: Send + Sized + 'static {
    /// The longest pause between two looks.
    const PAUSE_MAX: Duration;
    /// What is logged where a look fails; once for each outage.
    const FAILING: &'static str;
    type Error: Display + Send;

    /// Does what is to be done now.
    fn look(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Looks for as long as it is polled. The pauses are drawn from zero on, so that instances do not look in step.
    fn keep_looking(mut self) -> BoxFuture<'static, ()> {
        let wait_ms = u64::try_from(Self::PAUSE_MAX.as_millis()).expect("a pause is not that long");
        let pauses = RetryPolicy { wait_ms, factor: 1.0, wait_ms_max: wait_ms, attempts_max: u32::MAX };
        Box::pin(async move {
            let mut is_away = false;
            for pause in pauses.waits() {
                match self.look().await {
                    Ok(()) => is_away = false,
                    Err(error) if !is_away => {
                        is_away = true;
                        tracing::warn!(%error, "{}", Self::FAILING);
                    }
                    Err(_) => (),
                }
                tokio::time::sleep(pause).await;
            }
        })
    }
}
