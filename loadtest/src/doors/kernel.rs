//! What the kernel counts of a crowd of connections.
//!
//! Reads `/proc`, and changes nothing. Invariant: what cannot be read is left out, or is no change: a kernel without these
//! files measures nothing wrong, only less.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Sub;

/// Where the counters of this network namespace are.
const COUNTERS: &str = "/proc/net/netstat";
/// What their lines begin with: one of names, then one of figures.
const COUNTERS_OF_TCP: &str = "TcpExt:";

/// What the kernel has counted, on all ports of this machine (or of this network namespace).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Connection attempts that were dropped.
    pub(super) listen_drops: u64,
    /// Those of them that met a full queue of established connections.
    pub(super) listen_overflows: u64,
    /// SYNs that were sent again.
    pub(super) syn_retransmits: u64,
}

impl Counters {
    /// As they are now.
    pub(super) fn read() -> Self {
        Self::parse(&fs::read_to_string(COUNTERS).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(COUNTERS_OF_TCP));
        let (names, figures) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let counters: BTreeMap<&str, &str> = names.split_whitespace().zip(figures.split_whitespace()).collect();
        let of = |name: &str| counters.get(name).and_then(|figure| figure.parse().ok()).unwrap_or(0);
        Self {
            listen_drops: of("ListenDrops"),
            listen_overflows: of("ListenOverflows"),
            syn_retransmits: of("TCPSynRetrans"),
        }
    }
}

impl Sub for Counters {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            listen_drops: self.listen_drops.saturating_sub(before.listen_drops),
            listen_overflows: self.listen_overflows.saturating_sub(before.listen_overflows),
            syn_retransmits: self.syn_retransmits.saturating_sub(before.syn_retransmits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name_wherever_they_stand() {
        let text = "TcpExt: SyncookiesSent ListenOverflows ListenDrops Other TCPSynRetrans\n\
                    TcpExt: 1 20 30 4 50\nIpExt: ListenDrops\nIpExt: 9\n";
        let counters = Counters::parse(text);
        assert_eq!(counters, Counters { listen_drops: 30, listen_overflows: 20, syn_retransmits: 50 });
        assert_eq!(Counters::parse(""), Counters::default());
    }
}
