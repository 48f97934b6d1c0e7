//! The load generator: see the library.

use std::process::ExitCode;

use clap::Parser;
use loadtest::cli::Cli;
use loadtest::failure::{EXIT_BROKEN, EXIT_PASSED};

#[tokio::main]
async fn main() -> ExitCode {
    match loadtest::commands::execute(Cli::parse().check().unwrap_or_else(|error| error.exit())).await {
        Ok(passed) => ExitCode::from(if passed { EXIT_PASSED } else { EXIT_BROKEN }),
        Err(failure) => {
            eprintln!("loadtest: {failure}");
            failure.exit_code()
        }
    }
}
