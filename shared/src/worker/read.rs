//! From a message to its requests, and from their answers to what becomes of it: one request, or an array of them. Pure.

use super::{
    settle::{Outcome, Rejected},
    validate::{check_line, validate},
};
use crate::{
    amqp::Delivery,
    config::WorkerOptions,
    handler::Answer,
    messages::{Rejection, Request, Sender, is_array, read_array},
};

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
    for body in bodies.iter().map(|body| body.get()) {
        let request = read_request(delivery, R::decode(body.as_bytes(), None), Ok(()), options);
        let rejection = request.map(|request| requests.push(request)).err();
        places.push(Place { request: body.to_owned(), rejection });
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
    /// As it was sent.
    request: String,
    /// `None`: the handler has the answer.
    rejection: Option<Rejection>,
}

impl Read {
    /// How many of its requests the handler does not get to see.
    pub(super) fn rejected(&self) -> usize {
        match self {
            Self::Known(Outcome::Rejected(_)) => 1,
            Self::Several(places) => places.iter().filter(|place| place.rejection.is_some()).count(),
            Self::Known(_) | Self::One => 0,
        }
    }

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
                let verdicts = places.into_iter().map(|Place { request, rejection }| {
                    let answer = rejection.map_or_else(|| next().1, Answer::Rejected);
                    match answer {
                        Answer::Verdict(body) => Some(Ok(body)),
                        Answer::Rejected(reason) => Some(Err(Rejected { reason, request })),
                        // A queue with an order puts nothing off to its end.
                        Answer::Requeue | Answer::Later => None,
                    }
                });
                // All of them, before it is asked whether one is missing: the answers behind them are others'.
                let verdicts: Vec<_> = verdicts.collect();
                verdicts.into_iter().collect::<Option<_>>().map(Outcome::Several)
            }
        }
    }
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
