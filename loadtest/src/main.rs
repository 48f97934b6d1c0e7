//! The load generator: see the library.

use clap::CommandFactory;
use loadtest::cli::Cli;
use loadtest::commands::execute;
use loadtest::failure::Failure;
use shared::config::read_line;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let executed = match read_line(Cli::command()) {
        Ok(line) => execute(Cli::check(line).unwrap_or_else(|error| error.exit())).await,
        Err(error) => Err(Failure::Configuration(error.into())),
    };
    match executed {
        Ok(true) => ExitCode::SUCCESS,
        // An invariant broke.
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("loadtest: {failure}");
            failure.exit_code()
        }
    }
}
