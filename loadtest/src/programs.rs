//! Where the worker programs are; what cargo runs is measured against workers of the same sources and profile.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, anyhow};
use tokio::process::Command;

use crate::failure::Failure;
use crate::orders::Functions;

const WORKER: &str = "purchase";
/// The programs of release, payment and relay.
const FUNCTIONS: [&str; 3] = ["release", "payment", "relay"];

/// The worker program: the one given, else the one beside this program. When cargo has started us (`cargo demo`), the
/// programs are built first.
pub async fn worker(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = given {
        return existing(path.to_owned());
    }
    build_if_cargo().await?;
    function(WORKER)
}

/// The programs of the functions that go on with the orders, beside this program; built first as in [`worker`].
pub async fn functions() -> Result<Functions, Failure> {
    build_if_cargo().await?;
    let [release, payment, relay] = FUNCTIONS.map(function);
    Ok(Functions { release: release?, payment: payment?, relay: relay? })
}

pub fn ourselves() -> Result<PathBuf, Failure> {
    std::env::current_exe().context("find this program's own path").map_err(Failure::Broken)
}

fn function(name: &str) -> Result<PathBuf, Failure> {
    let ourselves = ourselves()?;
    let folder = ourselves.parent().unwrap_or(Path::new("."));
    // Cargo keeps the programs one above those of its tests.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    existing(folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
}

async fn build_if_cargo() -> Result<(), Failure> {
    match (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR")) {
        (Some(cargo), Some(package)) => build(Path::new(&cargo), Path::new(&package)).await,
        (_, _) => Ok(()),
    }
}

fn existing(path: PathBuf) -> Result<PathBuf, Failure> {
    if path.is_file() {
        return Ok(path);
    }
    let text = anyhow!(
        "there is no worker program {}; build it with `cargo build --workspace --bins`, or name purchase's with \
         --worker-program",
        path.display()
    );
    Err(Failure::Configuration(text))
}

/// Builds with our own profile. Cargo has given up its lock when it runs us, and what is fresh takes it an instant.
async fn build(cargo: &Path, package: &Path) -> Result<(), Failure> {
    let mut command = Command::new(cargo);
    command.args(["build", "--bins", "--quiet", "--package", "loadtest"]).current_dir(package).kill_on_drop(true);
    command.args(std::iter::once(WORKER).chain(FUNCTIONS).flat_map(|name| ["--package", name]));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // Standard output is for the result.
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().await;
    let status = status.with_context(|| format!("start {}", cargo.display())).map_err(Failure::Broken)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::Broken(anyhow!("the worker programs do not build: cargo says why above ({status})")))
}
