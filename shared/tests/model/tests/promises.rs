//! No order of the protocol's steps breaks a promise; and with a bug in it, the checker finds one that does.

use model::{Bug, Protocol, Published};
use stateright::{Checker, HasDiscoveries, Model};

/// So that a model in which nothing happens does not pass.
const MEETS: &str = "a decision meets a newer version";

/// Messages of these partitions and requests, in this order; the poison by its places.
fn published(messages: &[(usize, usize)], poison: &[usize]) -> Vec<Published> {
    let each = messages.iter().enumerate();
    each.map(|(place, &(partition, request))| Published { partition, request, is_poison: poison.contains(&place) })
        .collect()
}

/// Five purchases of one item; a request is sent twice.
fn one_item() -> Protocol {
    Protocol {
        workers: 2,
        window: 2,
        messages: published(&[(0, 0), (0, 1), (0, 1), (0, 2), (0, 3)], &[]),
        stock: 1,
        faults: 2,
        moves: 1,
        delivery_limit: 30,
        bug: None,
    }
}

/// Purchases of two items, each in a partition of its own.
fn two_items(window: usize, messages: &[(usize, usize)]) -> Protocol {
    Protocol { window, messages: published(messages, &[]), moves: 0, ..one_item() }
}

/// Four purchases of one item, some of which kill whoever takes them in hand.
fn poisoned(workers: usize, poison: &[usize], faults: u8, delivery_limit: u8) -> Protocol {
    let messages = published(&[(0, 0), (0, 1), (0, 2), (0, 3)], poison);
    Protocol { workers, window: 3, messages, faults, moves: 0, delivery_limit, ..one_item() }
}

/// What the checker finds, in an order of steps for each: a promise that is broken, or the one thing that should be met with.
fn found(protocol: Protocol, until: HasDiscoveries) -> Vec<&'static str> {
    let checker = protocol.checker().threads(2).finish_when(until).symmetry().spawn_dfs().join();
    println!("{} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
    let found = checker.discoveries().into_iter();
    found.inspect(|(name, path)| println!("{name}: {:?}", path.clone().into_actions())).map(|(name, _)| name).collect()
}

#[test]
fn no_order_of_steps_breaks_a_promise() {
    for protocol in [
        one_item(),
        Protocol { workers: 3, messages: published(&[(0, 0), (0, 1), (0, 2), (0, 3)], &[]), moves: 0, ..one_item() },
        two_items(2, &[(0, 0), (1, 1), (0, 2)]),
        two_items(1, &[(0, 0), (1, 1), (0, 2), (1, 3)]),
    ] {
        assert_eq!(found(protocol, HasDiscoveries::AnyFailures), [MEETS]);
    }
}

/// A fault charges what is under way three deliveries at most, each worker one, and each message that kills one.
#[test]
fn no_order_of_steps_brings_an_innocent_into_dead() {
    for protocol in [
        poisoned(1, &[0], 0, 4),
        poisoned(1, &[1], 1, 7),
        poisoned(1, &[0, 2], 1, 8),
        poisoned(2, &[0], 0, 4),
        poisoned(2, &[1], 1, 7),
        poisoned(2, &[0, 2], 1, 8),
        poisoned(3, &[0], 0, 4),
    ] {
        let broken = |protocol| {
            let found = found(protocol, HasDiscoveries::AnyFailures);
            found.into_iter().filter(|name| *name != MEETS).collect::<Vec<_>>()
        };
        assert_eq!(broken(protocol.clone()), [""; 0]);
        let delivery_limit = protocol.delivery_limit - 1;
        assert_eq!(broken(Protocol { delivery_limit, ..protocol }), ["no innocent in `dead`"]);
    }
}

#[test]
fn a_bug_in_the_protocol_breaks_a_promise_and_is_found() {
    for (bug, protocol, promise) in [
        (Bug::NoVersionCheck, one_item(), "never oversold"),
        (Bug::NoVersionCheck, one_item(), "no false `sold_out`"),
        (Bug::NoRequestIdCheck, one_item(), "one verdict for a request"),
        (Bug::AcknowledgedBeforeConfirm, one_item(), "nothing is lost"),
        (Bug::OrderlyClose, one_item(), "first come, first served"),
        (Bug::HandedOverEarly, one_item(), "first come, first served"),
        (Bug::ShortConsumerTimeout, one_item(), "first come, first served"),
        (Bug::CareOfAll, one_item(), "first come, first served"),
        (Bug::NoCare, poisoned(2, &[0], 0, 4), "no innocent in `dead`"),
        (Bug::LimitOfOneWorker, poisoned(3, &[0], 0, 4), "no innocent in `dead`"),
    ] {
        let found = found(Protocol { bug: Some(bug), ..protocol }, HasDiscoveries::AllOf([promise].into()));
        assert!(found.contains(&promise), "{bug:?} breaks another promise than {promise}: {found:?}");
    }
}
