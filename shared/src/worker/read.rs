//! From a message to its requests, and from their answers to what becomes of it: one request, or an array of them. Pure.

use super::outcome::{Outcome, Rejected};
use super::validate::{check_line, validate};
use crate::amqp::Delivery;
use crate::config::WorkerOptions;
use crate::handler::Answer;
use crate::messages::{Rejection, Request, Sender, is_array, read_array};
use std::borrow::Cow;
use std::ops::Range;

/// Reads what is in a message, and adds to `requests` those for the handler.
pub(super) fn read_message<R: Request>(
    delivery: &Delivery,
    body: &[u8],
    options: &WorkerOptions,
    requests: &mut Vec<R>,
) -> Read {
    if delivery.is_padding() {
        return Read::Known(Outcome::Ignored);
    }
    let valid = validate(delivery, options);
    if !R::LINES_UP_BY_ITEM || !is_array(body) {
        let request = read_request(delivery, R::decode(body, delivery.message_id()), valid, options);
        return match request {
            Ok(request) => {
                requests.push(request);
                Read::One
            }
            Err(rejection) => Read::Known(Outcome::Rejected(rejection)),
        };
    }
    let bodies = match valid.and_then(|()| read_array(body)) {
        Ok(bodies) => bodies,
        Err(rejection) => return Read::Known(Outcome::Rejected(rejection)),
    };
    let mut places = Vec::with_capacity(bodies.len());
    for text in bodies.iter().map(|request| request.get()) {
        let request = read_request(delivery, R::decode(text.as_bytes(), None), Ok(()), options);
        let rejection = request.map(|request| requests.push(request)).err();
        let begin = text.as_ptr() as usize - body.as_ptr() as usize;
        places.push(Place { at: begin..begin + text.len(), rejection });
    }
    Read::Several(places)
}

/// A message, as far as it is known without the handler.
pub(super) enum Read {
    Known(Outcome),
    /// The handler has the answer to its request.
    One,
    Several(Vec<Place>),
}

/// One request of an array.
pub(super) struct Place {
    /// Where it stands in the body.
    at: Range<usize>,
    /// `None`: the handler has the answer.
    rejection: Option<Rejection>,
}

impl Read {
    /// What becomes of it; takes as many answers as it had requests for the handler. `None`: it comes again, all of it: a request that
    /// is decided has its verdict on record.
    pub(super) fn outcome<'a, R: Request + 'a>(
        self,
        delivery: &Delivery,
        answered: &mut impl Iterator<Item = (&'a R, Answer)>,
    ) -> Option<Outcome> {
        let mut next = || answered.next().expect("one answer for each request");
        match self {
            Self::Known(outcome) => Some(outcome),
            Self::One => match next() {
                (request, Answer::Verdict(body)) => {
                    let request_id = delivery.correlation_id().is_none().then(|| request.request_id().to_owned());
                    Some(Outcome::Answered { body, request_id })
                }
                (_, Answer::Rejected(rejection)) => Some(Outcome::Rejected(rejection)),
                (_, Answer::Requeue) => Some(Outcome::Requeued),
                (_, Answer::Later) => None,
            },
            Self::Several(places) => {
                let answer = |place: Place| (place.at, place.rejection.map_or_else(|| next().1, Answer::Rejected));
                // All of them, before it is asked whether one is missing: the answers behind them are others'.
                several(delivery, places.into_iter().map(answer).collect())
            }
        }
    }
}

/// What becomes of an array with these answers, each with where its request stands.
fn several(delivery: &Delivery, answers: Vec<(Range<usize>, Answer)>) -> Option<Outcome> {
    let is_rejected = |(_, answer): &(_, Answer)| matches!(answer, Answer::Rejected(_));
    // It was read before; where the disk fails meanwhile, the message comes again.
    let body = if answers.iter().any(is_rejected) { delivery.body.read().ok()? } else { Cow::default() };
    let verdict = |(at, answer): (Range<usize>, Answer)| match answer {
        Answer::Verdict(verdict) => Some(Ok(verdict)),
        Answer::Rejected(reason) => Some(Err(Rejected { reason, request: body[at].to_vec() })),
        // A queue with an order puts nothing off to its end.
        Answer::Requeue | Answer::Later => None,
    };
    answers.into_iter().map(verdict).collect::<Option<_>>().map(Outcome::Several)
}

fn read_request<R: Request>(
    delivery: &Delivery,
    request: Result<R, Rejection>,
    valid: Result<(), Rejection>,
    options: &WorkerOptions,
) -> Result<R, Rejection> {
    let valid = valid.and_then(|()| match &request {
        Ok(request) if R::LINES_UP_BY_ITEM => check_line(delivery, request.about().item),
        Ok(_) | Err(_) => Ok(()),
    });
    match (valid, request) {
        (Ok(()), Ok(mut request)) => {
            if let Some(user) = delivery.user_id() {
                let sender = Sender { user: user.to_owned(), is_trusted: options.trusts(user) };
                request.sent_by(sender, delivery.is_passed_on());
            }
            Ok(request)
        }
        (Ok(()), Err(of_body)) => Err(of_body),
        // The properties are at fault, but the body may say which request it is.
        (Err(rejection), Ok(request)) => Err(rejection.on(&request)),
        (Err(rejection), Err(of_body)) => {
            Err(Rejection { code: rejection.code, message: rejection.message, ..of_body })
        }
    }
}
