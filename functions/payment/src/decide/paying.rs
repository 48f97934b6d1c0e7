//! Whose payments are under way, by their requests' ids. Pure.

use super::Payment;
use shared::messages::{Identity, PaymentRequest};
use std::borrow::Cow;
use std::collections::HashMap;

#[derive(Default)]
pub(super) struct Paying(HashMap<String, Vec<Option<String>>>);

impl Paying {
    pub(super) fn of<'a>(payments: impl Iterator<Item = &'a Payment>) -> Self {
        let mut paying = Self::default();
        payments.filter(|payment| payment.is_under_way).for_each(|payment| paying.add(&payment.request));
        paying
    }

    pub(super) fn add(&mut self, request: &PaymentRequest) {
        self.0.entry(request.request_id.clone()).or_default().push(request.user().map(ToOwned::to_owned));
    }

    /// Whether the request's id is one that its sender pays under. To who has no sender, and of what an older version began, the bare
    /// id tells.
    pub(super) fn has(&self, request: &PaymentRequest) -> bool {
        let is_its = |sender: &Option<String>| request.user().is_none() || request.is_by(sender.as_deref());
        self.0.get(&request.request_id).is_some_and(|senders| senders.iter().any(is_its))
    }

    /// Under which its payment is put: its id, or where another sender pays under that, as its sender's own.
    pub(super) fn key<'a>(&self, request: &'a PaymentRequest) -> Cow<'a, str> {
        match self.0.contains_key(&request.request_id) {
            true => request.own_key(),
            false => Cow::Borrowed(&request.request_id),
        }
    }
}
