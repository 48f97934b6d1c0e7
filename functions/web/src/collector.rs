//! What goes out together. While a publish for an item is being confirmed, what arrives for that item is collected, and goes out as
//! one message. Pure.
//!
//! Invariants: a request that nobody is ahead of goes out at once; those of an item go out in the order in which they came; and a
//! message is one that the queue takes.

use shared::messages::{ARRAY_BYTES_MAX, PURCHASE_EXCHANGE, REQUESTS_MAX};
use std::collections::{HashMap, VecDeque};

/// Where requests go, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Line {
    pub(crate) exchange: &'static str,
    /// Of a purchase the item; of others what they are about.
    pub(crate) routing_key: String,
}

/// What is collected.
pub(crate) trait Collected {
    fn line(&self) -> &Line;
    fn body(&self) -> &str;
    /// Whether whoever sent it has been told that it was not taken.
    fn is_given_up(&self) -> bool;
}

#[derive(Debug)]
pub(crate) struct Collector<R> {
    lines: HashMap<Line, Waiting<R>>,
}

#[derive(Debug)]
struct Waiting<R> {
    /// Messages that are on their way to the broker.
    unconfirmed: usize,
    requests: VecDeque<R>,
}

impl<R> Default for Collector<R> {
    fn default() -> Self {
        Self { lines: HashMap::new() }
    }
}

impl<R: Collected> Collector<R> {
    /// Takes a request in; what is to be published now.
    pub(crate) fn add(&mut self, request: R) -> Option<Vec<R>> {
        if let Some(waiting) = self.lines.get_mut(request.line()) {
            waiting.requests.push_back(request);
            return None;
        }
        self.lines.insert(request.line().clone(), Waiting { unconfirmed: 1, requests: VecDeque::new() });
        Some(vec![request])
    }

    /// The broker has said what it has to say to a message of this line; what is to be published next.
    pub(crate) fn confirmed(&mut self, line: &Line) -> Option<Vec<R>> {
        let waiting = self.lines.get_mut(line)?;
        waiting.unconfirmed = waiting.unconfirmed.saturating_sub(1);
        if waiting.unconfirmed > 0 {
            return None;
        }
        let message = message(line, &mut waiting.requests);
        if message.is_empty() {
            self.lines.remove(line);
            return None;
        }
        waiting.unconfirmed = 1;
        Some(message)
    }

    /// Begins anew on another connection, by which messages of these lines have just been published again; what else is to be
    /// published now.
    pub(crate) fn begin_again<'a>(&mut self, unconfirmed: impl Iterator<Item = &'a Line>) -> Vec<Vec<R>> {
        self.lines.values_mut().for_each(|waiting| waiting.unconfirmed = 0);
        for line in unconfirmed {
            let none = || Waiting { unconfirmed: 0, requests: VecDeque::new() };
            self.lines.entry(line.clone()).or_insert_with(none).unconfirmed += 1;
        }
        let idle = self.lines.iter().filter(|(_, waiting)| waiting.unconfirmed == 0).map(|(line, _)| line.clone());
        let idle: Vec<Line> = idle.collect();
        idle.iter().filter_map(|line| self.confirmed(line)).collect()
    }

    /// Lets go of what was given up.
    pub(crate) fn forget_given_up(&mut self) {
        self.lines.values_mut().for_each(|waiting| waiting.requests.retain(|request| !request.is_given_up()));
    }
}

/// The body of a message with these requests.
pub(crate) fn body<R: Collected>(requests: &[R]) -> String {
    match requests {
        [one] => one.body().to_owned(),
        several => format!("[{}]", several.iter().map(Collected::body).collect::<Vec<_>>().join(",")),
    }
}

/// As many as one message may have, from the front.
fn message<R: Collected>(line: &Line, requests: &mut VecDeque<R>) -> Vec<R> {
    let requests_max = if line.exchange == PURCHASE_EXCHANGE { REQUESTS_MAX } else { 1 };
    // The brackets; each has a comma, but for the last.
    let (mut message, mut bytes) = (Vec::new(), 1);
    while message.len() < requests_max
        && let Some(request) = requests.pop_front_if(|next| bytes + next.body().len() < ARRAY_BYTES_MAX)
    {
        if !request.is_given_up() {
            bytes += request.body().len() + 1;
            message.push(request);
        }
    }
    message
}

#[cfg(test)]
mod tests;
