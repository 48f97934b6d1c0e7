//! Counts what is settled, for the metrics of every function.

use crate::amqp::topology::DEAD_QUEUES;
use crate::metrics::Registry;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

pub(super) struct WorkerMetrics {
    answers: Family<AnswerLabel, Counter>,
    batch_requests: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabel {
    answer: &'static str,
}

/// How many messages wait in the queues of dead letters.
#[derive(Debug, Clone, Default)]
pub(super) struct DeadMessages(Family<QueueLabel, Gauge>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: &'static str,
}

impl DeadMessages {
    pub(super) fn register(&self, registry: &mut Registry) {
        // Shown from the start.
        DEAD_QUEUES.iter().for_each(|queue| drop(self.of(queue)));
        registry.register("dead_messages", "Messages that wait in a queue of dead letters", self.0.clone());
    }

    pub(super) fn of(&self, queue: &'static str) -> Gauge {
        self.0.get_or_create_owned(&QueueLabel { queue })
    }
}

impl WorkerMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        // 1 to 4,096 requests: the largest batch is 5,000, unless some wait.
        let metrics =
            Self { answers: Family::default(), batch_requests: Histogram::new(exponential_buckets(1.0, 2.0, 13)) };
        registry.register("answers", "Requests answered: decided, rejected, or put off", metrics.answers.clone());
        registry.register("batch_requests", "Requests decided in one go", metrics.batch_requests.clone());
        metrics
    }

    /// Notes so many requests that were decided in one go.
    pub(super) fn decided(&self, requests: usize) {
        if requests > 0 {
            self.batch_requests.observe(requests as f64);
        }
    }

    /// Notes so many answers of each kind.
    pub(super) fn answered(&self, counts: [(&'static str, usize); 3]) {
        for (answer, count) in counts {
            if count > 0 {
                self.answers.get_or_create(&AnswerLabel { answer }).inc_by(count as u64);
            }
        }
    }
}
