//! What became of each message of a batch. Pure, but for the counts.

use super::metrics::WorkerMetrics;
use crate::amqp::{Delivery, count_verdict};
use crate::messages::{Code, Rejection};

pub(super) enum Outcome {
    /// It is answered with a recorded verdict.
    /// The request id stands in for a correlation id that the sender did not give.
    Answered { body: String, request_id: Option<String> },
    /// It is an array: each of its requests is answered with its recorded verdict, or it alone is rejected. In their order.
    Several(Vec<Result<String, Rejected>>),
    /// It is answered with why it cannot be decided, and kept in `dead`.
    Rejected(Rejection),
    /// It is not decided yet, and goes to the end of its queue.
    Requeued,
    /// It asks for nothing.
    Ignored,
}

/// The most requests of an array that are kept each alone. Of more, the array is kept, once: else whoever sends 3 kB would have us
/// write a thousand messages.
const ALONE_MAX: usize = 16;

/// Counts what is answered: for the metrics, and by its codes for those who look on.
pub(super) fn count(outcomes: &[(Delivery, Outcome)], metrics: &WorkerMetrics) {
    metrics.answered(answers_in(outcomes));
    count_codes(outcomes);
}

/// How many requests were answered in each way, by the words of the metric `answers`.
fn answers_in(outcomes: &[(Delivery, Outcome)]) -> [(&'static str, usize); 3] {
    let (mut verdicts, mut rejected, mut later) = (0, 0, 0);
    for (_, outcome) in outcomes {
        match outcome {
            Outcome::Answered { .. } => verdicts += 1,
            Outcome::Several(several) => {
                let decided = several.iter().filter(|verdict| verdict.is_ok()).count();
                (verdicts, rejected) = (verdicts + decided, rejected + several.len() - decided);
            }
            Outcome::Rejected(_) => rejected += 1,
            Outcome::Requeued => later += 1,
            Outcome::Ignored => (),
        }
    }
    [("verdict", verdicts), ("rejected", rejected), ("later", later)]
}

fn count_codes(outcomes: &[(Delivery, Outcome)]) {
    let count = |verdict: &str| code_of(verdict).into_iter().for_each(count_verdict);
    for (_, outcome) in outcomes {
        match outcome {
            Outcome::Answered { body, .. } => count(body),
            Outcome::Several(several) => several.iter().for_each(|one| match one {
                Ok(body) => count(body),
                Err(rejected) => count_verdict(rejected.reason.code),
            }),
            Outcome::Rejected(rejection) => count_verdict(rejection.code),
            Outcome::Requeued | Outcome::Ignored => (),
        }
    }
}

/// Not by reading all of it: what stands before the code has no quotation mark within a text.
fn code_of(verdict: &str) -> Option<Code> {
    let (_, rest) = verdict.split_once("\"code\":")?;
    let word = rest.split('"').nth(1)?;
    Code::ALL.iter().find(|(.., known)| *known == word).map(|(code, ..)| *code)
}

impl Outcome {
    pub(super) fn verdict_bytes(&self) -> usize {
        match self {
            Self::Answered { body, .. } => body.len(),
            Self::Several(verdicts) => verdicts.iter().flatten().map(String::len).sum(),
            Self::Rejected(_) | Self::Requeued | Self::Ignored => 0,
        }
    }

    /// Many batches may wait for their copies and acknowledgements: of those, the verdicts would be most of what is held.
    pub(super) fn forget_what_is_sent(&mut self) {
        match self {
            Self::Answered { .. } => *self = Self::Ignored,
            Self::Several(verdicts) => {
                verdicts.retain(Result::is_err);
                verdicts.shrink_to_fit();
                if verdicts.len() > ALONE_MAX {
                    // What is nobody's fault has room of its own, and is not to be missed among what is their sender's.
                    let is_nobodys = |verdict: &Result<_, Rejected>| {
                        verdict.as_ref().is_err_and(|rejected| !rejected.reason.code.is_of_sender())
                    };
                    let chosen = verdicts.iter().position(is_nobodys).unwrap_or(0);
                    if let Err(chosen) = verdicts.swap_remove(chosen) {
                        *self = Self::Rejected(chosen.reason);
                    }
                }
            }
            Self::Rejected(_) | Self::Requeued | Self::Ignored => (),
        }
    }
}

/// A request of an array that cannot be decided.
pub(super) struct Rejected {
    pub(super) reason: Rejection,
    /// As it was sent.
    pub(super) request: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Verdict;
    use time::OffsetDateTime;

    #[test]
    fn of_many_rejected_requests_the_array_is_kept_once_and_by_the_first_reason_that_is_not_their_senders_fault() {
        let kept = |codes: &[Code]| {
            let rejected = |code: &Code| Err(Rejected { reason: Rejection::new(*code, ""), request: Vec::new() });
            let mut outcome =
                Outcome::Several([Ok(String::new())].into_iter().chain(codes.iter().map(rejected)).collect());
            outcome.forget_what_is_sent();
            match outcome {
                Outcome::Rejected(reason) => Ok(reason.code),
                Outcome::Several(each) => Err(each.len()),
                Outcome::Answered { .. } | Outcome::Requeued | Outcome::Ignored => unreachable!("some are rejected"),
            }
        };
        let mut codes = [Code::InvalidField; ALONE_MAX + 1];
        codes[0] = Code::Malformed;
        assert_eq!(kept(&codes[1..]), Err(ALONE_MAX), "each alone");
        assert_eq!(kept(&codes), Ok(Code::Malformed));
        codes[ALONE_MAX - 1..].copy_from_slice(&[Code::DeliveryLimit, Code::NotHandled]);
        assert_eq!(kept(&codes), Ok(Code::DeliveryLimit));
    }

    #[test]
    fn a_code_is_found_whatever_ids_and_sentences_say() {
        let id = "x','code':'sold_out'";
        for (code, ..) in Code::ALL {
            let verdict = Verdict::decided(id, code, "\"code\":\"paid\"", OffsetDateTime::UNIX_EPOCH);
            assert_eq!(code_of(&serde_json::to_string(&verdict).unwrap()), Some(code));
        }
        assert_eq!(
            (code_of(r#"{"status":"done","code":"new"}"#), code_of("{}"), code_of(r#"{"code":1}"#)),
            (None, None, None)
        );
    }
}
