//! The process around [`admin::run`]: threads, Ctrl-C, what is printed, and the exit code.

use admin::failure::Failure;
use admin::{CommandLine, run};
use clap::CommandFactory;
use shared::config::read_line;
use shared::table::Style;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// Something that is looked at is off.
const OFF: u8 = 1;

fn main() -> ExitCode {
    let line = read_line(CommandLine::command()).map_err(|error| Failure::Configuration(error.into()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let outcome = runtime.block_on(async {
        tokio::select! {
            done = async { run(line?, Style::of_stdout()).await } => done,
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        }
    });
    runtime.shutdown_background();
    let printed = outcome.and_then(|report| match std::io::stdout().write_all(report.text.as_bytes()) {
        // Whoever reads us has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Broken(error.into())),
        Ok(()) | Err(_) => Ok(report.is_well),
    });
    match printed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(OFF),
        Err(failure) => {
            eprintln!("admin: {failure}");
            failure.exit_code()
        }
    }
}
