//! What a worker says in the roll call: who it is, whether it is still joining, and on which partitions it is active.
//!
//! Invariant: the body is who it is and nothing else, the same for as long as the worker lives, because workers of every
//! version count each other by it. Whatever else there is to say goes into headers, which a worker need not know.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use uuid::Uuid;

/// How long the broker keeps a hello that nobody has taken in, in milliseconds.
const HELLO_MS_MAX: &str = "1500";
/// The header that names the partitions on which the worker is active: their numbers, with spaces between them.
const ACTIVE_HEADER: &str = "active";
/// The header of a worker that is not in line for every partition yet.
const JOINING_HEADER: &str = "joining";
/// The most partitions that are believed of one hello.
const PARTITIONS_MAX: usize = 1_024;

/// A worker, as its hello tells it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Worker {
    /// What it is called, such as `turnstile-purchase worker-1`.
    pub name: String,
    /// Tells it from others of the same name.
    pub process: String,
    /// The partitions that have delivered something to it and that it has not handed over since: the broker keeps it
    /// active there. `None`: it is still joining, or of a version that does not say so.
    pub active: Option<Vec<usize>>,
}

/// The body of a worker's hellos.
pub(super) fn body(name: &str, process: Uuid) -> String {
    format!("{name} {process}")
}

/// The properties of a hello; `None`: of a worker that is still joining.
pub(super) fn properties(active: Option<&[usize]>) -> BasicProperties {
    let mut headers = FieldTable::default();
    match active {
        Some(active) => {
            let numbers: Vec<String> = active.iter().map(ToString::to_string).collect();
            headers.insert(ACTIVE_HEADER.into(), AMQPValue::LongString(numbers.join(" ").into()));
        }
        None => {
            headers.insert(JOINING_HEADER.into(), AMQPValue::Boolean(true));
        }
    }
    BasicProperties::default().with_expiration(HELLO_MS_MAX.into()).with_headers(headers)
}

/// Whether it is the hello of a worker that is still joining. Older ones do not say so.
pub(super) fn is_joining(properties: &BasicProperties) -> bool {
    let header = properties.headers().as_ref().and_then(|headers| headers.inner().get(JOINING_HEADER));
    matches!(header, Some(AMQPValue::Boolean(true)))
}

/// Reads a hello; `None`: it is not one.
pub(super) fn read(body: &[u8], properties: &BasicProperties) -> Option<Worker> {
    let (name, process) = std::str::from_utf8(body).ok()?.rsplit_once(' ')?;
    let header = properties.headers().as_ref().and_then(|headers| headers.inner().get(ACTIVE_HEADER));
    let active = match header {
        Some(AMQPValue::LongString(numbers)) => Some(numbers.to_string()),
        // No worker of ours writes anything else, and older ones write nothing.
        Some(_) | None => None,
    };
    let read = |numbers: String| {
        numbers.split_whitespace().take(PARTITIONS_MAX).filter_map(|number| number.parse().ok()).collect()
    };
    Some(Worker { name: name.to_owned(), process: process.to_owned(), active: active.map(read) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_read_as_it_is_said() {
        let process = Uuid::now_v7();
        for active in [vec![], vec![3], vec![0, 7, 12]] {
            let heard = read(body("turnstile-purchase w-1", process).as_bytes(), &properties(Some(&active))).unwrap();
            let expected =
                Worker { name: "turnstile-purchase w-1".into(), process: process.to_string(), active: Some(active) };
            assert_eq!(heard, expected);
        }
    }

    #[test]
    fn an_older_worker_is_heard_and_says_nothing_of_its_partitions() {
        let heard = read(b"turnstile-purchase old 0199", &BasicProperties::default()).unwrap();
        assert_eq!((heard.name.as_str(), heard.active), ("turnstile-purchase old", None));
    }

    #[test]
    fn a_worker_is_joining_as_long_as_it_says_so() {
        assert!(is_joining(&properties(None)));
        assert!(!is_joining(&properties(Some(&[]))) && !is_joining(&BasicProperties::default()));
    }

    #[test]
    fn what_is_no_hello_is_nobody() {
        for noise in [&b""[..], b"one-word", b"\xff \xfe"] {
            assert_eq!(read(noise, &BasicProperties::default()), None);
        }
    }
}
