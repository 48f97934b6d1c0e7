//! Where the server programs are.
//!
//! Finds, runs nothing. Invariant: what it returns was an existing file when it looked.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// RabbitMQ's own scripts, and Erlang's name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RabbitMqPrograms {
    pub(super) server: PathBuf,
    pub(super) control: PathBuf,
    pub(super) epmd: PathBuf,
}

/// PostgreSQL's server and what makes its data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PostgresPrograms {
    pub(super) server: PathBuf,
    pub(super) initdb: PathBuf,
}

/// Packages keep the real scripts here. What they put into `sbin` is a wrapper that insists on the user `rabbitmq`, so
/// these come before PATH.
const RABBITMQ_FOLDERS: [&str; 4] = [
    "/usr/lib/rabbitmq/bin",
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
];
/// Debian and Fedora keep the server programs of each version out of PATH; so does Homebrew.
const POSTGRES_FOLDERS: [&str; 5] = [
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
];

/// Redis, else what some distributions have in its place: it speaks the same, and is started the same way.
const REDIS_NAMES: [&str; 2] = ["redis-server", "valkey-server"];
/// Where Homebrew has it, also if its own folder is not in PATH.
const REDIS_FOLDERS: [&str; 3] = ["/opt/homebrew/bin", "/usr/local/bin", "/home/linuxbrew/.linuxbrew/bin"];
/// Chromium, or what it is called where it comes as Chrome.
const CHROMIUM_NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// RabbitMQ, if it and Erlang are installed.
pub(super) fn rabbitmq() -> Option<RabbitMqPrograms> {
    let folders = known_folders(&RABBITMQ_FOLDERS).chain(path_folders());
    let found = folders.map(|folder| (folder.join("rabbitmq-server"), folder.join("rabbitmqctl")));
    let (server, control) = found.into_iter().find(|(server, control)| server.is_file() && control.is_file())?;
    let epmd = path_folders().map(|folder| folder.join("epmd")).find(|file| file.is_file())?;
    Some(RabbitMqPrograms { server, control, epmd })
}

/// PostgreSQL, the one in PATH, else the newest.
pub(super) fn postgres() -> Option<PostgresPrograms> {
    let folders = path_folders().chain(known_folders(&POSTGRES_FOLDERS));
    let found =
        folders.map(|folder| PostgresPrograms { server: folder.join("postgres"), initdb: folder.join("initdb") });
    found.into_iter().find(|programs| programs.server.is_file() && programs.initdb.is_file())
}

/// Redis or Valkey, the one in PATH.
pub(super) fn redis() -> Option<PathBuf> {
    let folders: Vec<PathBuf> = path_folders().chain(known_folders(&REDIS_FOLDERS)).collect();
    let programs = REDIS_NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    programs.into_iter().find(|program| program.is_file())
}

/// Chromium, the one in PATH.
pub(super) fn chromium() -> Option<PathBuf> {
    let programs = CHROMIUM_NAMES.into_iter().flat_map(|name| path_folders().map(move |folder| folder.join(name)));
    programs.into_iter().find(|program| program.is_file())
}

/// Whether a program of this name is in PATH.
pub(super) fn in_path(name: &str) -> bool {
    path_folders().any(|folder| folder.join(name).is_file())
}

fn path_folders() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect::<Vec<_>>().into_iter()
}

fn known_folders(patterns: &[&str]) -> impl Iterator<Item = PathBuf> {
    patterns.iter().flat_map(|pattern| expand(pattern)).collect::<Vec<_>>().into_iter()
}

/// The folders that a pattern with at most one `*` names, the highest version first.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else { return vec![PathBuf::from(pattern)] };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort_by_key(|name| std::cmp::Reverse(version(&name[prefix.len()..])));
    names.into_iter().map(|name| Path::new(parent).join(name + after)).collect()
}

/// `9.6` comes before `15` as a number, not as a word.
fn version(name: &str) -> Vec<u32> {
    name.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// Variables of ours that would change how a server starts: a name that begins with one of these.
pub(super) fn inherited_settings(prefixes: &[&str]) -> Vec<std::ffi::OsString> {
    let begins = |name: &OsStr| prefixes.iter().any(|prefix| name.to_string_lossy().starts_with(prefix));
    std::env::vars_os().map(|(name, _)| name).filter(|name| begins(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_version_wins_by_number() {
        let mut names = ["9.6", "15", "10.1", "10"];
        names.sort_by_key(|name| std::cmp::Reverse(version(name)));
        assert_eq!(names, ["15", "10.1", "10", "9.6"]);
    }

    #[test]
    fn a_pattern_names_existing_folders_newest_first() {
        let parent = std::env::temp_dir().join(format!("turnstile-programs-{}", uuid::Uuid::now_v7().simple()));
        for name in ["pg-9", "pg-17", "other-20"] {
            fs::create_dir_all(parent.join(name).join("bin")).unwrap();
        }
        let pattern = format!("{}/pg-*/bin", parent.display());
        assert_eq!(expand(&pattern), [parent.join("pg-17/bin"), parent.join("pg-9/bin")]);
        fs::remove_dir_all(&parent).unwrap();
    }
}
