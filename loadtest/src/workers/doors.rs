//! The workers that take requests by HTTP: the function `web`.

use super::{Worker, Workers, is_ready};
use crate::failure::Failure;
use anyhow::Context;
use std::net::SocketAddr;

/// What doors are called, with a number.
pub(crate) const DOOR: &str = "web";
/// What a door logs before its address.
const LISTENS_LOGGED: &str = "listening address=";

/// Where buyers ask by HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    pub id: String,
    /// As buyers name it.
    pub host: String,
    pub address: SocketAddr,
}

impl Workers {
    /// Opens one more door, and returns its index at once.
    pub(crate) async fn open_another(&mut self) -> Result<usize, Failure> {
        let function = self.specs.iter().position(|spec| spec.name == DOOR).context("no door was ever opened")?;
        self.start_one(function).await
    }

    /// The first door that is open.
    pub(crate) fn first_open(&mut self) -> Option<usize> {
        let Self { specs, started, .. } = self;
        started.iter_mut().position(|worker| specs[worker.function].name == DOOR && worker.is_at_work())
    }

    /// Every door that takes requests.
    pub(crate) fn doors(&mut self) -> Vec<Door> {
        let doors = self.all_doors().filter_map(|door| {
            let address = if door.is_at_work() { door.address() } else { None }?;
            Some(Door { id: door.id.clone(), host: address.to_string(), address })
        });
        doors.collect()
    }

    /// Whether there were doors, and each has ended.
    pub(crate) fn all_closed(&mut self) -> bool {
        let mut ended = self.all_doors().map(|door| matches!(door.process.try_wait(), Ok(Some(_)))).peekable();
        ended.peek().is_some() && ended.all(|ended| ended)
    }

    fn all_doors(&mut self) -> impl Iterator<Item = &mut Worker> {
        let Self { specs, started, .. } = self;
        started.iter_mut().filter(|worker| specs[worker.function].name == DOOR)
    }
}

impl Worker {
    /// Where a door listens, once it takes requests.
    fn address(&mut self) -> Option<SocketAddr> {
        if self.address.is_none() {
            let logged = self.logged();
            let (_, listens) = logged.split_once(LISTENS_LOGGED).filter(|_| is_ready(&logged))?;
            self.address = listens.split_whitespace().next()?.parse().ok();
        }
        self.address
    }
}
