//! Bodies of messages that are under way to us. Large ones wait in a file, so that a full window of them takes disk and not
//! memory: a smaller window is no way out, as it would lose the order of what comes back after a crash.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

/// The largest body that is kept in memory, in bytes: requests have some hundred. 8 partitions × 2,000 messages of this size
/// are 64 MB, and as much again where their headers are as large as those may be.
const IN_MEMORY_BYTES_MAX: usize = 4 * 1024;
/// How much goes into one file, in bytes. Its space is free again with the last of its bodies.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The body of a message, as it was sent.
#[derive(Debug, Clone)]
pub struct Body(Place);

#[derive(Debug, Clone)]
enum Place {
    Memory(Vec<u8>),
    File { file: Arc<File>, offset: u64, bytes: usize },
}

impl Body {
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        match &self.0 {
            Place::Memory(bytes) => bytes.len(),
            Place::File { bytes, .. } => *bytes,
        }
    }

    /// # Errors
    /// The disk's.
    pub fn read(&self) -> io::Result<Cow<'_, [u8]>> {
        match &self.0 {
            Place::Memory(bytes) => Ok(Cow::Borrowed(bytes)),
            Place::File { file, offset, bytes } => {
                let mut body = vec![0; *bytes];
                file.read_exact_at(&mut body, *offset)?;
                Ok(Cow::Owned(body))
            }
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Place::Memory(bytes))
    }
}

/// Where the large bodies of one subscription wait. Its files have no name, and end with the process.
#[derive(Debug, Default)]
pub(super) struct Spool {
    /// The current file, and how much of it is taken.
    file: Option<(Arc<File>, u64)>,
    /// Whether it was said that there is no room for them.
    is_told: bool,
}

impl Spool {
    pub(super) fn keep(&mut self, body: Vec<u8>) -> Body {
        if body.len() <= IN_MEMORY_BYTES_MAX {
            return body.into();
        }
        match self.write(&body) {
            Ok(place) => Body(place),
            Err(error) => {
                if !std::mem::replace(&mut self.is_told, true) {
                    let folder = std::env::temp_dir();
                    tracing::warn!(%error, ?folder, "large messages cannot wait in files, and take memory (see TMPDIR)");
                }
                body.into()
            }
        }
    }

    fn write(&mut self, body: &[u8]) -> io::Result<Place> {
        let (file, offset) = match self.file.take() {
            Some((file, taken)) if taken < FILE_BYTES_MAX => (file, taken),
            Some(_) | None => (Arc::new(nameless_file()?), 0),
        };
        file.write_all_at(body, offset)?;
        self.file = Some((Arc::clone(&file), offset + body.len() as u64));
        Ok(Place::File { file, offset, bytes: body.len() })
    }
}

/// A file that is there for as long as it is open, and that nobody else can.
fn nameless_file() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("turnstile-{:016x}", fastrand::u64(..)));
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Weak;

    #[test]
    fn large_bodies_wait_in_files_whose_space_is_free_again_with_the_last_of_them() {
        let mut spool = Spool::default();
        let sent: Vec<_> = (0..600u32).map(|number| vec![number as u8; 40 * 1024 + number as usize]).collect();
        let kept: Vec<_> = sent.iter().map(|body| spool.keep(body.clone())).collect();
        let mut files: Vec<Weak<File>> = Vec::new();
        for (body, sent) in kept.iter().zip(&sent) {
            assert_eq!(body.clone().read().unwrap(), *sent);
            let Place::File { file, .. } = &body.0 else { panic!("it is in memory") };
            if files.last().is_none_or(|last| last.as_ptr() != Arc::as_ptr(file)) {
                files.push(Arc::downgrade(file));
            }
        }
        assert_eq!(files.len(), 2, "24 MB");
        drop(kept);
        assert_eq!(files.iter().filter(|file| file.strong_count() > 0).count(), 1, "the one that goes on");
    }

    #[test]
    fn small_bodies_stay_in_memory() {
        for bytes in [0, 300, IN_MEMORY_BYTES_MAX] {
            let body = Spool::default().keep(vec![7; bytes]);
            assert!(matches!(&body.0, Place::Memory(kept) if kept.len() == bytes));
            assert_eq!(body.is_empty(), bytes == 0);
        }
    }
}
