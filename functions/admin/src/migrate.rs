//! `migrate`: the schema is brought up to date, and the functions' role gets its rights to it.

use crate::NAME;
use crate::failure::Failure;
use crate::report::{Drawn, Layout};
use clap::Args;
use serde_json::json;
use shared::config::StoreOptions;
use shared::db::{self, Migrated};

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    store: StoreOptions,
}

pub(crate) async fn run(Options { store }: Options) -> Result<Drawn, Failure> {
    let Migrated { found, left } = db::open_and_migrate(&store, NAME).await?;
    Ok(Layout { lines: "version_found version", tables: &[] }.of(json!({ "version_found": found, "version": left })))
}
