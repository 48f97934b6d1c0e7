//! Addresses of direct replies: what RabbitMQ puts in the place of `amq.rabbitmq.reply-to`, and a sender can write by hand. Pure.
//!
//! `amq.rabbitmq.reply-to.PROCESS.KEY`, PROCESS being an Erlang process id in base64, of a node that a number stands for. RabbitMQ
//! before 4.2 ends the connection of whoever publishes to one that it cannot make sense of.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// As Erlang reads it, which looks at no bits behind the last byte.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// The most nodes that are remembered: more are somebody's noise.
const NODES_MAX: usize = 1_000;
/// How long no other nodes are tried out after connections were lost to them, because to find out costs everybody time: at first,
/// and at most, twice as long each time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
const PREFIX: &str = "amq.rabbitmq.reply-to.";
/// More than any process id has that is written so: 32.
const BYTES_MAX: usize = 48;
/// What the external term format begins a process id with, and an atom: a long one, a short one.
const PROCESS_ID: [u8; 2] = [131, 88];
const ATOM: u8 = 118;
const SMALL_ATOM: u8 = 119;
/// What all nodes are called there, before their number.
const NODE_PREFIX: &[u8] = b"reply@";
/// Up to Erlang/OTP 25, a process id has no larger numbers.
const ID_BITS: u32 = 15;
const SERIAL_BITS: u32 = 13;

/// Which node a direct reply goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ReplyNode {
    pub(super) number: u32,
    /// Whether every RabbitMQ can make sense of the process id, where it knows the node.
    pub(super) is_plain: bool,
}

impl ReplyNode {
    /// Whether the node that has made this address can make sense of that one, too.
    pub(super) fn takes(self, other: Self) -> bool {
        self.number == other.number && (other.is_plain || !self.is_plain)
    }
}

/// The nodes that direct replies have reached, and how long no others are tried out. It outlives sessions, which senders can
/// make end.
#[derive(Debug, Default)]
pub(super) struct ReplyNodes {
    reached: HashSet<ReplyNode>,
    pause: Duration,
    paused_until: Option<Instant>,
}

impl ReplyNodes {
    pub(super) fn has(&self, node: ReplyNode) -> bool {
        self.reached.contains(&node)
    }

    pub(super) fn reached(&mut self, nodes: impl Iterator<Item = ReplyNode>) {
        self.reached.extend(nodes);
        if self.reached.len() > NODES_MAX {
            self.reached.clear();
        }
    }

    pub(super) fn forget(&mut self, nodes: impl Iterator<Item = ReplyNode>) {
        for node in nodes {
            self.reached.remove(&node);
        }
    }

    pub(super) fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// Notes how many connections were lost to nodes that were tried out.
    pub(super) fn tried_out(&mut self, losses: u32, now: Instant) {
        self.pause = if losses == 0 { Duration::ZERO } else { (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX) };
        self.paused_until = Some(now + self.pause);
    }
}

/// The node of an address of direct replies, `Err` where it is none that RabbitMQ has made; `None`: a queue like any other.
pub(super) fn reply_node(reply_to: &str) -> Option<Result<ReplyNode, ()>> {
    let address = reply_to.strip_prefix(PREFIX)?;
    let node = address.split_once('.').filter(|(_, key)| is_key(key)).and_then(|(process, _)| {
        let mut bytes = [0; BYTES_MAX];
        let length = BASE64.decode_slice(process, &mut bytes).ok()?;
        node_of(&bytes[..length])
    });
    Some(node.ok_or(()))
}

fn is_key(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
}

fn node_of(process: &[u8]) -> Option<ReplyNode> {
    let (length, rest) = match process.strip_prefix(&PROCESS_ID)? {
        [ATOM, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        [SMALL_ATOM, length, rest @ ..] => (usize::from(*length), rest),
        _ => return None,
    };
    let (name, numbers) = rest.split_at_checked(length)?;
    let digits = name.strip_prefix(NODE_PREFIX).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let number = std::str::from_utf8(digits).ok()?.parse().ok()?;
    // The last of the three tells a node that was started again from what it was.
    let (numbers, []) = numbers.as_chunks::<4>() else { return None };
    let [id, serial, _] = *numbers else { return None };
    let is_plain = u32::from_be_bytes(id) >> ID_BITS == 0 && u32::from_be_bytes(serial) >> SERIAL_BITS == 0;
    Some(ReplyNode { number, is_plain })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(address: &str) -> Option<Result<ReplyNode, ()>> {
        reply_node(&format!("{PREFIX}{address}"))
    }

    #[test]
    fn what_rabbitmq_has_made_is_told_from_what_was_made_up() {
        let of = |number, is_plain| Some(Ok(ReplyNode { number, is_plain }));
        // Of 3.10.8 on Erlang/OTP 25, of 4.2 on a later one, whose process ids are larger, and of a node that is not there.
        assert_eq!(node("g1h2AA5yZXBseUAyNDk3MDU4OQAAAAkAAAAAawx4sA==.AAECAwQFBgcICQoLDA0ODw=="), of(24_970_589, true));
        assert_eq!(node("g1h2AA5yZXBseUAyNzc5NjQyMAAAC1oAAAAAZo4bIw==.+Uvn1EmAp0ZA+oQx2yoQFA=="), of(27_796_420, true));
        assert_eq!(node("g1h2AA5yZXBseUAyNDk3MDU4OQD//wkAAAAAawx4sA==.AAEC"), of(24_970_589, false));
        assert_eq!(node("g1h2AAdyZXBseUAxAAAAAQAAAAAAAAAB.AAEC"), of(1, true));
        for made_up in [
            "AAAA.BBBB",
            "!!.x",
            "",
            ".",
            "AAAA",
            "g1h2AA5yZXBseUAyNDk3MDU4OQAAAAkAAAAAawx4sA==",
            "g1h2AA5yZXBseUAyNDk3MDU4OQAAAAkAAAAAawx4sA==.",
            "g1h2AA5yZXBseUAyNDk3MDU4OQAAAAkAAAAAawx4sA==.AA.EC",
            "g1h2AA5yZXBseUAyNDk3MDU4OQAAAAkAAAAAawx4sA==.AA EC",
            "g1h2AA5yZXBseUAyNDk3MDU4OQAAAAkAAAAAawx4sA=.AAEC",
            "g1h2AA5yZXBseUAyNDk3MDU4OQAAAAkAAAAA.AAEC",
            // An atom, another node's name, a number that is none.
            "g3cBYQ==.AAEC",
            "g1h2AA5SZXBseUAyNDk3MDU4OQAAAAkAAAAAawx4sA==.AAEC",
            "g1h2AAdyZXBseUArAAAAAQAAAAAAAAAB.AAEC",
        ] {
            assert_eq!(node(made_up), Some(Err(())), "{made_up}");
        }
        assert_eq!(node(&format!("{}.AAEC", "A".repeat(200))), Some(Err(())));
        assert_eq!(reply_node("amq.gen-JzTY20BRgKO"), None);
    }

    #[test]
    fn a_node_takes_no_larger_process_ids_than_it_was_seen_to_have() {
        let (of_old, of_later) = (ReplyNode { number: 1, is_plain: true }, ReplyNode { number: 1, is_plain: false });
        assert!(of_old.takes(of_old) && of_later.takes(of_old) && of_later.takes(of_later) && !of_old.takes(of_later));
        assert!(!of_later.takes(ReplyNode { number: 2, is_plain: true }));
        let mut nodes = ReplyNodes::default();
        nodes.reached([of_old].into_iter());
        assert!(nodes.has(of_old) && !nodes.has(of_later));
        nodes.forget([of_old].into_iter());
        assert!(!nodes.has(of_old));
    }

    #[test]
    fn the_pause_doubles_up_to_a_minute_while_connections_are_lost() {
        let (mut nodes, mut now) = (ReplyNodes::default(), Instant::now());
        assert!(!nodes.is_paused(now));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            nodes.tried_out(4, now);
            now += Duration::from_secs(seconds);
            assert!(nodes.is_paused(now - Duration::from_millis(1)) && !nodes.is_paused(now), "{seconds}");
        }
        nodes.tried_out(0, now);
        assert!(!nodes.is_paused(now));
        nodes.tried_out(1, now);
        assert!(!nodes.is_paused(now + PAUSE_MIN), "it begins anew");
    }
}
