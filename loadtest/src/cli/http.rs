//! What `run` takes about buyers who come by HTTP.

use super::EventOptions;
use crate::run::{ByHttp, To};
use crate::schedule::Scenario;
use crate::workers::Door;
use clap::{Args, ValueEnum};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

const DOORS_MAX: i64 = 256;
const CONNECTIONS_MAX: i64 = 1_000_000;
const HTTP: &str = "http://";

/// How requests get into the queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Over {
    /// Each buyer publishes their request.
    #[default]
    Queue,
    /// Each buyer asks at a door, which publishes it.
    Http,
}

#[derive(Debug, Clone, Default, Args)]
pub struct HttpOptions {
    /// How requests get into the queue: buyers publish them, or ask by HTTP at doors (the function web) that do.
    #[arg(long, value_enum, default_value_t)]
    pub over: Over,
    /// Doors to open. This and the next two go with --over http.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=DOORS_MAX))]
    pub doors: u32,
    /// Have buyers share so many connections, which are kept, and each buyer wait for one; without it, each has one of their own.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=CONNECTIONS_MAX))]
    pub connections: Option<u32>,
    /// Doors that are open already, such as http://127.0.0.1:8080, with commas between them: none is opened. Goes with
    /// their servers' --amqp-url and --database-url.
    #[arg(long = "url", value_name = "URL,…", value_delimiter = ',', value_parser = door, conflicts_with = "doors")]
    pub urls: Vec<Door>,
}

impl HttpOptions {
    pub(super) fn conflict(&self, scenario: &Scenario, events: &EventOptions) -> Option<&'static str> {
        let has_events = !events.add_door_at.is_empty() || !events.kill_door_at.is_empty();
        match self.over {
            Over::Queue if self.doors > 1 || self.connections.is_some() || !self.urls.is_empty() || has_events => {
                Some("--doors, --connections, --url, --add-door-at and --kill-door-at go with --over http")
            }
            Over::Http if scenario.requests_per_message > 1 => Some(
                "--requests-per-message is for the queue: by HTTP, each buyer asks alone, and doors make the messages",
            ),
            Over::Http if has_events && !self.urls.is_empty() => {
                Some("--add-door-at and --kill-door-at are for doors that are opened here: leave --url away")
            }
            Over::Queue | Over::Http => None,
        }
    }

    pub(crate) fn opens_doors(&self) -> bool {
        self.over == Over::Http && self.urls.is_empty()
    }

    /// How buyers come by HTTP; `program` opens a door, where any is to be opened.
    pub(crate) fn by_http(&self, program: Option<PathBuf>) -> Option<ByHttp> {
        let to = match program {
            Some(program) => To::Ours { program, number: self.doors },
            None => To::Given(self.urls.clone()),
        };
        (self.over == Over::Http).then_some(ByHttp { to, connections: self.connections })
    }
}

fn door(url: &str) -> Result<Door, String> {
    let host = url.strip_prefix(HTTP).map(|host| host.strip_suffix('/').unwrap_or(host));
    let host = host.ok_or_else(|| format!("a door is such as {HTTP}127.0.0.1:8080, without TLS"))?;
    let with_port = |host: &str| if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    let addresses = with_port(host).to_socket_addrs().map_err(|error| format!("{host} has no address: {error}"))?;
    let address: Option<SocketAddr> = addresses.into_iter().next();
    let address = address.ok_or_else(|| format!("{host} has no address"))?;
    Ok(Door { id: host.to_owned(), host: host.to_owned(), address })
}
