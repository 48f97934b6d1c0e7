//! Logs: one subscriber for every program, to standard error, as lines for people or as JSON for machines.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging; `filter` is in the syntax of `RUST_LOG`, such as `info` or `purchase=debug`.
pub fn start(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(filter)?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    if json {
        builder.json().flatten_event(true).init()
    } else {
        builder.init()
    }
    Ok(())
}
