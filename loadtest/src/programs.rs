//! Where the worker programs are; what cargo runs is measured against workers of the same sources and profile.

use crate::failure::Failure;
use crate::orders::Functions;
use crate::workers::DOOR;
use anyhow::{Context, anyhow};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// What a run starts, and this program: it stays fresh.
const BUILT: [&str; 5] = ["loadtest", "purchase", "release", "payment", "relay"];

/// The worker program: the one given, else the one beside this program. When cargo has started us (`cargo demo`), the
/// programs are built first.
pub async fn worker(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return existing(path.to_owned());
    }
    build(&[]).await?;
    function("purchase")
}

/// What a shop that stays needs besides, and whoever operates it.
const OF_A_SHOP: [&str; 3] = ["restock", "web", "admin"];

/// The worker program, and beside it every other one: built first as in [`worker`].
pub async fn all() -> Result<PathBuf, Failure> {
    build(&OF_A_SHOP).await?;
    function("purchase")
}

/// The programs of the functions that go on with the orders, beside this program; built first as in [`worker`].
pub async fn functions() -> Result<Functions, Failure> {
    build(&[]).await?;
    Ok(Functions { release: function("release")?, payment: function("payment")?, relay: function("relay")? })
}

/// The program of a door, beside this program; built first as in [`worker`].
pub async fn door() -> Result<PathBuf, Failure> {
    build(&[DOOR]).await?;
    function(DOOR)
}

pub fn ourselves() -> Result<PathBuf, Failure> {
    Ok(std::env::current_exe().context("find this program's own path")?)
}

/// The program of this name, beside this program.
pub(crate) fn function(name: &str) -> Result<PathBuf, Failure> {
    let ourselves = ourselves()?;
    // Cargo keeps the programs one above those of its tests.
    let folder = ourselves.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap_or(Path::new("."));
    existing(folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
}

/// Where cargo has started us, builds these too, with our own profile. Cargo has given up its lock when it runs us, and what is fresh takes it an instant. Of the
/// whole workspace, as it was for us: for fewer packages it would choose other features, and build all twice.
async fn build(more: &[&str]) -> Result<(), Failure> {
    let variables = std::env::var_os("CARGO").zip(std::env::var_os("CARGO_MANIFEST_DIR"));
    let Some((cargo, package)) = variables else { return Ok(()) };
    let mut command = Command::new(&cargo);
    command.args(["build", "--workspace", "--quiet"]).current_dir(package).kill_on_drop(true);
    command.args(BUILT.iter().chain(more).flat_map(|name| ["--bin", name]));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // What cargo says of the package that it runs: a build script that reads it (ring's) would have all behind it built anew, each time.
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| of_package(name)) {
        command.env_remove(name);
    }
    // Standard output is for the result.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().await;
    let status = status.with_context(|| format!("start {}", cargo.display()))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Broken(anyhow!("the worker programs do not build: cargo says why above ({status})")))
}

fn existing(path: PathBuf) -> Result<PathBuf, Failure> {
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::Configuration(anyhow!(
        "there is no worker program {}; build it with `cargo build --workspace --bins`, or name purchase's with \
         --worker-program",
        path.display()
    )))
}
