//! The process around [`admin::run`]: threads, Ctrl-C, what is printed, and the exit code.

use admin::{CommandLine, failure::Failure, run};
use clap::Parser;
use shared::table::Style;
use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
};

/// Something that is looked at is off.
const OFF: u8 = 1;
/// The set-up is wrong (`EX_CONFIG`).
const CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    // Messages in `dead` may be there because they end whoever reads them.
    if let Err(error) = shared::worker::with_deep_stacks() {
        eprintln!("admin: this program cannot start itself again with larger stacks: {error}");
        return ExitCode::from(CONFIGURATION);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads can be started");
    let outcome = runtime.block_on(async {
        // On a thread of the runtime, whose stack is deep; this one's is not.
        let running = tokio::spawn(run(line, Style::of_stdout()));
        tokio::select! {
            done = running => done.expect("a command does not panic"),
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
