//! What the buyers were told: each request's sends and replies, kept byte for byte for the audit. Pure.
//!
//! Filled while the sale runs, so [`Answers::record`] parses nothing, but for where the reply to an array comes apart. The first
//! reply to a request is kept; every later one is only counted and compared.
//!
//! Which request of an array a verdict is on, its place says alone: that it is about that request, the audit finds out.

use crate::schedule::Due;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::time::Duration;
use uuid::Uuid;

/// The most replies of unknown correlation that are kept by name; the rest is only counted.
const STRANGERS_KEPT_MAX: usize = 16;
/// The most worker ids that are told apart; replies of any further ones are counted as the last.
const WORKER_IDS_MAX: usize = 1_024;
/// What the correlation id of an array begins with; its number follows.
const ARRAY: &str = "array-";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// How often it was published: at most this many replies are to be expected.
    pub sends: u32,
    pub replies: u32,
    /// How many of them differ from the first.
    pub differing: u32,
    /// The first reply's body; `None` before it came.
    pub body: Option<Vec<u8>>,
    /// When the first reply came, from the start of the sale.
    pub at: Duration,
    /// Who sent the first reply: an index into [`Answers::worker_ids`].
    pub worker: usize,
    /// By HTTP, where nobody sends in the schedule's order: when its buyer began to ask, from the start of the sale.
    pub begun: Option<Duration>,
}

#[derive(Debug, Default)]
pub struct Answers {
    /// By the request's index in the schedule.
    pub answers: Vec<Answer>,
    /// The `app_id` of every worker that replied, in order of appearance.
    pub worker_ids: Vec<String>,
    /// Replies whose correlation id is none of ours: the first few.
    pub strangers: Vec<String>,
    /// How many of those there were.
    pub stranger_count: u64,
    index_of: HashMap<Uuid, usize>,
    /// Of each array that was published, its requests.
    arrays: Vec<Vec<usize>>,
    answered: usize,
}

impl Answers {
    pub fn to(requests: &[Due]) -> Self {
        Self::to_ids(requests.iter().map(|due| due.request_id))
    }

    /// Of these request ids, in the order of their indices.
    pub fn to_ids(ids: impl Iterator<Item = Uuid>) -> Self {
        let index_of: HashMap<Uuid, usize> = ids.enumerate().map(|(index, id)| (id, index)).collect();
        Self { answers: vec![Answer::default(); index_of.len()], index_of, ..Self::default() }
    }

    /// The request with this id.
    pub fn index(&self, request_id: &str) -> Option<usize> {
        Uuid::try_parse(request_id).ok().and_then(|id| self.index_of.get(&id).copied())
    }

    /// The requests that a reply with this correlation id is to, each with what it says of that request; none, where nobody sent
    /// such a message. What is not as many elements as there are requests is told to each of them, whole: no verdict on any.
    pub fn replies<'a>(&self, correlation_id: &str, body: &'a [u8]) -> Vec<(usize, &'a [u8])> {
        let number = correlation_id.strip_prefix(ARRAY).and_then(|number| number.parse::<usize>().ok());
        let Some(requests) = number.and_then(|number| self.arrays.get(number)) else {
            // Where arrays are sent, no request is a message of its own.
            let alone = self.index(correlation_id).filter(|_| self.arrays.is_empty());
            return alone.map(|index| (index, body)).into_iter().collect();
        };
        let elements = serde_json::from_slice::<Vec<&RawValue>>(body).ok();
        let elements = elements.filter(|elements| elements.len() == requests.len());
        let said = |place: usize| elements.as_ref().map_or(body, |elements| elements[place].get().as_bytes());
        requests.iter().enumerate().map(|(place, &index)| (index, said(place))).collect()
    }

    /// Notes a reply; returns how many requests are answered now.
    pub fn record(&mut self, correlation_id: &str, worker_id: &str, body: &[u8], at: Duration) -> usize {
        let replies = self.replies(correlation_id, body);
        if replies.is_empty() {
            self.stranger_count += 1;
            if self.strangers.len() < STRANGERS_KEPT_MAX {
                self.strangers.push(correlation_id.to_owned());
            }
            return self.answered;
        }
        let worker = self.worker(worker_id);
        for (index, body) in replies {
            let answer = &mut self.answers[index];
            answer.replies += 1;
            match &answer.body {
                Some(first) => answer.differing += u32::from(*first != body),
                None => {
                    (answer.body, answer.at, answer.worker) = (Some(body.to_vec()), at, worker);
                    self.answered += 1;
                }
            }
        }
        self.answered
    }

    /// The indices of the requests without a reply, in publish order.
    pub fn unanswered(&self) -> Vec<usize> {
        (0..self.answers.len()).filter(|&index| self.answers[index].body.is_none()).collect()
    }

    /// Notes that these requests were published once more.
    pub fn sent(&mut self, indices: &[usize]) {
        for &index in indices {
            self.answers[index].sends += 1;
        }
    }

    /// The same of one by HTTP, which begins at this moment.
    pub fn sent_at(&mut self, index: usize, at: Duration) {
        self.sent(&[index]);
        self.answers[index].begun.get_or_insert(at);
    }

    /// The same, as one array; returns its correlation id.
    pub fn sent_as_array(&mut self, indices: Vec<usize>) -> String {
        self.sent(&indices);
        self.arrays.push(indices);
        format!("{ARRAY}{}", self.arrays.len() - 1)
    }

    /// How many messages were published; by HTTP, how many requests were made.
    pub fn messages(&self) -> u64 {
        let alone = || self.answers.iter().map(|answer| u64::from(answer.sends)).sum();
        if self.arrays.is_empty() { alone() } else { self.arrays.len() as u64 }
    }

    fn worker(&mut self, id: &str) -> usize {
        // A handful of workers: a scan is cheaper than a map.
        if let Some(index) = self.worker_ids.iter().position(|known| known == id) {
            return index;
        }
        if self.worker_ids.len() < WORKER_IDS_MAX {
            self.worker_ids.push(id.to_owned());
        }
        self.worker_ids.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Scenario, Schedule};

    fn three() -> (Answers, Vec<String>) {
        let scenario = Scenario { buyers: 3, ..Scenario::default() };
        let requests = Schedule::new(&scenario, "t").requests;
        (Answers::to(&requests), requests.iter().map(|due| due.request_id.to_string()).collect())
    }

    #[test]
    fn the_first_reply_is_kept_a_differing_one_counted_and_one_to_nobody_is_a_stranger() {
        let (mut answers, ids) = three();
        let mut record =
            |id: &str, worker, body: &str, ms| answers.record(id, worker, body.as_bytes(), Duration::from_millis(ms));
        assert_eq!(record(&ids[1], "w1", "yes", 5), 1);
        assert_eq!((record(&ids[1], "w2", "yes", 6), record(&ids[1], "w2", "no", 7)), (1, 1));
        assert_eq!(record("not-ours", "w1", "yes", 8), 1);
        let (body, at) = (Some(b"yes".to_vec()), Duration::from_millis(5));
        assert_eq!(answers.answers[1], Answer { replies: 3, differing: 1, body, at, ..Answer::default() });
        assert_eq!(answers.worker_ids, ["w1", "w2"]);
        assert_eq!((answers.strangers.as_slice(), answers.stranger_count), (["not-ours".to_owned()].as_slice(), 1));
    }

    #[test]
    fn each_request_of_an_array_is_told_what_stands_at_its_place_and_all_of_it_where_the_places_do_not_match() {
        let told = |replies: &[&str]| {
            let (mut answers, ids) = three();
            let array = answers.sent_as_array(vec![2, 0]);
            for reply in replies {
                answers.record(&array, "w1", reply.as_bytes(), Duration::ZERO);
            }
            // In no array, or in none that was sent.
            for stranger in [ids[0].as_str(), "array-1", "array-x"] {
                answers.record(stranger, "w1", b"{}", Duration::ZERO);
            }
            assert_eq!((answers.strangers.len(), answers.unanswered()), (3, vec![1]));
            let body = |index: usize| String::from_utf8(answers.answers[index].body.clone().unwrap()).unwrap();
            let counts = [0, 2].map(|index| answers.answers[index].replies + 10 * answers.answers[index].differing);
            (body(2), body(0), counts)
        };
        let of = |one: &str, other: &str, counts| (one.to_owned(), other.to_owned(), counts);
        assert_eq!(told(&[r#"[{"a": 1},{"b":2}]"#]), of(r#"{"a": 1}"#, r#"{"b":2}"#, [1, 1]));
        assert_eq!(told(&["[1,2]", "[1,2]"]), of("1", "2", [2, 2]), "a repeat is none but the same");
        assert_eq!(told(&["[1,2]", "[1,3]"]), of("1", "2", [12, 2]), "each is compared with its own");
        for whole in [r#"{"status":"invalid"}"#, "[1]", "[1,2,3]", "[1,2", ""] {
            assert_eq!(told(&[whole]), of(whole, whole, [1, 1]));
        }
    }

    #[test]
    fn what_is_unanswered_is_what_would_be_sent_again() {
        let (mut answers, ids) = three();
        answers.sent(&answers.unanswered());
        answers.record(&ids[1], "w1", b"yes", Duration::ZERO);
        assert_eq!(answers.unanswered(), [0, 2]);
        answers.sent(&answers.unanswered());
        assert_eq!([0, 1, 2].map(|index| answers.answers[index].sends), [2, 1, 2]);
        assert_eq!(answers.messages(), 5);
        let mut in_arrays = three().0;
        in_arrays.sent_as_array(vec![0, 2]);
        in_arrays.sent_as_array(vec![1]);
        assert_eq!(in_arrays.messages(), 2);
    }
}
