//! Counts what the runtime settles, for the metrics of every function.
//!
//! Invariant: counting waits for nothing.

use crate::{handler::Answer, metrics::Registry};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
};

/// What a function has answered.
pub(super) struct Meter {
    answers: Family<AnswerLabel, Counter>,
    batch_requests: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabel {
    answer: &'static str,
}

impl Meter {
    /// Counts for this registry.
    pub(super) fn register(registry: &mut Registry) -> Self {
        // 1 to 4,096 requests: the largest batch is 5,000.
        let meter =
            Self { answers: Family::default(), batch_requests: Histogram::new(exponential_buckets(1.0, 2.0, 13)) };
        registry.register("answers", "Requests answered: decided, rejected, or put off", meter.answers.clone());
        registry.register("batch_requests", "Requests decided in one go", meter.batch_requests.clone());
        meter
    }

    /// Notes the answers to a batch.
    pub(super) fn answered(&self, answers: &[Answer]) {
        let count = |answer: &'static str, is: fn(&Answer) -> bool| {
            let count = answers.iter().filter(|answer| is(answer)).count() as u64;
            if count > 0 {
                self.answers.get_or_create(&AnswerLabel { answer }).inc_by(count);
            }
        };
        count("verdict", |answer| matches!(answer, Answer::Verdict(_)));
        count("rejected", |answer| matches!(answer, Answer::Rejected(_)));
        count("later", |answer| matches!(answer, Answer::Later));
        self.batch_requests.observe(answers.len() as f64);
    }
}
