//! A result on standard output, and as JSON in a file.

use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::failure::Failure;

/// Prints the result for people and writes it as JSON to the file; `-` prints the JSON alone.
pub(crate) fn write(
    result: &impl Serialize,
    json: Option<&Path>,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let pretty = serde_json::to_string_pretty(result).context("write the result as JSON").map_err(Failure::Broken)?;
    if json.is_some_and(|path| path.as_os_str() == "-") {
        return print(&(pretty + "\n"));
    }
    print(&text())?;
    if let Some(path) = json {
        let written = std::fs::write(path, pretty + "\n");
        written.with_context(|| format!("write {}", path.display())).map_err(Failure::Broken)?;
    }
    Ok(())
}

/// A reader who has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Broken(error.into())),
        Ok(()) | Err(_) => Ok(()),
    }
}
