//! The command line, read and checked: whatever is accepted can be run, what cannot is refused with the reason.

mod baseline;
mod compare;
mod contend;
mod cost;
mod events;
mod http;
mod orders;

use crate::faults::{Draw, FaultKind};
use crate::schedule::Scenario;
use crate::servers::{RedisUrl, Urls};
use crate::strategy::Strategy;
pub use baseline::{BaselineOptions, BaselineServer};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
pub use compare::CompareOptions;
pub use contend::ContendOptions;
pub use cost::CostOptions;
pub use events::EventOptions;
pub use http::{HttpOptions, Over};
pub use orders::OrderOptions;
use serde::Serialize;
use shared::config::WorkerOptions;
use std::path::PathBuf;
use std::time::Duration;

const WORKERS_MAX: i64 = 256;
const BATCH_MAX: i64 = 5_000;
const REPETITIONS_MAX: i64 = 100;

/// One sale on real servers: buyers, their verdicts, and an audit of both.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Passes on what can be run; an error says which options do not go together.
    pub fn check(self) -> Result<Self, clap::Error> {
        let conflict = match &self.command {
            Command::Run(options) => options.conflict().map(str::to_owned),
            Command::Compare(options) => options.conflict(),
            Command::Up(options) => options.conflict().map(str::to_owned),
            Command::Ceiling(_) | Command::Cost(_) | Command::CeilingWorker(_) => None,
            Command::Contend(_) | Command::Baseline(_) | Command::BaselineClients { .. } => None,
        };
        match conflict {
            Some(conflict) => Err(Self::command().error(ErrorKind::ArgumentConflict, conflict)),
            None => Ok(self),
        }
    }
}

const EXIT_CODES: &str = "Exit codes: 0 every invariant holds · 1 an invariant broke · 2 wrong usage · \
    69 a server is missing or unreachable · 78 wrong configuration · 130 interrupted";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one sale: buyers, worker processes, audit.
    Run(Box<RunOptions>),
    /// Have a shop stay until Ctrl-C, to play with: servers, each function, the pages, an item on sale.
    Up(UpOptions),
    /// Run the same buyers against workers that touch no database: the broker's limit on this machine.
    Ceiling(SaleOptions),
    /// Run growing sales on the same servers, and tell what a purchase costs each of them.
    Cost(CostOptions),
    /// Run every way to keep stock beside every other, on the queue and by HTTP, and beside the broker's limit.
    Compare(CompareOptions),
    /// Have many version-checked updates of one item at once, with jitter and without, and tell what conflicts cost.
    Contend(ContendOptions),
    /// Open an HTTP server as Turnstile replaces it until Ctrl-C: to ask with any load tester.
    Baseline(BaselineOptions),
    /// Be a worker that touches no database; `ceiling` starts these.
    #[command(hide = true)]
    CeilingWorker(WorkerOptions),
    /// Be the buyers at an HTTP server that Turnstile is measured against; `compare` starts these.
    #[command(hide = true)]
    BaselineClients { clients: String },
}

#[derive(Debug, Args)]
pub struct UpOptions {
    /// Keep the data of the private servers in this folder, for the next time with the same one: a new folder, an empty one, or one
    /// that was kept.
    #[arg(long, value_name = "FOLDER")]
    pub keep: Option<PathBuf>,
    #[command(flatten)]
    pub urls: Urls,
}

impl UpOptions {
    fn conflict(&self) -> Option<&'static str> {
        let of_theirs = self.keep.is_some() && self.urls.is_any_given();
        of_theirs.then_some(
            "--keep is for private servers: leave AMQP_URL, DATABASE_URL, --amqp-url and --database-url away",
        )
    }
}

#[derive(Debug, Args)]
pub struct RunOptions {
    #[command(flatten)]
    pub sale: SaleOptions,
    /// Measure the ceiling too, before and after the sale and on the same servers, and report the ratio.
    #[arg(long)]
    pub with_ceiling: bool,
    /// The worker program [default: `purchase` beside this program, built afresh when cargo runs it].
    #[arg(long, value_name = "PATH")]
    pub worker_program: Option<PathBuf>,
    /// Nodes of the private broker, as one cluster: 1 or 3.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = parse_broker_nodes)]
    pub broker_nodes: usize,
    /// Have the private servers speak TLS alone, with certificates of an authority that is made for the run.
    #[arg(long, conflicts_with = "hostile_rate")]
    pub tls: bool,
    #[command(flatten)]
    pub http: HttpOptions,
    /// What happens meanwhile. This and the next come last, as a heading holds for whatever follows.
    #[command(flatten)]
    pub events: EventOptions,
    #[command(flatten)]
    pub orders: OrderOptions,
}

impl RunOptions {
    fn conflict(&self) -> Option<&'static str> {
        let is_given = self.sale.urls.amqp_url.as_deref().is_some_and(|url| !url.is_empty());
        if self.broker_nodes > 1 && is_given {
            return Some("--broker-nodes is for private servers: leave AMQP_URL and --amqp-url away");
        }
        if self.tls && is_given {
            return Some("--tls is for private servers: leave AMQP_URL and --amqp-url away");
        }
        if self.events.kill_broker_at.is_some() && self.broker_nodes == 1 {
            return Some("--kill-broker-at goes with --broker-nodes 3: a broker of one node does not outlive it");
        }
        if self.events.kill_redis_at.is_some() && (is_given || self.sale.strategy != Strategy::Redis) {
            return Some(
                "--kill-redis-at goes with --strategy redis on private servers: leave AMQP_URL and --amqp-url away",
            );
        }
        let mut kinds = self.draws().into_iter().flat_map(|draw| draw.kinds().collect::<Vec<_>>());
        if (is_given || self.broker_nodes > 1) && kinds.any(FaultKind::is_of_servers) {
            return Some(
                "--faults of servers and connections are for private servers and a broker of one node: leave AMQP_URL, \
                 --amqp-url and --broker-nodes away, or draw from --fault-kinds kill,freeze",
            );
        }
        if self.draws().iter().any(|draw| draw.count > 0) && self.sale.scenario.rate == 0.0 {
            return Some(
                "--faults and --crashes go with --rate: a sale that is sent at once is over before most of them",
            );
        }
        if !self.http.urls.is_empty() && !is_given {
            return Some("--url goes with the servers of those doors: set AMQP_URL and DATABASE_URL");
        }
        let shows_life = self.orders.show_life && self.orders.plan.with_seed(0).is_none();
        if self.sale.workers == 0 && (shows_life || self.orders.with_quiet) {
            return Some("--show-life and --with-quiet need workers that end after the sale: leave --workers 0 away");
        }
        let has_doors = self.http.conflict(&self.sale.scenario, &self.events);
        has_doors.or_else(|| self.orders.conflict())
    }

    /// What befalls the sale at random.
    pub(crate) fn draws(&self) -> [Draw; 2] {
        let crashes = Draw { count: self.orders.crashes, kinds: vec![FaultKind::Kill] };
        [crashes, Draw { count: self.events.faults, kinds: self.events.fault_kinds.clone() }]
    }
}

/// What every run of buyers takes.
#[derive(Debug, Clone, Args)]
pub struct SaleOptions {
    #[command(flatten)]
    pub scenario: Scenario,
    /// Worker processes to start; 0 uses workers that are running already.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=WORKERS_MAX))]
    pub workers: u32,
    /// The most requests that a worker decides at once [default: the worker's own].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=BATCH_MAX))]
    pub batch_max: Option<u32>,
    /// How the workers keep stock while they decide; measured without a database, nobody does.
    #[arg(long, value_enum, default_value_t)]
    pub strategy: Strategy,
    /// The longest that the buyers wait, in seconds from when the last request is due.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
    /// Write the result as JSON to this file; `-` prints JSON alone on standard output.
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// Write the result as a page with charts, all in one file, to show or to keep.
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub urls: Urls,
    #[command(flatten)]
    pub redis: RedisUrl,
}

impl SaleOptions {
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// What every benchmark of many sales takes.
#[derive(Debug, Clone, Args, Serialize)]
pub struct BenchOptions {
    /// How often each measurement is repeated, in turns with all others; figures are medians.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=REPETITIONS_MAX))]
    pub repetitions: u32,
    /// Chooses who buys what; the same seed gives the same sales.
    #[arg(long, value_name = "N", default_value_t = 42)]
    pub seed: u64,
    /// The longest that the buyers of a sale on the queue wait, in seconds from when the last request is due.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    #[serde(skip)]
    pub timeout: u64,
    /// Write the result as JSON to this file; `-` prints JSON alone on standard output.
    #[arg(long, value_name = "PATH")]
    #[serde(skip)]
    pub json: Option<PathBuf>,
    /// The worker program [default: `purchase` beside this program, built afresh when cargo runs it].
    #[arg(long, value_name = "PATH")]
    #[serde(skip)]
    pub worker_program: Option<PathBuf>,
    #[command(flatten)]
    #[serde(skip)]
    pub urls: Urls,
}

impl BenchOptions {
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Two nodes are no better than one: without both, there is no majority.
fn parse_broker_nodes(text: &str) -> Result<usize, String> {
    let nodes = text.parse().ok().filter(|nodes| [1, 3].contains(nodes));
    nodes.ok_or_else(|| "a broker has 1 node or 3".to_owned())
}

#[cfg(test)]
mod tests;
