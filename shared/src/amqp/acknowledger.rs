//! Acknowledging: in each partition in order, so that one acknowledgement settles a whole batch.

use super::{Error, answered};
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicRejectOptions};

/// Acknowledges deliveries, whole batches at once. What it could not, comes again.
pub struct Acknowledger {
    pub(super) channels: Vec<Channel>,
}

impl Acknowledger {
    /// Gives these (partition, tag) back to their queue, where each comes again, a delivery older.
    pub async fn give_back(&self, deliveries: &[(usize, u64)]) -> Result<(), Error> {
        answered(async {
            for (partition, tag) in deliveries {
                self.channels[*partition].basic_reject(*tag, BasicRejectOptions { requeue: true }).await?;
            }
            Ok(())
        })
        .await
    }

    /// Acknowledges these and, in each partition, all before them, but for what is not decided: that is not before them.
    /// `undecided` has the first of each partition; takes (partition, tag) in any order.
    pub async fn acknowledge(
        &self,
        settled: impl Iterator<Item = (usize, u64)>,
        undecided: &[(usize, u64)],
    ) -> Result<(), Error> {
        let (mut last_tags, mut behind) = (vec![0; self.channels.len()], Vec::new());
        for (partition, tag) in settled {
            if undecided.iter().any(|first| first.0 == partition && first.1 < tag) {
                behind.push((partition, tag));
            } else {
                last_tags[partition] = tag.max(last_tags[partition]);
            }
        }
        answered(async {
            for (partition, tag) in behind {
                self.channels[partition].basic_ack(tag, BasicAckOptions::default()).await?;
            }
            for (channel, tag) in self.channels.iter().zip(last_tags) {
                if tag > 0 {
                    channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
                }
            }
            Ok(())
        })
        .await
    }
}
