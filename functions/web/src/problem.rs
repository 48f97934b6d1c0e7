//! Whatever is answered that is no verdict: a problem as RFC 9457 writes it, with a stable code and a sentence.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

const CONTENT_TYPE: &str = "application/problem+json";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    NotFound,
    InvalidQuery,
    MethodNotAllowed,
    NotJson,
    BodyTooLarge,
    HeadersTooLarge,
    TooSlow,
    TooManyConnections,
    TooManyRequests,
    TooManyUndecided,
    TooManyStreams,
    TooManyBodies,
    NotReady,
    NotConfirmed,
    NotTaken,
    DatabaseAway,
    UnknownPurchase,
    UnknownOrder,
    UnknownItem,
    NotSigned,
    NoBuyer,
    AnotherBuyer,
    NoPassword,
    NotByAddress,
    AnotherOrigin,
    ChangesOff,
    UnknownDeadLetter,
    NobodyAnswers,
}

use Problem::*;

/// Every problem, in the order of the enum: its status, its code, what it says, and after how many seconds to ask again.
#[rustfmt::skip]
pub(crate) const ALL: [(Problem, u16, &str, &str, Option<u32>); 28] = [
    (NotFound, 404, "not_found", "There is nothing at this path. functions/web/openapi.yaml has the paths, and what some of them have to be set for.", None),
    (InvalidQuery, 422, "invalid_query", "The query cannot be read: item and order are said once at most.", None),
    (MethodNotAllowed, 405, "method_not_allowed", "The path takes other methods.", None),
    (NotJson, 415, "unsupported_content_type", "Send the body as application/json.", None),
    (BodyTooLarge, 413, "body_too_large", "The body has more than 65536 bytes.", None),
    (HeadersTooLarge, 431, "headers_too_large", "Path and headers have more than 16384 bytes.", None),
    (TooSlow, 408, "too_slow", "The request was not sent within 10 seconds.", None),
    (TooManyConnections, 503, "too_many_connections", "As many connections are open here as may be; ask again.", Some(1)),
    (TooManyRequests, 503, "too_many_requests", "As many requests are open here as may be; ask again.", Some(1)),
    (TooManyUndecided, 503, "too_many_undecided", "As many requests wait here for the queue as may; ask again.", Some(1)),
    (TooManyStreams, 503, "too_many_streams", "As many streams are open here as may be; ask again.", Some(5)),
    (TooManyBodies, 503, "too_many_bodies", "As much is under way here in long bodies as may be; ask again, or send less.", Some(1)),
    (NotReady, 503, "not_ready", "The queue cannot be reached from here at present.", Some(1)),
    (NotConfirmed, 503, "not_confirmed", "The queue did not confirm the request in time; ask again with the same Idempotency-Key.", Some(2)),
    (NotTaken, 503, "not_taken", "The queue takes nothing at present; ask again with the same Idempotency-Key.", Some(5)),
    (DatabaseAway, 503, "database_away", "What was decided cannot be looked up at present; the request keeps its place, so ask again.", Some(2)),
    (UnknownPurchase, 404, "unknown_purchase", "Nothing is known of a request with this id.", None),
    (UnknownOrder, 404, "unknown_order", "There is no such order, or it is another buyer's.", None),
    (UnknownItem, 404, "unknown_item", "There is no such item.", None),
    (NotSigned, 401, "not_signed", "The webhook is not signed with the secret that was agreed upon, or not within five minutes.", None),
    (NoBuyer, 403, "no_buyer", "The header that names the buyer is missing, or is none.", None),
    (AnotherBuyer, 403, "another_buyer", "The body names another buyer than the header.", None),
    (NoPassword, 401, "no_password", "The board asks for its password, of any user.", None),
    (NotByAddress, 403, "not_by_address", "Without a password, the board answers at an IP address or localhost alone.", None),
    (AnotherOrigin, 403, "another_origin", "What changes something is asked for by the board's own page, or by none.", None),
    (ChangesOff, 403, "changes_off", "This board only shows; it was not started with what changes something.", None),
    (UnknownDeadLetter, 404, "unknown_dead_letter", "There is no dead letter with this id, or somebody has it in hand.", None),
    (NobodyAnswers, 503, "nobody_answers", "The function whose business it is did not answer; the request is in its queue, if it has one.", Some(5)),
];

impl Problem {
    /// The same, of the request with this id, which its sender may not know.
    pub(crate) fn of(self, request_id: &str) -> Response {
        let mut response = self.into_response();
        if let Ok(id) = HeaderValue::from_str(request_id) {
            response.headers_mut().insert(IDEMPOTENCY_KEY, id);
        }
        response
    }

    fn body(self) -> String {
        let (_, status, code, detail, _) = ALL[self as usize];
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        json!({"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail}).to_string()
    }

    /// The whole response, for a connection on which no request came about.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let ((_, status, ..), body) = (ALL[self as usize], self.body());
        let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
        let head = format!("HTTP/1.1 {status} {reason}\r\ncontent-type: {CONTENT_TYPE}\r\nconnection: close\r\n");
        format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }
}

pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (_, status, _, _, retry_after) = ALL[self as usize];
        let status = StatusCode::from_u16(status).expect("a status of the table is one");
        let mut response = (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], self.body()).into_response();
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_stands_in_its_place_has_a_code_of_its_own_and_every_503_says_when_to_ask_again() {
        for (place, (problem, status, code, ..)) in ALL.into_iter().enumerate() {
            assert_eq!((problem as usize, ALL.iter().filter(|other| other.2 == code).count()), (place, 1));
            let response = problem.into_response();
            assert_eq!(response.status(), status);
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), status == 503, "{code}");
        }
    }
}
