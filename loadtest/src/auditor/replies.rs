//! The promises that replies, queues and workers alone can prove: they hold with and without a database.

use super::{Case, Invariant, invariant};
use crate::answers::Answers;

/// Every check, in reading order.
pub(super) fn check(case: &Case<'_>) -> Vec<Invariant> {
    let answers = case.facts.answers;
    let of_requests = |offends: &dyn Fn(usize) -> bool| -> Vec<&str> {
        (0..case.ids.len()).filter(|&index| offends(index)).map(|index| case.ids[index].as_str()).collect()
    };
    let unanswered = of_requests(&|index| case.told[index].is_none());
    let conflicting = of_requests(&|index| answers.answers[index].differing > 0);
    let mut strangers = answers.strangers.clone();
    // Only the first few are kept by name; the count must be whole.
    strangers.resize(usize::try_from(answers.stranger_count).unwrap_or(usize::MAX), String::new());
    let unclean: Vec<String> = case
        .facts
        .endings
        .iter()
        .filter(|ending| !ending.clean)
        .map(|ending| format!("{} ({})", ending.worker_id, ending.how))
        .collect();
    let dead = match case.facts.dead_growth {
        ..=0 => Vec::new(),
        growth => vec![format!("{growth} messages more than before; look at their x-death and reason headers")],
    };
    vec![
        invariant("every_buyer_answered", format!("{} requests, a verdict for each", case.ids.len()), &unanswered),
        invariant("no_conflicting_replies", "no request was told two things", &conflicting),
        invariant("no_stray_replies", "no reply without a request", &strangers),
        invariant("nothing_dead", "the queue `dead` did not grow", &dead),
        invariant("workers_drained", format!("{} exited cleanly", case.facts.endings.len()), &unclean),
    ]
}

/// Replies beyond the number of sends, over all requests.
pub(super) fn duplicates(answers: &Answers) -> u64 {
    answers.answers.iter().map(|answer| u64::from(answer.replies.saturating_sub(answer.sends))).sum()
}
