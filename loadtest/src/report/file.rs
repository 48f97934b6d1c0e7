//! The file that a report is written to: tried before the work that it is to report begins.
//!
//! Invariant: a file that was there before is untouched until the report is written; one that was not, is gone if none is.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::failure::Failure;

/// A file that can be written.
#[derive(Debug)]
pub(crate) struct ReportFile {
    path: PathBuf,
    /// Whether it is ours to remove.
    is_new: bool,
}

impl ReportFile {
    /// Sees to it that the file can be written, where one is asked for.
    ///
    /// # Errors
    /// It cannot; the text says why.
    pub(crate) fn open(path: Option<&Path>) -> Result<Option<Self>, Failure> {
        path.map(Self::try_open).transpose()
    }

    fn try_open(path: &Path) -> Result<Self, Failure> {
        let created = OpenOptions::new().write(true).create_new(true).open(path);
        let (opened, is_new) = match created {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (OpenOptions::new().append(true).open(path), false)
            }
            created => (created, true),
        };
        let cannot = || format!("--report cannot be written to {}; nothing was run", path.display());
        opened.with_context(cannot).map_err(Failure::Configuration)?;
        Ok(Self { path: path.to_owned(), is_new })
    }

    /// Writes the report.
    ///
    /// # Errors
    /// The disk is full, or the file is not what it was.
    pub(crate) fn write(mut self, html: &str) -> Result<(), Failure> {
        self.is_new = false;
        let written = fs::write(&self.path, html);
        written.with_context(|| format!("write {}", self.path.display())).map_err(Failure::Broken)
    }
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        if self.is_new
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "an empty report is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_new_folder<T>(test: impl FnOnce(&Path) -> T) -> T {
        let folder = std::env::temp_dir().join(format!("turnstile-report-{}", uuid::Uuid::now_v7().simple()));
        fs::create_dir(&folder).unwrap();
        let result = test(&folder.join("report.html"));
        fs::remove_dir_all(&folder).unwrap();
        result
    }

    #[test]
    fn a_file_that_cannot_be_written_is_found_out_at_once() {
        in_new_folder(|path| {
            for path in [path.parent().unwrap(), &path.join("missing")] {
                let failure = ReportFile::open(Some(path)).unwrap_err();
                let text = failure.to_string();
                assert!(matches!(failure, Failure::Configuration(_)) && text.contains("nothing was run"), "{text}");
            }
        });
    }

    #[test]
    fn what_was_there_stays_until_the_report_is_written_and_a_new_file_does_not_stay_empty() {
        in_new_folder(|path| {
            drop(ReportFile::open(Some(path)).unwrap());
            assert!(!path.exists());
            fs::write(path, "a longer report than the next").unwrap();
            drop(ReportFile::open(Some(path)).unwrap());
            assert_eq!(fs::read_to_string(path).unwrap(), "a longer report than the next");
            ReportFile::open(Some(path)).unwrap().unwrap().write("new").unwrap();
            assert_eq!(fs::read_to_string(path).unwrap(), "new");
        });
    }
}
