//! The private folder of a set of servers, its removal, and free ports.
//!
//! A keeper, a tiny shell (`keeper.sh`), waits at a pipe whose writing end is held by us and by the watchdog of every server that lives
//! in the folder. When the last of them is gone, whatever ended us, the pipe closes and the keeper removes the folder.
//!
//! The keeper also holds a lock in the folder. One without a locker was left behind when the whole machine or container
//! stopped at once; the next run removes it.

use super::authority::Authority;
use super::kept::{self, Kept, can_enter};
use super::process::{Program, Supervised};
use anyhow::{Context, Result, bail};
use nix::unistd::{Uid, User};
use std::fs::{self, File, Permissions};
use std::io::{self, PipeWriter};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// The longest path of a Unix socket, in bytes, that every system takes (Linux 107, macOS 103).
const SOCKET_PATH_BYTES_MAX: usize = 103;
/// What a server may append to the folder for its socket (`/postgres/.s.PGSQL.5432`), with room to spare.
const SOCKET_NAME_BYTES_MAX: usize = 32;
/// How long the keeper may take to remove the folder.
const REMOVAL_WAIT_MAX: Duration = Duration::from_secs(30);
/// Folders of earlier runs looked at.
const SWEEP_MAX: usize = 1_000;
/// Below the range that systems take for outgoing connections (from 32768 on Linux, 49152 elsewhere): while a server
/// restarts, no client's connection can take its port, nor connect to itself by taking it as both of its ends.
const PORTS: Range<u16> = 15_000..32_000;
/// Ports tried for one that is free.
const PORT_TRIES_MAX: usize = 200;
/// Runs as `sh -c KEEPER keeper FOLDER`, waits for the end of its standard input.
const KEEPER: &str = include_str!("keeper.sh");
/// The locked file in a folder.
const LOCK: &str = "lock";

/// A private folder, removed when it and everything that holds it is gone.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    hold: PipeWriter,
    keeper: Child,
    user: Option<(u32, u32)>,
    authority: Option<Authority>,
    /// Where the servers have their data, if not here.
    kept: Option<PathBuf>,
}

impl Folder {
    /// A folder whose servers are reached by TLS alone, with certificates of an authority of its own.
    pub fn with_authority() -> Result<Folder> {
        let folder = Folder::create()?;
        let authority = Some(Authority::create(folder.path.join("authority.pem"))?);
        Ok(Folder { authority, ..folder })
    }

    /// Makes the folder in the first fitting place: the target folder of the build that this program belongs to, the
    /// temporary folder, `/tmp`.
    pub fn create() -> Result<Folder> {
        Folder::make(unprivileged()?, None)
    }

    /// A folder whose servers have their data in that one, which stays. [`Unusable`](crate::config::Unusable), where that cannot be.
    pub fn keeping(data: &Path) -> Result<Folder> {
        let user = unprivileged()?;
        Folder::make(user, Some(Kept::open(data, user)?))
    }

    fn make(user: Option<(u32, u32)>, kept: Option<Kept>) -> Result<Folder> {
        let mut refusals = Vec::new();
        for (parent, prefix) in places() {
            match make_in(&parent, prefix, user) {
                Ok(path) => {
                    if prefix.is_empty() {
                        sweep(&parent);
                    }
                    return Folder::keep(path, user, kept);
                }
                Err(refusal) => refusals.push(format!("  {}: {refusal:#}", parent.display())),
            }
        }
        bail!("no place for the private servers' files; tried\n{}", refusals.join("\n"))
    }

    fn keep(path: PathBuf, user: Option<(u32, u32)>, kept: Option<Kept>) -> Result<Folder> {
        let (kept, mark) = kept.map(|Kept { path, mark }| (path, mark)).unzip();
        let (end, hold) = io::pipe().context("open a pipe to the folder's keeper")?;
        let lock = lock(&path).with_context(|| format!("lock {}", path.display()))?;
        let mut keeper = Command::new("/bin/sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&path).current_dir("/").process_group(0);
        keeper.stdin(Stdio::from(end)).stdout(Stdio::from(lock));
        // The servers' data are in use for as long as this folder is.
        keeper.stderr(mark.map_or_else(Stdio::null, Stdio::from));
        let keeper = keeper.spawn().context("start /bin/sh to keep the private folder")?;
        Ok(Folder { path, hold, keeper, user, authority: None, kept })
    }

    /// Where it is; an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who runs what refuses to run as root (user id, group id), if that is what we are.
    pub(super) fn user(&self) -> Option<(u32, u32)> {
        self.user
    }

    /// Whom the certificates of its servers are of, where these speak TLS alone.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// Starts a program that keeps the folder for as long as it runs.
    pub(super) async fn spawn(&self, program: &mut Program) -> Result<Supervised> {
        Supervised::spawn_holding(program, self.hold.try_clone().context("hold the private folder")?).await
    }

    /// Makes a folder in it that only its owner can enter.
    pub(super) fn subfolder(&self, name: &str, owner: Option<(u32, u32)>) -> Result<PathBuf> {
        let path = self.path.join(name);
        kept::make_own(&path, owner).with_context(|| format!("make the folder {}", path.display()))?;
        Ok(path)
    }

    /// Where a server of this name has its data: here, unless they are kept.
    pub(super) fn data(&self, name: &str, here: PathBuf) -> PathBuf {
        self.kept.as_ref().map_or(here, |kept| kept.join(name))
    }

    /// Notes that the servers are ready, so that their data, where they are kept, are there the next time.
    pub(super) fn complete(&self) -> Result<()> {
        self.kept.as_deref().map_or(Ok(()), kept::complete)
    }

    /// Removes the folder once every holder is gone, and waits for that.
    pub async fn remove(mut self) -> Result<()> {
        drop(self.hold);
        let status = tokio::time::timeout(REMOVAL_WAIT_MAX, self.keeper.wait())
            .await
            .with_context(|| format!("{} is still in use", self.path.display()))??;
        if !status.success() {
            bail!("{} cannot be removed entirely; `rm -rf` it by hand", self.path.display());
        }
        Ok(())
    }
}

/// Where folders may be made, best first, with what their names start with there.
fn places() -> Vec<(PathBuf, &'static str)> {
    // The target folder that this program was built into, wherever CARGO_TARGET_DIR put it: Cargo marks it with a tag file.
    let is_target = |folder: &&Path| folder.join("CACHEDIR.TAG").is_file() || folder.ends_with("target");
    let program = std::env::current_exe().unwrap_or_default();
    let in_target = program.ancestors().skip(1).find(is_target).map(|target| (target.join("devstack"), ""));
    let temporary = [(std::env::temp_dir(), "turnstile-"), (PathBuf::from("/tmp"), "turnstile-")];
    in_target.into_iter().chain(temporary).collect()
}

fn make_in(parent: &Path, prefix: &str, user: Option<(u32, u32)>) -> Result<PathBuf> {
    let path = parent.join(format!("{prefix}{:08x}", fastrand::u32(..)));
    let socket_bytes = path.as_os_str().as_bytes().len() + SOCKET_NAME_BYTES_MAX;
    if socket_bytes > SOCKET_PATH_BYTES_MAX {
        bail!("too long a path for a Unix socket ({socket_bytes} bytes of at most {SOCKET_PATH_BYTES_MAX})");
    }
    fs::create_dir_all(parent)?;
    fs::create_dir(&path)?;
    // Others pass through to the subfolders, which say who may enter; nobody else can list it.
    fs::set_permissions(&path, Permissions::from_mode(0o711))?;
    if let Some(user) = user
        && !can_enter(&path, user)?
    {
        fs::remove_dir(&path)?;
        bail!("user id {} cannot enter it", user.0);
    }
    Ok(path)
}

/// Locks the folder until the file and all its copies are closed. The file has its name only when it is locked.
fn lock(folder: &Path) -> Result<File> {
    let file = File::create(folder.join("lock.new"))?;
    file.try_lock()?;
    fs::rename(folder.join("lock.new"), folder.join(LOCK))?;
    Ok(file)
}

/// Removes what earlier runs left behind. What cannot be removed is not ours to worry about.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().take(SWEEP_MAX);
    for folder in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let abandoned = File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
        if abandoned && let Err(error) = fs::remove_dir_all(&folder) {
            tracing::debug!(%error, folder = %folder.display(), "cannot remove what an earlier run left behind");
        }
    }
}

/// So many free loopback ports, for servers that must be told theirs. Another program may still be faster.
pub(super) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let tries = (0..PORT_TRIES_MAX).filter_map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, fastrand::u16(PORTS))).ok());
    let held: Vec<TcpListener> = tries.take(count).collect();
    if held.len() < count {
        bail!("of {PORT_TRIES_MAX} random ports, not even {count} were free");
    }
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// PostgreSQL refuses to be run by root.
fn unprivileged() -> Result<Option<(u32, u32)>> {
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name).with_context(|| format!("look up the user {name}"))? {
            return Ok(Some((user.uid.as_raw(), user.gid.as_raw())));
        }
    }
    bail!("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody to run it as")
}
