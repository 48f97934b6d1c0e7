//! What `contend` takes.

use clap::Args;
use shared::retry::RetryPolicy;
use std::path::PathBuf;

const UPDATES_MAX: i64 = 1_000_000;
/// The most connections, within what a PostgreSQL allows.
const CONCURRENCY_MAX: i64 = 150;

#[derive(Debug, Clone, Args)]
pub struct ContendOptions {
    /// The item that is contended. On a private server it is made; in a database of yours it must be there, and keeps
    /// everything but its version.
    #[arg(long, value_name = "ITEM", default_value = "contended", value_parser = parse_item)]
    pub item: String,
    /// Updates of each race, in rounds.
    #[arg(long, value_name = "N", default_value_t = 800, value_parser = clap::value_parser!(u32).range(1..=UPDATES_MAX))]
    pub updates: u32,
    /// How many of them make a round: they begin at once, each on a connection of its own, and the next round begins when the
    /// last one is done.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=CONCURRENCY_MAX))]
    pub concurrency: u32,
    /// How attempts are spaced: as a worker's, by the same flags.
    #[command(flatten)]
    pub retry: RetryPolicy,
    /// Write the result as JSON to this file; `-` prints JSON alone on standard output.
    #[arg(long, value_name = "PATH")]
    pub json: Option<PathBuf>,
    /// The database to use; without it, a private PostgreSQL is started and stopped.
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
}

fn parse_item(text: &str) -> Result<String, String> {
    let item = Some(text.to_owned()).filter(|text| shared::messages::is_id(text));
    item.ok_or_else(|| "an item's id matches [A-Za-z0-9._:-]{1,128}".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use crate::cli::tests::parse;

    fn contend(arguments: &[&str]) -> Result<ContendOptions, clap::Error> {
        let Command::Contend(options) = parse("contend", arguments)? else { unreachable!("the subcommand is contend") };
        Ok(options)
    }

    #[test]
    fn attempts_are_spaced_as_a_workers_unless_given_otherwise_and_what_cannot_be_raced_is_refused() {
        assert_eq!(contend(&[]).unwrap().retry, RetryPolicy::default());
        assert_eq!(contend(&["--retry-wait-ms=50"]).unwrap().retry.wait_ms, 50);
        for wrong in ["--updates=0", "--concurrency=0", "--concurrency=151", "--item=", "--item=a b"] {
            assert!(contend(&[wrong]).is_err(), "{wrong}");
        }
    }
}
