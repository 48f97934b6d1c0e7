//! A result on standard output, and as JSON in a file.

use crate::failure::Failure;
use anyhow::Context;
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Prints the result for people and writes it as JSON to the file; `-` prints the JSON alone.
pub(crate) fn write(
    result: &impl Serialize,
    json: Option<&Path>,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let pretty = serde_json::to_string_pretty(result).context("write the result as JSON")? + "\n";
    let is_json_alone = json.is_some_and(|path| path.as_os_str() == "-");
    let printed = if is_json_alone { pretty.clone() } else { text() };
    match std::io::stdout().write_all(printed.as_bytes()) {
        // A reader who has seen enough (`| head`) is no failure.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(Failure::Broken(error.into())),
        Ok(()) | Err(_) => {}
    }
    if let Some(path) = json.filter(|_| !is_json_alone) {
        std::fs::write(path, pretty).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
