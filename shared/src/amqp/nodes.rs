//! Which node of the broker to connect to: the one place that knows of AMQP_URL as a list.
//!
//! No connection. Invariant: all that share a [`Nodes`] go on together from a node that failed one of them, and every node
//! of the list has its turn before one is tried again.

use super::Error;
use lapin::uri::{AMQPScheme, AMQPUri};
use std::{
    hash::{BuildHasher, RandomState},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Where the broker is not asked otherwise (`?heartbeat=` in the URL), a dead peer is noticed within twice this.
const HEARTBEAT_SECONDS: u16 = 5;

/// The nodes of one broker, and which of them is tried first. Clones share the latter.
#[derive(Debug, Clone)]
pub struct Nodes {
    uris: Arc<[AMQPUri]>,
    first: Arc<AtomicUsize>,
}

impl Nodes {
    /// Reads `amqp://…`, or several with commas between them. Which is tried first is left to chance, so that many
    /// workers with one list spread over its nodes.
    ///
    /// # Errors
    /// [`Error::Url`].
    pub fn read(urls: &str) -> Result<Self, Error> {
        let uris: Arc<[AMQPUri]> = urls.split(',').map(|url| read_one(url.trim())).collect::<Result<_, _>>()?;
        let chance = usize::try_from(RandomState::new().hash_one(0) % uris.len() as u64).expect("it is an index");
        Ok(Self { uris, first: Arc::new(AtomicUsize::new(chance)) })
    }

    /// Host and port of each, the one to be tried first at the front.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, u16)> {
        self.in_turn().map(|(_, uri)| (uri.authority.host.as_str(), uri.authority.port))
    }

    /// Goes on with the next node of the list: the one at the front let us down.
    pub fn go_on(&self) {
        self.first.fetch_add(1, Ordering::Relaxed);
    }

    /// Every node once, with its place in the list.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = (usize, &AMQPUri)> {
        let (count, first) = (self.uris.len(), self.first.load(Ordering::Relaxed) % self.uris.len());
        (0..count).map(move |turn| (first + turn) % count).map(|place| (place, &self.uris[place]))
    }

    /// The node at this place of the list is well: whoever connects next begins with it.
    pub(super) fn begin_with(&self, place: usize) {
        self.first.store(place, Ordering::Relaxed);
    }
}

fn read_one(url: &str) -> Result<AMQPUri, Error> {
    let mut uri = AMQPUri::from_str(url).map_err(Error::Url)?;
    if uri.scheme == AMQPScheme::AMQPS {
        return Err(Error::Url("this program is built without TLS; use amqp:// on a network you trust".to_owned()));
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "amqp://u:p@a:1/v,amqp://b:2/v, amqp://c/v";

    fn hosts(nodes: &Nodes) -> Vec<String> {
        nodes.hosts().map(|(host, port)| format!("{host}:{port}")).collect()
    }

    #[test]
    fn every_node_has_its_turn_and_whoever_fails_goes_to_the_end() {
        let nodes = Nodes::read(THREE).unwrap();
        nodes.begin_with(0);
        assert_eq!(hosts(&nodes), ["a:1", "b:2", "c:5672"]);
        nodes.clone().go_on();
        assert_eq!(hosts(&nodes), ["b:2", "c:5672", "a:1"], "a clone goes on for all");
        nodes.begin_with(2);
        nodes.go_on();
        assert_eq!(hosts(&nodes), ["a:1", "b:2", "c:5672"]);
    }

    #[test]
    fn workers_with_one_list_begin_with_different_nodes() {
        let mut firsts: Vec<String> = (0..200).map(|_| hosts(&Nodes::read(THREE).unwrap()).remove(0)).collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts, ["a:1", "b:2", "c:5672"]);
    }

    #[test]
    fn a_list_with_one_url_that_is_none_is_refused() {
        for wrong in ["", ",", "amqp://a,", "amqp://a,http://b", "amqp://a,amqps://b", "amqp://a,,amqp://b"] {
            assert!(matches!(Nodes::read(wrong), Err(Error::Url(_))), "{wrong}");
        }
    }
}
