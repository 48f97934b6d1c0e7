//! Who is counted, who subscribes to what, and what is handed over.

use super::*;
use std::collections::HashSet;

#[test]
fn who_was_heard_lately_is_counted_once_and_who_is_silent_no_more() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut members = Members::default();
    assert_eq!(members.count(), 1, "there is always one worker: we");
    for (worker, ms) in [("a", 0), ("b", 100), ("a", 500), ("a", 1_000)] {
        members.heard(worker.into(), worker == "b", at(ms));
    }
    members.forget(at(1_600));
    assert_eq!(members.place_of(b"a"), Place { workers: 2, rank: 0, in_line: 1 }, "b is still joining");
    members.heard("b".into(), false, at(1_600));
    assert_eq!(members.place_of(b"b"), Place { workers: 2, rank: 1, in_line: 2 });
    members.forget(at(2_501));
    assert_eq!(members.count(), 1, "a was silent for three waits and more");
    members.forget(at(60_000));
    assert_eq!(members.count(), 1);
}

#[test]
fn many_workers_say_it_less_often() {
    let mut members = Members::default();
    for worker in 0..64_u8 {
        assert_eq!(members.heard(vec![worker], false, Instant::now()), Heard::New);
    }
    assert_eq!(members.wait(), Duration::from_secs(4));
    assert!(f64::from(64) / members.wait().as_secs_f64() <= f64::from(HEARTBEATS_A_SECOND_MAX));
}

#[test]
fn no_more_workers_are_counted_than_there_can_be() {
    let mut members = Members::default();
    for number in 0..=WORKERS_MAX {
        let expected = if number < WORKERS_MAX { Heard::New } else { Heard::TooMany };
        assert_eq!(members.heard(number.to_be_bytes().to_vec(), false, Instant::now()), expected);
    }
    assert_eq!(members.heard(0_usize.to_be_bytes().to_vec(), false, Instant::now()), Heard::Known);
    assert_eq!(members.count(), WORKERS_MAX);
}

/// Takes what is free, up to the end; (taken, got in line for).
fn subscribe(seed: u64, place: Option<Place>, is_free: impl Fn(usize) -> bool) -> (Vec<usize>, Vec<usize>) {
    let (mut taken, mut in_line) = (Vec::new(), Vec::new());
    let mut subscribing = Subscribing::of(8, seed);
    while let Some(step) = subscribing.step(place) {
        match step {
            Step::TakeIfFree(partition) if is_free(partition) => {
                subscribing.took(partition);
                taken.push(partition);
            }
            Step::TakeIfFree(_) | Step::Wait => (),
            Step::GetInLine(partition) => in_line.push(partition),
        }
    }
    assert!(subscribing.is_over());
    (taken, in_line)
}

#[test]
fn every_partition_is_subscribed_to_once_whatever_others_have() {
    for seed in 0..100 {
        for (workers, free) in [(0, 8), (1, 8), (2, 8), (2, 3), (3, 8), (9, 8), (8, 0)] {
            let place = (workers > 0).then(|| Place { workers, rank: workers - 1, in_line: 1 });
            let (taken, in_line) = subscribe(seed, place, |partition| partition < free);
            let share = 8_usize.div_ceil(workers.max(1));
            assert_eq!(
                taken.len(),
                free.min(share),
                "its share of what is free, no more; a lone worker takes everything"
            );
            let mut all = [taken, in_line].concat();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4, 5, 6, 7]);
        }
    }
}

#[test]
fn workers_that_know_of_each_other_take_different_partitions_and_stand_in_line_where_chance_puts_them() {
    for workers in [2, 3, 4, 8] {
        let taken = |rank| subscribe(rank as u64, Some(Place { workers, rank, in_line: 1 }), |_| true).0;
        let firsts: Vec<usize> = (0..workers).flat_map(|rank| taken(rank)[..8 / workers].to_vec()).collect();
        let different: HashSet<usize> = firsts.iter().copied().collect();
        assert_eq!(different.len(), firsts.len(), "{workers}: {firsts:?}");
    }
    let place = Some(Place { workers: 8, rank: 0, in_line: 1 });
    let firsts: HashSet<usize> = (0..100).map(|seed| subscribe(seed, place, |_| true).1[0]).collect();
    assert!(firsts.len() > 1);
}

#[test]
fn what_came_last_goes_first_and_only_down_to_the_share() {
    let start = Instant::now();
    let mut shares = Shares::of(8);
    for partition in 0..8 {
        assert!(shares.took(partition, 1, false, start + Duration::from_millis(partition as u64)), "it is new to us");
    }
    let now = start + Duration::from_secs(1);
    assert!(shares.surplus(now).is_empty(), "a lone worker keeps everything");
    assert!(shares.set_workers(3));
    assert_eq!(shares.surplus(now), [3, 4, 5, 6, 7], "eight partitions, three workers: three each at most");
    shares.surplus(now).into_iter().for_each(|partition| shares.hold(partition));
    assert!(shares.surplus(now).is_empty(), "what is on its way out is counted out");
    assert!(shares.set_workers(8));
    assert_eq!(shares.surplus(now), [1, 2]);
    assert!(shares.set_workers(0), "the others left");
    assert!(shares.surplus(now).is_empty(), "there is always one worker: we");
    assert!(!shares.set_workers(1), "as before");
}

#[test]
fn a_quiet_partition_is_not_surplus_but_claimed_until_it_is_handed_over() {
    let now = Instant::now();
    let mut shares = Shares::of(3);
    assert!(shares.set_workers(1), "we are counted for the first time");
    assert!(shares.set_workers(3) && !shares.set_workers(3), "more, and as many");
    assert!(shares.claimed().is_empty());
    shares.took(2, 1, false, now);
    shares.took(0, 1, false, now);
    assert_eq!((shares.surplus(now).len(), shares.claimed()), (1, vec![0, 2]));
    assert!(shares.surplus(now + Duration::from_secs(ACTIVE_SECONDS)).is_empty());
    shares.hold(2);
    assert_eq!(shares.claimed(), [0, 2], "it is ours until it is handed over");
    shares.handed_over(2);
    assert_eq!(shares.claimed(), [0]);
    shares.took(2, 2, false, now);
    assert_eq!(shares.claimed(), [0, 2], "it came back to us");
}

#[test]
fn a_partition_is_handed_over_after_a_whole_window_since_it_was_held() {
    let now = Instant::now();
    let mut shares = Shares::of(1);
    (1..=5).for_each(|tag| assert_eq!(shares.took(0, tag, false, now), tag == 1));
    shares.hold(0);
    (6..=8).for_each(|tag| assert!(!shares.took(0, tag, false, now)));
    assert!(shares.full(4).is_empty());
    assert_eq!(shares.unfilled(4), [(0, 2)]);
    assert!(shares.unfilled(4).is_empty(), "once is enough");
    shares.not_filled();
    assert_eq!(shares.unfilled(4), [(0, 2)], "unless it did not come");
    shares.took(0, 9, false, now);
    assert_eq!(shares.full(4), [(0, 9)]);
    shares.handed_over(0);
    assert!(shares.held().is_empty() && shares.full(4).is_empty());
}

#[test]
fn what_is_held_is_known_one_by_one_and_what_was_acknowledged_before_is_not_among_it() {
    let now = Instant::now();
    let mut shares = Shares::of(2);
    for tag in 1..=5 {
        shares.took(0, tag, false, now);
    }
    shares.took(1, 1, false, now);
    shares.hold(0);
    shares.hold(1);
    assert_eq!(shares.held_tags().count(), 0, "what was taken before is acknowledged already");
    for tag in 6..=8 {
        shares.took(0, tag, false, now);
    }
    assert!(shares.held_tags().eq([(0, 6), (0, 7), (0, 8)]));
    shares.keep(0);
    assert!(shares.held_tags().count() == 0 && shares.held() == [1]);
}
