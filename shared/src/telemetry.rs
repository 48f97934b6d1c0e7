//! Logs: one subscriber for every program, to standard error, as lines for people or as JSON for machines.

use std::io::IsTerminal;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging; `filter` is in the syntax of `RUST_LOG`, such as `info` or `purchase=debug`: levels by target. There are
/// no spans to filter by, so the filter that needs regular expressions is not built in.
pub fn start(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter: Targets = filter.parse()?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        registry.with(lines.json().flatten_event(true)).init()
    } else {
        registry.with(lines).init()
    }
    Ok(())
}
