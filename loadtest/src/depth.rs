//! How deep the queues are while a sale runs, sampled on a connection of its own.
//!
//! Invariant: a broker that is away leaves a gap in the samples and never disturbs the sale.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::outcome::DepthSample;
use crate::probe::Probe;

/// Between samples while the sale is young: a sale of a thousand buyers is over in a fraction of a second.
const PAUSE_FIRST: Duration = Duration::from_millis(15);
/// How much longer each pause is than the one before (in 1/16ths): few samples for long sales, enough for short ones.
const PAUSE_GROWTH_SIXTEENTHS: u32 = 17;
/// The longest pause between samples.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// The most samples that are kept (a sale is limited in time, so this is never reached in practice).
const SAMPLES_MAX: usize = 1_000_000;

/// Samples in the background until it is told to stop.
pub(crate) struct DepthSampler {
    stop: oneshot::Sender<()>,
    sampling: JoinHandle<Vec<DepthSample>>,
}

impl DepthSampler {
    /// Starts sampling with this probe, and how many buyers are `waiting`; times count from now.
    #[must_use]
    pub(crate) fn start(probe: Probe, amqp_url: String, waiting: impl Fn() -> u64 + Send + 'static) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop, sampling: tokio::spawn(sample(probe, amqp_url, waiting, stopped)) }
    }

    /// Ends the sampling and returns what was seen.
    pub(crate) async fn stop(self) -> Vec<DepthSample> {
        // An error says that the sampling has ended already (its runtime is going down).
        let _ = self.stop.send(());
        self.sampling.await.unwrap_or_default()
    }
}

async fn sample(
    probe: Probe,
    amqp_url: String,
    waiting: impl Fn() -> u64,
    mut stopped: oneshot::Receiver<()>,
) -> Vec<DepthSample> {
    let start = Instant::now();
    let mut samples = Vec::new();
    let mut probe = Some(probe);
    let mut pause = PAUSE_FIRST;
    let mut is_over = false;
    while !is_over && samples.len() < SAMPLES_MAX {
        tokio::select! {
            () = sleep(pause) => {}
            // Dropped or told: both end it, after a last sample, which shows the end.
            _ = &mut stopped => is_over = true,
        }
        pause = (pause * PAUSE_GROWTH_SIXTEENTHS / 16).min(PAUSE_MAX);
        let Some(asked) = &probe else {
            if is_over {
                break;
            }
            probe = Probe::connect(&amqp_url).await.ok();
            continue;
        };
        match asked.depth().await {
            Ok(messages) => {
                let at_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
                // What is sold is known when the answers are read.
                samples.push(DepthSample { at_ms, messages, waiting: waiting(), sold: 0 });
            }
            Err(_gone) => probe = None,
        }
    }
    if let Some(probe) = probe {
        probe.close().await;
    }
    samples
}
