//! What is counted, for Prometheus.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use shared::metrics::{self, Registry};
use std::sync::Arc;

#[derive(Clone)]
pub(crate) struct Metrics {
    responses: Family<StatusLabel, Counter>,
    messages: Counter,
    requests: Counter,
    registry: Arc<Registry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: u16,
}

impl Metrics {
    pub(crate) fn of(function: &'static str) -> Self {
        let mut registry = metrics::registry(function);
        let (responses, messages, requests) = Default::default();
        let counted = Self { responses, messages, requests, registry: Arc::default() };
        registry.register("http_responses", "Responses, by status", counted.responses.clone());
        registry.register("published_messages", "Messages published", counted.messages.clone());
        registry.register("published_requests", "Requests in messages published", counted.requests.clone());
        Self { registry: Arc::new(registry), ..counted }
    }

    pub(crate) fn responded(&self, status: u16) {
        self.responses.get_or_create(&StatusLabel { status }).inc();
    }

    pub(crate) fn published(&self, requests: usize) {
        self.messages.inc();
        self.requests.inc_by(requests as u64);
    }

    pub(crate) fn written(&self) -> String {
        metrics::written(&self.registry)
    }
}
