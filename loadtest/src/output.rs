//! A result on standard output, and as JSON in a file; and whether files can be written that are asked for.

use crate::failure::Failure;
use anyhow::Context;
use serde::Serialize;
use std::fs::{self, OpenOptions};
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
    // One that fails does not cost the other.
    let write = |path: &Path| fs::write(path, pretty).with_context(|| format!("write {}", path.display()));
    let written = json.filter(|_| !is_json_alone).map_or(Ok(()), write);
    let printed = match std::io::stdout().write_all(printed.as_bytes()) {
        // A reader who has seen enough (`| head`) is no failure.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::Broken(error.into())),
        Ok(()) | Err(_) => Ok(()),
    };
    written?;
    printed
}

/// Sees to it that these files can be written, where they are asked for, before the work begins. Leaves everything as it was.
pub(crate) fn assert_writable(json: Option<&Path>, report: Option<&Path>) -> Result<(), Failure> {
    let json = json.filter(|path| path.as_os_str() != "-");
    for (option, path) in [("--json", json), ("--report", report)] {
        // Of a pipe, whoever reads would take it for the end.
        let Some(path) = path.filter(|path| !path.exists() || path.is_file()) else { continue };
        let is_new = path.symlink_metadata().is_err();
        let cannot = || format!("{option} cannot be written to {}; nothing was run", path.display());
        let opened = OpenOptions::new().append(true).create(true).open(path);
        opened.with_context(cannot).map_err(Failure::Configuration)?;
        if is_new {
            fs::remove_file(path).ok();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_stays_until_it_is_written_and_a_new_file_does_not_stay_empty() {
        let path = &std::env::temp_dir().join(format!("turnstile-result-{}", uuid::Uuid::now_v7().simple()));
        for (json, report) in [(Some(path.as_path()), None), (None, Some(path.as_path()))] {
            assert_writable(json, report).unwrap();
            assert!(!path.exists());
            fs::write(path, "a longer result than the next").unwrap();
            assert_writable(json, report).unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), "a longer result than the next");
            fs::remove_file(path).unwrap();
        }
        write(&"new", Some(path), String::new).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "\"new\"\n");
        fs::remove_file(path).unwrap();
        let nowhere = path.join("x");
        for (json, report, option) in [(Some(&*nowhere), None, "--json"), (None, Some(&*nowhere), "--report")] {
            let said = assert_writable(json, report).unwrap_err().to_string();
            assert!(said.starts_with(&format!("{option} cannot be written to")), "{said}");
        }
    }
}
