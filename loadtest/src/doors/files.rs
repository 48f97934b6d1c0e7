//! How many files a process may have open: a connection is a file.

use anyhow::{Context, anyhow};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::failure::Failure;

/// What a process of the crowd has open beside its buyers' connections, generously.
const BESIDE: u64 = 200;
/// The most processes that a crowd is spread over.
const PROCESSES_MAX: u64 = 64;

/// Raises this process's limit as far as it may.
///
/// # Errors
/// The system refuses.
pub(super) fn allow_most() -> Result<(), Failure> {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    raised.context("raise the limit of open files").map_err(Failure::Broken)
}

/// Over how many processes so many buyers must be spread, so that each has a connection.
///
/// # Errors
/// The system allows too few files for that.
pub(crate) fn processes_for(buyers: u32) -> Result<usize, Failure> {
    let limits = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files").map_err(Failure::Broken)?;
    let (_, hard) = limits;
    spread(buyers, hard).ok_or_else(|| {
        Failure::Configuration(anyhow!(
            "{buyers} buyers with a connection each do not fit into {PROCESSES_MAX} processes of {hard} open files; raise the \
             hard limit (`ulimit -Hn`, or LimitNOFILE= of the service), or send fewer buyers"
        ))
    })
}

fn spread(buyers: u32, files: u64) -> Option<usize> {
    let each = files.checked_sub(BESIDE).filter(|each| *each > 0)?;
    let processes = u64::from(buyers).div_ceil(each);
    usize::try_from(processes).ok().filter(|_| processes <= PROCESSES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_spread_over_as_few_processes_as_can_have_its_connections() {
        assert_eq!(spread(1, 1_024), Some(1));
        assert_eq!(spread(19_800, 20_000), Some(1));
        assert_eq!(spread(19_801, 20_000), Some(2));
        assert_eq!(spread(1, 200), None, "no file is left for a buyer");
        assert_eq!(spread(65, 201), None, "more processes than anybody wants");
        assert_eq!(spread(u32::MAX, u64::MAX), Some(1), "without a limit");
    }
}
