//! Starting and stopping a function's program on private servers, as the measurements here do.

use anyhow::{Context, Result, ensure};
use shared::devstack::{Program, Servers, Supervised};

/// Starts the program of a function, which must be built, on these servers.
pub(crate) async fn start(function: &str, servers: &Servers, environment: &[(&str, &str)]) -> Result<Supervised> {
    let ourselves = std::env::current_exe()?;
    let programs = ourselves.parent().and_then(|examples| examples.parent()).context("find the programs")?;
    let path = programs.join(function);
    ensure!(path.is_file(), "there is no {}; build it with `cargo build --release --bins`", path.display());
    let mut program = Program::new(path)
        .env("AMQP_URL", servers.rabbitmq.url("/"))
        .env("DATABASE_URL", servers.postgres.url("sale"))
        .env("RUST_LOG", "warn,lapin=off")
        .log(servers.folder().join(format!("{function}.log")));
    for (name, value) in environment {
        program = program.env(*name, *value);
    }
    Supervised::spawn(program).await
}

/// Has it drain.
pub(crate) async fn stop(mut program: Supervised) -> Result<()> {
    let ended = program.stop().await?;
    ensure!(ended.success(), "the program ended with {ended}");
    Ok(())
}
