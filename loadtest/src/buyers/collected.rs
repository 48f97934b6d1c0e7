//! Which requests go together in a message. Pure.
//!
//! As of somebody who stands before the queue with many buyers in hand: what is due of an item is collected until a message is
//! full, or nothing more is due. There is no timer: nobody waits for others.

use std::collections::HashMap;

pub(super) struct Collected {
    requests_max: usize,
    /// What is due and not sent, in order; by item.
    of_items: HashMap<u32, Vec<usize>>,
}

impl Collected {
    /// For messages of at most so many requests.
    pub(super) fn new(requests_max: usize) -> Self {
        Self { requests_max, of_items: HashMap::new() }
    }

    /// Takes in a request for this item that is due; returns all of its message, if that is full now.
    pub(super) fn add(&mut self, item: u32, index: usize) -> Option<Vec<usize>> {
        let requests = self.of_items.entry(item).or_default();
        requests.push(index);
        if requests.len() >= self.requests_max { self.of_items.remove(&item) } else { None }
    }

    /// What is in no full message, by whoever has waited longest.
    pub(super) fn rest(&mut self) -> Vec<Vec<usize>> {
        let mut rest: Vec<Vec<usize>> = self.of_items.drain().map(|(_, requests)| requests).collect();
        rest.sort_unstable();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_message_goes_at_once_and_the_rest_with_who_came_first_and_each_is_of_one_item() {
        let mut collected = Collected::new(3);
        let items = [7, 5, 7, 5, 9, 7, 7, 5];
        let full: Vec<_> = items.into_iter().zip(0..).filter_map(|(item, index)| collected.add(item, index)).collect();
        assert_eq!(full, [vec![0, 2, 5], vec![1, 3, 7]]);
        assert_eq!(collected.add(9, 8), None);
        assert_eq!(collected.rest(), [vec![4, 8], vec![6]]);
        assert_eq!(collected.rest(), [[0; 0]; 0]);
        assert_eq!(Collected::new(1).add(7, 3), Some(vec![3]));
    }
}
