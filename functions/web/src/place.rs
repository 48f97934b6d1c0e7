//! Places in line: how many requests are in front of one, how fast they are decided, and whether that is all that is known. Pure.
//!
//! A door knows what it has published for an item, in which order, and what of it is decided. In front of a request there may be others
//! besides: of other doors, and of whoever else publishes. Those nobody tells it of; but workers say how many verdicts they have
//! reached, and where that is more than the door was told, somebody else publishes, or did within a minute: then a place is *not known*,
//! and what is said is the least that it can be. So it is where no worker is heard.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

/// How far back it is looked to see how fast a line moves, in how many steps.
const PACE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(250);
/// For how long a place is not known once something did not add up.
const DOUBT: Duration = Duration::from_secs(60);
/// Workers that were not heard for so long are not there; and for so long nobody is heard out at first.
const HEARD: Duration = Duration::from_secs(3);

/// The line of an item, as this door has made it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    published: u64,
    /// The last place that is known to be decided: so are those before it.
    decided: u64,
    /// Where it was when, from a while ago on.
    marks: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// The place of one more.
    pub(crate) fn publish(&mut self, now: Instant) -> u64 {
        self.mark(now);
        self.published += 1;
        self.published
    }

    pub(crate) fn decide(&mut self, place: u64, now: Instant) {
        self.mark(now);
        self.decided = self.decided.max(place);
    }

    fn mark(&mut self, now: Instant) {
        while self.marks.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= PACE) {
            self.marks.pop_front();
        }
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= STEP) {
            self.marks.push_back((now, self.decided));
        }
    }

    /// How many are in front of this place, and how long it will be until it is decided, in milliseconds, at the pace of late; `None`
    /// where nothing was decided of late.
    pub(crate) fn ahead(&self, place: u64, now: Instant) -> (u64, Option<u64>) {
        let ahead = (place - 1).saturating_sub(self.decided);
        let since = self.marks.iter().find(|(at, _)| now.duration_since(*at) <= PACE);
        let wait_ms = since.and_then(|(at, then)| {
            let elapsed_ms = u64::try_from(now.duration_since(*at).max(STEP).as_millis()).ok()?;
            ((ahead + 1) * elapsed_ms).checked_div(self.decided - then)
        });
        (ahead, wait_ms)
    }
}

/// Whether what workers say they have decided is what this door was told.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// By its process: how many verdicts each worker has reached, as it said last.
    workers: HashMap<String, u64>,
    /// All that was reached since we listen, less what we were told.
    excess: i64,
    /// How many we had been told at the last look.
    told: u64,
    /// When we were told something for the last time.
    told_at: Option<Instant>,
    since: Option<Instant>,
    heard: Option<Instant>,
    doubted: Option<Instant>,
}

impl Others {
    /// Notes what the workers that were just heard have said; `told` is how many verdicts we have been told in all, and `undecided`
    /// how many of ours may have been decided, and not told yet.
    pub(crate) fn hear(
        &mut self,
        said: impl IntoIterator<Item = (String, u64)>,
        told: u64,
        undecided: u64,
        now: Instant,
    ) {
        let since = *self.since.get_or_insert(now);
        for (process, verdicts) in said {
            // Of a worker that was there before us, what it did before does not count.
            let is_old = now.duration_since(since) <= HEARD;
            let before = self.workers.get(&process).copied().unwrap_or(if is_old { verdicts } else { 0 });
            self.excess += i64::try_from(verdicts.saturating_sub(before)).unwrap_or(i64::MAX);
            self.workers.insert(process, verdicts);
            self.heard = Some(now);
        }
        self.excess -= i64::try_from(told - self.told).unwrap_or(i64::MAX);
        if told > self.told || undecided > 0 {
            (self.told, self.told_at) = (told, Some(now));
        } else if self.told_at.is_none_or(|at| now.duration_since(at) > HEARD) {
            // What a worker that died had not said yet, it will not say.
            self.excess = self.excess.max(0);
        }
        if self.excess > i64::try_from(undecided).unwrap_or(i64::MAX) {
            self.excess = 0;
            self.doubted = Some(now);
        }
        if self.heard.is_some_and(|heard| now.duration_since(heard) > HEARD) {
            // Who comes back, or takes over, has told part of it to nobody.
            (self.workers, self.excess) = (HashMap::new(), 0);
            (self.since, self.heard) = (Some(now), None);
        }
    }

    /// Whether nobody else publishes, as far as can be told.
    pub(crate) fn are_none(&self, now: Instant) -> bool {
        let within = |moment: Option<Instant>, time| moment.is_some_and(|at| now.duration_since(at) <= time);
        within(self.heard, HEARD) && !within(self.since, HEARD) && !within(self.doubted, DOUBT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_place_moves_up_with_each_that_is_decided_and_the_wait_goes_by_the_pace_of_late() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let places: Vec<u64> = (0..100).map(|_| pace.publish(start)).collect();
        assert_eq!((places[0], places[99]), (1, 100));
        assert_eq!(
            (pace.ahead(1, start), pace.ahead(100, start + SECOND)),
            ((0, None), (99, None)),
            "nothing is known of the pace"
        );
        pace.decide(10, start + SECOND);
        assert_eq!(pace.ahead(100, start + SECOND), (89, Some(9_000)));
        // One that comes late says nothing new.
        pace.decide(5, start + SECOND);
        assert_eq!(pace.ahead(11, start + SECOND), (0, Some(100)));
        // Where nothing moves, the wait grows, until it is not known.
        assert_eq!(pace.ahead(100, start + 2 * SECOND), (89, Some(18_000)));
        assert_eq!(pace.ahead(100, start + 20 * SECOND), (89, None));
        pace.decide(90, start + 21 * SECOND);
        assert!(pace.ahead(100, start + 22 * SECOND).1.is_some() && pace.marks.len() < 30);
    }

    #[test]
    fn a_place_is_known_while_workers_are_heard_and_have_decided_no_more_than_we_were_told() {
        let (mut others, start) = (Others::default(), Instant::now());
        let hear = |others: &mut Others, at: u32, said: &[(&str, u64)], told, undecided| {
            let said: Vec<_> = said.iter().map(|(process, verdicts)| ((*process).to_owned(), *verdicts)).collect();
            others.hear(said, told, undecided, start + at * SECOND);
            others.are_none(start + at * SECOND)
        };
        assert!(!hear(&mut others, 0, &[("a", 500)], 0, 0), "nobody is heard out yet");
        assert!(hear(&mut others, 4, &[("a", 500)], 0, 0));
        // Decided, and not told yet; then told.
        assert!(hear(&mut others, 5, &[("a", 540), ("new", 60)], 0, 100));
        assert!(hear(&mut others, 6, &[("a", 540), ("new", 60)], 100, 0));
        // Told before it is heard.
        assert!(hear(&mut others, 7, &[("a", 540)], 130, 0));
        assert!(hear(&mut others, 8, &[("a", 570)], 130, 0));
        assert!(!hear(&mut others, 9, &[("a", 580)], 130, 9), "somebody else was told");
        assert!(!hear(&mut others, 68, &[("a", 580)], 130, 0));
        assert!(hear(&mut others, 70, &[("a", 580)], 130, 0));
        assert!(!hear(&mut others, 74, &[], 130, 0), "nobody is heard");
        assert!(!hear(&mut others, 75, &[("b", 9)], 130, 0));
        assert!(hear(&mut others, 79, &[("b", 9)], 130, 0));
    }
}
