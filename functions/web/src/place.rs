//! Places in line: how many requests are in front of one, how fast they are decided, and whether that is all that is known. Pure.
//!
//! A door knows what it has published for an item, in which order, and what of it is decided. In front of a request there may be others
//! besides: of other doors, and of whoever else publishes. Those nobody tells it of; but workers say how many verdicts they have
//! reached, and where that is more than the door was told, somebody else publishes. So a place is *known* while the line moves, and
//! all that was decided of late, in whatever line, was the door's own; else what is said is the least that it can be.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How far back it is looked to see how fast a line moves, in how many steps.
const PACE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(250);
/// For how long a line has to move until it is known who is in it: others that are decided with it are found sooner.
const MOVING: Duration = Duration::from_secs(4);
/// For how long a place is not known once something did not add up.
const DOUBT: Duration = Duration::from_secs(60);
/// Workers that were not heard for so long are not there.
const HEARD: Duration = Duration::from_secs(3);
/// For how long nobody is heard out: what was under way at first is told by then, and said.
const HEARD_OUT: Duration = Duration::from_secs(6);
/// Within this we are told what workers say they have reached, where it is ours. What is decided in so long can hide as many of others.
const TOLD: Duration = Duration::from_secs(1);
/// Within this they say what we were told. What a worker that died had not said by then, it will not say.
const SAID: Duration = Duration::from_secs(5);

/// The line of an item, as this door has made it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    published: u64,
    /// The last place that is known to be decided: so are those before it.
    decided: u64,
    /// Where it was when, from a while ago on.
    marks: VecDeque<(Instant, u64)>,
    /// Since when it moves without a stop, and when it has moved last.
    moved: Option<(Instant, Instant)>,
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
        let since = self.moved.filter(|(_, last)| now.duration_since(*last) <= PACE).map_or(now, |(since, _)| since);
        self.moved = Some((since, now));
    }

    /// Whether it moves, and has for long enough. Of a line that stands nobody knows who else is in it.
    pub(crate) fn moves(&self, now: Instant) -> bool {
        self.moved.is_some_and(|(since, last)| now.duration_since(last) <= PACE && now.duration_since(since) >= MOVING)
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
    /// How many of what they have reached since we listen are ours, as far as is known.
    reached: i64,
    /// When, how many were reached, and how many we had been told in all: of late.
    looks: VecDeque<(Instant, i64, i64)>,
    /// Since when we listen, and how many we had been told by then.
    since: Option<(Instant, u64)>,
    heard: Option<Instant>,
    doubted: Option<Instant>,
}

impl Others {
    /// Listens anew: who comes back, or takes over, has told part of it to nobody.
    pub(crate) fn begin_again(&mut self) {
        *self = Self { doubted: self.doubted, ..Self::default() };
    }

    /// Notes what the workers that were just heard have said; `told` is how many verdicts we have been told in all.
    pub(crate) fn hear(&mut self, said: impl IntoIterator<Item = (String, u64)>, told: u64, now: Instant) {
        if self.heard.is_some_and(|heard| now.duration_since(heard) > HEARD) {
            self.begin_again();
        }
        let (since, told_before) = *self.since.get_or_insert((now, told));
        for (process, verdicts) in said {
            // Of a worker that was there before us, what it did before does not count.
            let is_old = now.duration_since(since) <= HEARD;
            let before = self.workers.get(&process).copied().unwrap_or(if is_old { verdicts } else { 0 });
            self.reached += signed(verdicts.saturating_sub(before));
            self.workers.insert(process, verdicts);
            self.heard = Some(now);
        }
        let told = signed(told - told_before);
        self.looks.push_back((now, self.reached, told));
        let of_others = self.ago(TOLD, now).map_or(0, |(_, reached, _)| reached - told);
        if of_others > 0 {
            self.correct(-of_others);
            if now.duration_since(since) > HEARD_OUT {
                self.doubted = Some(now);
            }
        }
        let unsaid = self.ago(SAID, now).map_or(0, |(_, _, told)| told - self.reached);
        self.correct(unsaid.max(0));
        while self.looks.get(1).is_some_and(|(at, ..)| now.duration_since(*at) >= SAID) {
            self.looks.pop_front();
        }
    }

    /// The last look that was so long ago.
    fn ago(&self, time: Duration, now: Instant) -> Option<(Instant, i64, i64)> {
        self.looks.iter().rev().find(|(at, ..)| now.duration_since(*at) >= time).copied()
    }

    /// So many more are ours, or fewer, than was thought.
    fn correct(&mut self, by: i64) {
        self.reached += by;
        self.looks.iter_mut().for_each(|(_, reached, _)| *reached += by);
    }

    /// Whether nobody else publishes, as far as can be told.
    pub(crate) fn are_none(&self, now: Instant) -> bool {
        let within = |moment: Option<Instant>, time| moment.is_some_and(|at| now.duration_since(at) <= time);
        let since = self.since.map(|(since, _)| since);
        within(self.heard, HEARD) && !within(since, HEARD_OUT) && !within(self.doubted, DOUBT)
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Range;

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
    fn a_line_moves_once_it_has_for_a_while_and_until_it_stands() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let moves = |pace: &Pace, at: u32| pace.moves(start + at * SECOND);
        (0..100).for_each(|_| assert!(pace.publish(start) > 0));
        assert!(!moves(&pace, 10), "nothing was decided yet");
        for at in 10..15 {
            assert_eq!(moves(&pace, at), at == 14);
            pace.decide(u64::from(at), start + at * SECOND);
        }
        assert!(moves(&pace, 14) && moves(&pace, 19) && !moves(&pace, 20));
        pace.decide(50, start + 30 * SECOND);
        assert!(!moves(&pace, 30), "meanwhile others may have come");
    }

    /// What the workers say, second by second, and what we were told: whether a place is known then.
    fn heard(others: &mut Others, start: Instant, seconds: Range<u64>, says: impl Fn(u64) -> (u64, u64)) -> Vec<bool> {
        let look = |at: u64| {
            let (now, (verdicts, told)) = (start + Duration::from_secs(at), says(at));
            others.hear([("a".to_owned(), verdicts)], told, now);
            others.are_none(now)
        };
        seconds.map(look).collect()
    }

    #[test]
    fn a_place_is_known_while_all_that_workers_reach_is_told_us() {
        let (mut others, start) = (Others::default(), Instant::now());
        // Told before it is heard, or behind it; and one worker was there before us.
        let known = heard(&mut others, start, 0..20, |at| (500 + 10 * at, 7 + 10 * at + 10 * (at % 2)));
        assert_eq!(known, (0..20).map(|at| at > 6).collect::<Vec<_>>());
        // One that comes, and counts from nothing; we are told late, but are.
        others.hear([("new".to_owned(), 60)], 207, start + 20 * SECOND);
        let known = heard(&mut others, start, 21..30, |_| (690, 267));
        assert_eq!(known, [true; 9]);
        // One that died had not said all of it.
        assert_eq!(heard(&mut others, start, 30..40, |_| (690, 367)), [true; 10]);
        let known = heard(&mut others, start, 40..44, |_| (691, 367));
        assert_eq!(known, [true, false, false, false], "the next one is not hidden by that");
        assert!(!others.are_none(start + 100 * SECOND), "nobody is heard");
    }

    /// Each of two doors has ten thousand in line, and every second one that is decided is the other's.
    #[test]
    fn others_are_found_however_many_of_ours_are_undecided() {
        let (mut others, start) = (Others::default(), Instant::now());
        let known = heard(&mut others, start, 0..20, |at| (1_000 * at.saturating_sub(8), 500 * at.saturating_sub(8)));
        // The first look at which half of all is more than all of the last second.
        let until_found = 8 + 2 * TOLD.as_secs() + 1;
        assert_eq!(known, (0..20).map(|at| at > 6 && at < until_found).collect::<Vec<_>>());
        assert!(Duration::from_secs(until_found - 8) < MOVING, "before the line counts as moving");
        // It is known again a minute behind the last one.
        let known = heard(&mut others, start, 20..90, |at| (12_000, 6_000 + at.saturating_sub(20).min(1)));
        assert_eq!((known.iter().position(|known| *known), known.last()), (Some(62), Some(&true)));
    }

    #[test]
    fn who_listens_anew_remembers_what_they_were_told_and_what_they_doubted() {
        let (mut others, start) = (Others::default(), Instant::now());
        assert!(heard(&mut others, start, 0..10, |_| (5_000, 5_000))[9]);
        others.begin_again();
        let known = heard(&mut others, start, 10..30, |at| (5_000 + at.saturating_sub(20), 5_000));
        assert_eq!(
            known,
            (10..30).map(|at| at > 16 && at < 22).collect::<Vec<_>>(),
            "the first one of others is found"
        );
        others.begin_again();
        assert!(!heard(&mut others, start, 30..40, |_| (5_010, 5_000)).contains(&true));
    }
}
