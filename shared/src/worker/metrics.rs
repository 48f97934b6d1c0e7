//! Counts what is settled, for the metrics of every function.

use super::settle::Outcome;
use crate::{
    amqp::{Delivery, topology::DEAD_QUEUES},
    metrics::Registry,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

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

    /// Notes what became of a batch.
    pub(super) fn answered(&self, outcomes: &[(Delivery, Outcome)]) {
        let (mut verdicts, mut rejected, mut later) = (0, 0, 0);
        for (_, outcome) in outcomes {
            match outcome {
                Outcome::Answered { .. } => verdicts += 1,
                Outcome::Several(several) => {
                    let decided = several.iter().filter(|verdict| verdict.is_ok()).count();
                    (verdicts, rejected) = (verdicts + decided, rejected + several.len() - decided);
                }
                Outcome::Rejected(_) => rejected += 1,
                Outcome::Requeued => later += 1,
                Outcome::Ignored => (),
            }
        }
        for (answer, count) in [("verdict", verdicts), ("rejected", rejected), ("later", later)] {
            if count > 0 {
                self.answers.get_or_create(&AnswerLabel { answer }).inc_by(count as u64);
            }
        }
    }
}
