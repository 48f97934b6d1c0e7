//! Free loopback ports for servers that must be told theirs.
//!
//! They lie below the range that systems take for outgoing connections (from 32768 on Linux, 49152 elsewhere): while a
//! server restarts, no client's connection can take its port, nor connect to itself by taking it as both of its ends.
//!
//! Invariant: every port returned could be bound a moment ago, and no two are equal. Another program may still be faster.

use anyhow::{Result, bail};
use std::net::{Ipv4Addr, TcpListener};

const FIRST: u16 = 15_000;
const COUNT: u16 = 17_000;
/// Ports tried for one that is free.
const TRIES_MAX: usize = 200;

/// So many free ports.
pub(super) fn free(count: usize) -> Result<Vec<u16>> {
    let mut held: Vec<TcpListener> = Vec::new();
    for _ in 0..count {
        let mut tries = (0..TRIES_MAX).filter_map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, random_port())).ok());
        let Some(listener) = tries.next() else { bail!("{TRIES_MAX} random ports from {FIRST} on were all taken") };
        held.push(listener);
    }
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn random_port() -> u16 {
    let random = uuid::Uuid::now_v7().as_u64_pair().1 % u64::from(COUNT);
    FIRST + u16::try_from(random).expect("it is smaller than a number of ports")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_distinct_and_can_be_bound() {
        let ports = free(8).unwrap();
        let listeners: Vec<_> = ports.iter().map(|port| TcpListener::bind(("127.0.0.1", *port)).unwrap()).collect();
        assert_eq!(listeners.len(), 8);
        assert!(ports.iter().all(|port| (FIRST..FIRST + COUNT).contains(port)));
    }
}
