//! The load generator: see the library.

use std::process::ExitCode;

use clap::Parser;
use loadtest::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    match loadtest::commands::execute(Cli::parse().check().unwrap_or_else(|error| error.exit())).await {
        Ok(true) => ExitCode::SUCCESS,
        // An invariant broke.
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("loadtest: {failure}");
            failure.exit_code()
        }
    }
}
