//! How many files this process, and every process that it starts, may have open: a connection is a file.

use anyhow::anyhow;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::failure::Failure;

/// What a process has open beside the crowd's connections, generously.
const BESIDE: u64 = 1_000;

/// Raises the limit where it is too low for so many connections: within the hard limit anybody may, above it root may.
///
/// # Errors
/// The system does not allow it.
pub(crate) fn allow(connections: u32) -> Result<(), Failure> {
    let needed = u64::from(connections) + BESIDE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| Failure::Broken(error.into()))?;
    if soft >= needed {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).map_err(|error| {
        Failure::Configuration(anyhow!(
            "{connections} buyers with a connection each need {needed} open files, and the system allows {hard} ({error}); \
             raise the hard limit (`ulimit -Hn {needed}` as root, or LimitNOFILE= of the service), or send fewer buyers"
        ))
    })
}
