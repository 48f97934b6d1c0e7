//! The server's process, from outside: started, found, asked what it counted, and stopped.
//!
//! Invariant: it does not outlive us ([`Supervised`]).

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use hyper::Method;
use shared::devstack::{Folder, Program, Supervised};
use tokio::time::{Instant, sleep};

use super::DoorScenario;
use super::http::{Connecting, exchange, request};
use super::server::Counts;
use crate::failure::Failure;

/// How long it may take until it listens.
const READY_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long it may take to finish what it has begun, once the crowd is gone: a request waits for the pool, and for locks,
/// in each of its attempts.
const QUIET_WAIT_MAX: Duration = Duration::from_secs(180);
/// Between two looks while waiting for either.
const POLL: Duration = Duration::from_millis(20);
/// Looks in a row that must find nothing new: what is still to be accepted, or read, is not in flight yet.
const QUIET_LOOKS: u32 = 5;

/// A server that listens.
pub(super) struct Server {
    process: Supervised,
    pub(super) address: SocketAddr,
    folder: Folder,
}

impl Server {
    /// Starts it and returns when it listens.
    ///
    /// # Errors
    /// It ends before that, or takes too long; the text has its log.
    pub(super) async fn start(program: &Path, database_url: &str, scenario: &DoorScenario) -> Result<Self, Failure> {
        let folder = Folder::create().map_err(Failure::Broken)?;
        let (address_file, log) = (folder.path().join("address"), folder.path().join("door.log"));
        let retry = scenario.retry;
        let described = Program::new(program)
            .args(["door-server", "--strategy", scenario.strategy.as_str()])
            .args(["--payment-ms", &scenario.payment.as_millis().to_string()])
            .args(["--retry-wait-ms", &retry.wait_ms.to_string()])
            .args(["--retry-factor", &retry.factor.to_string()])
            .args(["--retry-wait-ms-max", &retry.wait_ms_max.to_string()])
            .args(["--retry-attempts-max", &retry.attempts_max.to_string()])
            .args([Path::new("--address-file"), &address_file])
            // In the environment, not on the command line: the URL may have a password in it.
            .env("DATABASE_URL", database_url)
            .log(&log);
        let mut process = Supervised::spawn(described).await.map_err(Failure::Configuration)?;
        let address = listening(&mut process, &address_file, &log).await?;
        Ok(Self { process, address, folder })
    }

    /// Waits until it has finished everything that it has begun, and tells what it counted.
    ///
    /// # Errors
    /// It does not answer, or does not come to an end.
    pub(super) async fn counts(&self) -> Result<Counts, Failure> {
        let limit = Instant::now() + QUIET_WAIT_MAX;
        let (mut last, mut quiet_looks) = (self.look().await?, 0);
        while quiet_looks < QUIET_LOOKS {
            if Instant::now() > limit {
                return Err(Failure::Broken(anyhow!(
                    "the door is still at work {QUIET_WAIT_MAX:?} after the crowd has left"
                )));
            }
            sleep(POLL).await;
            let counts = self.look().await?;
            quiet_looks = if counts == last && counts.in_flight == 0 { quiet_looks + 1 } else { 0 };
            last = counts;
        }
        Ok(last)
    }

    async fn look(&self) -> Result<Counts, Failure> {
        let asked = request(self.address, Method::GET, "/counts", Vec::new());
        let answered = exchange(self.address, asked, &mut Connecting::default()).await;
        let (_, body) =
            answered.map_err(|fault| Failure::Broken(anyhow!("the door tells no counts: {}", fault.text)))?;
        serde_json::from_slice(&body).context("read the door's counts").map_err(Failure::Broken)
    }

    /// Ends it.
    ///
    /// # Errors
    /// It does not end.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        let stopped = async {
            self.process.stop().await?;
            self.folder.remove().await
        };
        stopped.await.context("stop the door").map_err(Failure::Broken)
    }
}

async fn listening(process: &mut Supervised, address_file: &Path, log: &Path) -> Result<SocketAddr, Failure> {
    let limit = Instant::now() + READY_WAIT_MAX;
    let logged = || String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    loop {
        if let Ok(address) = std::fs::read_to_string(address_file) {
            return address.parse().context("read the door's address").map_err(Failure::Broken);
        }
        if let Some(status) = process.try_wait().map_err(|error| Failure::Broken(error.into()))? {
            return Err(Failure::of_worker(status, anyhow!("the door does not open ({status}):\n{}", logged())));
        }
        if Instant::now() > limit {
            return Err(Failure::Broken(anyhow!("the door is not open after {READY_WAIT_MAX:?}:\n{}", logged())));
        }
        sleep(POLL).await;
    }
}
