//! The crowd's processes: apart from ours and the server's, and several where one may not have enough connections.
//!
//! Each is told over a socket what its buyers want ([`Share`]), says that it is ready, is told when to begin, and hands back
//! their visits: a JSON value a line. Invariant: no buyer begins before every process is ready, and none outlives us
//! ([`Supervised`]).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::devstack::{Folder, Program, Supervised};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::crowd::{Visits, come};
use super::files;
use super::server::Form;

/// From the word to the first buyer: long enough for the word to reach every process.
const RUN_UP: Duration = Duration::from_millis(100);
/// The longest line: 20,000 buyers are 3 MiB.
const LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What one process is told.
#[derive(Debug, Serialize, Deserialize)]
struct Share {
    address: SocketAddr,
    patience: Duration,
    forms: Vec<Form>,
}

/// The processes, each connected.
pub(super) struct Crowds {
    crowds: Vec<(Supervised, Line)>,
    folder: Folder,
}

impl Crowds {
    /// Starts so many.
    ///
    /// # Errors
    /// One of them does not start; the text has its log.
    pub(super) async fn start(program: &Path, number: usize) -> Result<Self> {
        let folder = Folder::create()?;
        let socket = folder.path().join("crowd");
        let listener = UnixListener::bind(&socket).context("open a socket to the crowd")?;
        let mut crowds = Vec::new();
        for index in 0..number {
            let log = folder.path().join(format!("crowd-{index}.log"));
            let described = Program::new(program).args([Path::new("door-crowd"), Path::new("--socket"), &socket]);
            let mut process = Supervised::spawn(described.log(&log)).await?;
            let stream = tokio::select! {
                accepted = listener.accept() => accepted.context("take the crowd's connection")?.0,
                status = process.wait() => bail!("the crowd does not come ({}):\n{}", status?, std::fs::read_to_string(&log)?),
            };
            crowds.push((process, Line::on(stream)));
        }
        Ok(Self { crowds, folder })
    }

    /// Sends everybody, and returns when the last one has left; visits are in the forms' order.
    ///
    /// # Errors
    /// A process ends early.
    pub(super) async fn come(mut self, address: SocketAddr, forms: Vec<Form>, patience: Duration) -> Result<Visits> {
        let number = self.crowds.len();
        for (index, (_, line)) in self.crowds.iter_mut().enumerate() {
            // Who comes one after the other comes from one process after the other.
            let forms = forms.iter().skip(index).step_by(number).cloned().collect();
            line.send(&Share { address, patience, forms }).await?;
        }
        for (_, line) in &mut self.crowds {
            line.receive::<Ready>().await?;
        }
        let at = SystemTime::now() + RUN_UP;
        for (_, line) in &mut self.crowds {
            line.send(&at).await?;
        }
        let (mut visits, mut lag) = (vec![None; forms.len()], Duration::ZERO);
        for (index, (_, line)) in self.crowds.iter_mut().enumerate() {
            let of_this = line.receive::<Visits>().await?;
            lag = lag.max(of_this.lag);
            let places = visits.iter_mut().skip(index).step_by(number);
            places.zip(of_this.visits).for_each(|(place, visit)| *place = Some(visit));
        }
        for (mut process, line) in self.crowds {
            drop(line);
            process.stop().await?;
        }
        self.folder.remove().await?;
        let visits = visits.into_iter().collect::<Option<_>>().context("the crowd lost a buyer")?;
        Ok(Visits { visits, lag })
    }
}

/// Says that a process is ready.
#[derive(Debug, Serialize, Deserialize)]
struct Ready;

/// Be one of the processes: connects to this socket, and sends whom it is told to send.
///
/// # Errors
/// Whoever started us is gone.
pub(crate) async fn serve(socket: PathBuf) -> Result<()> {
    files::allow_most()?;
    let mut line = Line::on(UnixStream::connect(&socket).await.context("connect to whoever started us")?);
    let Share { address, patience, forms } = line.receive().await?;
    line.send(&Ready).await?;
    let at = line.receive().await?;
    let visits = come(address, &forms, patience, at).await?;
    line.send(&visits).await
}

/// JSON values over a socket, one a line.
struct Line(BufReader<UnixStream>);

impl Line {
    fn on(stream: UnixStream) -> Self {
        Self(BufReader::new(stream))
    }

    async fn send(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.0.write_all(&line).await.context("the other process is gone")
    }

    async fn receive<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = Vec::new();
        (&mut self.0).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await.context("the other process is gone")?;
        serde_json::from_slice(&line).context("the other process ended in mid-word")
    }
}
