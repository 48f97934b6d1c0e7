//! Contention, on a database that is given or on a private one; no broker takes part.

use std::sync::Arc;

use anyhow::Context;
use shared::devstack::{Folder, Postgres, install};

use super::{DATABASE, or_interrupted, report, servers_failed};
use crate::contend;
use crate::failure::Failure;
use crate::options::ContendOptions;
use crate::progress::Progress;
use crate::summary::Style;

/// Races, and reports; returns whether every invariant holds.
pub(super) async fn execute(options: &ContendOptions) -> Result<bool, Failure> {
    let progress = Progress::new();
    let contention = match options.database_url.as_deref().filter(|url| !url.is_empty()) {
        Some(url) => or_interrupted(contend::of_given(url, options, &progress)).await,
        None => on_private_postgres(&progress, async |url| contend::of_private(&url, options, &progress).await).await,
    };
    progress.clear();
    let contention = contention?;
    report(&contention, options.json.as_deref(), || contend::render(&contention, Style::of_stdout()))?;
    Ok(contention.passed)
}

/// Works on a new database of a server that is stopped afterwards.
async fn on_private_postgres<T>(
    progress: &Progress,
    work: impl AsyncFnOnce(String) -> Result<T, Failure>,
) -> Result<T, Failure> {
    progress.stage("starting a private PostgreSQL");
    // Before the folder, which belongs to the server's user.
    or_interrupted(async { install::ensure(&[install::Server::Postgres]).await.map_err(servers_failed) }).await?;
    let folder = Arc::new(Folder::create().map_err(servers_failed)?);
    let starting = async {
        let postgres = Postgres::start(&folder).await.map_err(servers_failed)?;
        postgres.create_database(DATABASE).await.map_err(servers_failed)?;
        Ok(postgres)
    };
    let postgres = or_interrupted(starting).await?;
    let worked = or_interrupted(work(postgres.url(DATABASE))).await;
    progress.stage("stopping the private PostgreSQL");
    let stopped = async {
        postgres.stop().await?;
        Arc::into_inner(folder).context("somebody else holds the private folder")?.remove().await
    };
    let stopped = stopped.await.context("stop the private PostgreSQL").map_err(Failure::Broken);
    worked.and_then(|worked| stopped.map(|()| worked))
}
