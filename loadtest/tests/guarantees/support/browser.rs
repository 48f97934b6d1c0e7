//! A real browser with an empty profile under a private folder, which reaches no host but this one.

use super::not_shown;
use shared::devstack::{Folder, install};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// The browser and its folder.
pub(crate) struct Browser {
    program: PathBuf,
    pub(crate) folder: Folder,
}

impl Browser {
    /// `None` where it cannot be had, which is said, with what is not shown.
    pub(crate) async fn find(what: &str) -> Option<Self> {
        let program = install::chromium().await;
        let program = program.map_err(|reason| not_shown(what, &format!("{reason:#}"))).ok()?;
        Some(Self { program, folder: Folder::create().unwrap() })
    }

    /// What it begins with, with a profile in this folder. It is to be given its addresses, and what it does with them.
    pub(crate) fn arguments(&self, folder: &Path) -> Vec<String> {
        let mut arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=1120,900",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.insert(0, self.program.display().to_string());
        arguments.push(format!("--user-data-dir={}", folder.join("profile").display()));
        arguments
    }

    pub(crate) async fn close(self) {
        self.folder.remove().await.unwrap();
    }
}

/// The program that is named first, with the rest as its arguments.
pub(crate) fn command(arguments: &[String]) -> Command {
    let mut command = Command::new(&arguments[0]);
    command.args(&arguments[1..]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}
