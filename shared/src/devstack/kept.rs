//! A folder that keeps what servers have from one run to the next. Only their data are there: sockets, settings and logs have a private
//! folder as ever, so that neither ports nor the length of its path matter.

use crate::config::Unusable;
use anyhow::{Context, Result};
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The file by which such a folder is known. Whoever uses the folder has it locked.
const MARK: &str = "kept-by-turnstile";
/// What stands in it once the servers were ready for the first time.
const COMPLETE: &str =
    "The data of the servers of `cargo up --keep`: PostgreSQL and RabbitMQ, as they were stopped or killed.\n";
pub(super) const POSTGRES: &str = "postgres";
pub(super) const RABBITMQ: &str = "rabbitmq";

/// Such a folder, locked until the mark's file and all its copies are closed.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    pub(super) mark: File,
}

impl Kept {
    /// Opens the folder, made where there is none, with a subfolder for each server: PostgreSQL's is this user's.
    /// [`Unusable`], where it is none of ours or somebody has it in use; nothing in it has changed then.
    pub(super) fn open(folder: &Path, user: Option<(u32, u32)>) -> Result<Kept> {
        let shown = folder.display();
        let unusable = |why: String| Unusable(format!("{shown} {why}"));
        fs::create_dir_all(folder).map_err(|error| unusable(format!("cannot be made: {error}")))?;
        let path = folder.canonicalize().with_context(|| format!("look at {shown}"))?;
        if let Some(user) = user
            && !can_enter(&path, user)?
        {
            let why =
                "cannot be entered by who runs PostgreSQL, which is not root: name a folder that is in nobody's home";
            return Err(unusable(why.to_owned()).into());
        }
        let is_empty = fs::read_dir(&path).with_context(|| format!("look into {shown}"))?.next().is_none();
        if !is_empty && !path.join(MARK).is_file() {
            let why = "has something in it that is not ours: name a new folder, or an empty one".to_owned();
            return Err(unusable(why).into());
        }
        let opened = OpenOptions::new().create(true).read(true).append(true).open(path.join(MARK));
        let mut mark = opened.map_err(|error| unusable(format!("cannot be written to: {error}")))?;
        let in_use = "is in use by another `cargo up`, or by what is left of one that was killed this moment";
        match mark.try_lock() {
            Ok(()) => (),
            Err(TryLockError::WouldBlock) => return Err(unusable(in_use.to_owned()).into()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(|| format!("lock {shown}")),
        }
        let mut text = String::new();
        mark.read_to_string(&mut text).with_context(|| format!("read {shown}/{MARK}"))?;
        if !text.starts_with(COMPLETE) {
            begin(&path, user).with_context(|| format!("make the servers' folders in {shown}"))?;
        }
        Ok(Kept { path, mark })
    }
}

/// What a first start did not come to the end of has nothing in it that anybody was told of.
fn begin(path: &Path, user: Option<(u32, u32)>) -> io::Result<()> {
    for (name, owner) in [(POSTGRES, user), (RABBITMQ, None)] {
        let folder = path.join(name);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => make_own(&folder, owner)?,
        }
    }
    Ok(())
}

/// Notes that there is something to keep.
pub(super) fn complete(path: &Path) -> Result<()> {
    let noted =
        OpenOptions::new().write(true).open(path.join(MARK)).and_then(|mut mark| mark.write_all(COMPLETE.as_bytes()));
    noted.with_context(|| format!("write to {}", path.display()))
}

/// Makes a folder that only its owner can enter.
pub(super) fn make_own(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    owner.map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
}

/// Asks the system itself, which knows of permissions on every folder above, of access lists and of mount options.
pub(super) fn can_enter(path: &Path, (user, group): (u32, u32)) -> io::Result<bool> {
    let mut enter = Command::new("/bin/sh");
    enter.args(["-c", r#"cd -- "$1""#, "enter"]).arg(path).current_dir("/").uid(user).gid(group);
    Ok(enter.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devstack::Folder;

    fn reason(folder: &Path) -> String {
        let error = Kept::open(folder, None).unwrap_err();
        assert!(error.is::<Unusable>(), "{error:#}");
        error.to_string()
    }

    #[tokio::test]
    async fn a_folder_is_kept_by_one_at_a_time_from_its_first_complete_start_on_and_what_is_not_ours_is_left_alone() {
        let place = Folder::create().unwrap();
        let path = place.path().join("new/kept");
        let data = path.join(POSTGRES).join("PG_VERSION");
        let kept = Kept::open(&path, None).unwrap();
        assert!(reason(&path).contains("in use by another"), "what has it open has it locked");
        fs::write(&data, "half of it").unwrap();
        // As whoever has it open may do: it is their standard error.
        fs::write(path.join(MARK), "a warning\n").unwrap();
        drop(kept);
        let kept = Kept::open(&path, None).unwrap();
        assert!(!data.exists(), "a first start that came to no end has left nothing");
        fs::write(&data, "15").unwrap();
        complete(&kept.path).unwrap();
        drop(kept);
        Kept::open(&path, None).unwrap();
        assert_eq!(fs::read_to_string(&data).unwrap(), "15");

        let theirs = place.path().join("new");
        assert!(reason(&theirs).contains("not ours"));
        assert_eq!(fs::read_dir(&theirs).unwrap().count(), 1);
        assert!(reason(&data).contains("cannot be made"), "a file is no folder");
        place.remove().await.unwrap();
    }
}
