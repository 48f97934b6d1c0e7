//! The doors of a sale in which buyers come by HTTP.

use crate::buyers::Doors;
use crate::workers::{DOOR, Door, WorkerSpec, Workers};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use tokio::sync::watch;

/// How buyers come by HTTP.
#[derive(Debug, Clone)]
pub struct ByHttp {
    pub to: To,
    /// Over so many connections, which are kept; `None`: each buyer has one of their own.
    pub connections: Option<u32>,
}

#[derive(Debug, Clone)]
pub enum To {
    /// So many processes of this program.
    Ours { program: PathBuf, number: u32 },
    /// Those that are there already.
    Given(Vec<Door>),
}

impl ByHttp {
    /// Who is to work beside those who decide purchases.
    pub(super) fn workers(&self) -> Option<WorkerSpec> {
        let To::Ours { program, number } = &self.to else { return None };
        // One that the system chooses: whoever is started later has another.
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let environment = vec![("LISTEN".to_owned(), listen.to_string())];
        Some(WorkerSpec { count: *number, ..WorkerSpec::one(DOOR, program.clone(), environment) })
    }
}

/// Tells buyers which doors there are.
pub(super) struct Open {
    by_http: ByHttp,
    doors: watch::Sender<Vec<Door>>,
}

impl Open {
    pub(super) fn of(by_http: ByHttp, workers: &mut Workers) -> Self {
        let given = if let To::Given(doors) = &by_http.to { doors.clone() } else { Vec::new() };
        let open = Self { by_http, doors: watch::Sender::new(given) };
        open.look(workers);
        open
    }

    /// To whom buyers are to go, now and later.
    pub(super) fn to_buyers(&self) -> Doors {
        Doors { open: self.doors.subscribe(), connections: self.by_http.connections }
    }

    /// Notes who has come, and who has gone.
    pub(super) fn look(&self, workers: &mut Workers) {
        if matches!(self.by_http.to, To::Ours { .. }) {
            let doors = workers.doors();
            self.doors.send_if_modified(|known| std::mem::replace(known, doors.clone()) != doors);
        }
    }
}
