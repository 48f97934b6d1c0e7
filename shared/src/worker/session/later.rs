//! What is delivered and waits for a row: how much of it is read each time that it is tried again. Pure.
//!
//! Invariant: within a line, nothing is read before what came before it; and each line has its turn, whatever waits in others.

use crate::amqp::Delivery;
use std::collections::HashMap;

/// The most requests read again of what is not decided yet, in batches.
const LATER_BATCHES_MAX: usize = 8;

/// Takes out what is not to be read this time: behind a batch of requests in its line, which waits for those (second); and lines for
/// which there is no room, to be the first of the next time (first). Of a queue without lines, everything is read.
pub(super) fn behind_batches(batch: &mut Vec<Delivery>, batch_max: usize) -> (Vec<Delivery>, Vec<Delivery>) {
    // By partition and item: the requests so far, where there is room for the line.
    let (mut lines, mut all) = (HashMap::new(), 0);
    let mut is_behind = |delivery: &Delivery| {
        let has_room = all < LATER_BATCHES_MAX * batch_max;
        let line = lines.entry((delivery.partition, delivery.way().1.to_owned()));
        let line: &mut Option<usize> = line.or_insert(has_room.then_some(0));
        let Some(requests) = line else { return None };
        *requests += delivery.requests;
        let is_behind = *requests > batch_max && *requests > delivery.requests;
        all += if is_behind { 0 } else { delivery.requests };
        Some(is_behind)
    };
    let (mut without_room, mut behind) = (Vec::new(), Vec::new());
    for delivery in std::mem::take(batch) {
        match if delivery.has_line { is_behind(&delivery) } else { Some(false) } {
            Some(false) => batch.push(delivery),
            Some(true) => behind.push(delivery),
            None => without_room.push(delivery),
        }
    }
    (without_room, behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(batch: &[Delivery]) -> Vec<(usize, u64)> {
        batch.iter().map(|delivery| (delivery.partition, delivery.tag)).collect()
    }

    #[test]
    fn what_is_behind_a_batch_of_requests_waits_in_its_line_alone_and_lines_without_room_are_the_next() {
        let delivered =
            [(0, 1, 900), (1, 1, 5), (0, 2, 200), (0, 3, 1), (1, 2, 1), (2, 1, 9_000), (2, 2, 1), (3, 1, 1)];
        let mut batch: Vec<_> =
            delivered.map(|(partition, tag, requests)| Delivery::of(partition, tag, requests)).into();
        let (without_room, behind) = behind_batches(&mut batch, 1_000);
        assert_eq!(tags(&batch), [(0, 1), (1, 1), (1, 2), (2, 1)]);
        assert_eq!((tags(&without_room), tags(&behind)), (vec![(3, 1)], vec![(0, 2), (0, 3), (2, 2)]));

        let mut without_lines: Vec<_> = (0..9_000).map(|tag| Delivery::of(0, tag, 1)).collect();
        without_lines.iter_mut().for_each(|delivery| delivery.has_line = false);
        let (without_room, behind) = behind_batches(&mut without_lines, 1_000);
        assert_eq!((without_lines.len(), without_room.len(), behind.len()), (9_000, 0, 0));
    }
}
