//! Who is let in to the board, and whose word changes something.

use super::Board;
use crate::problem::Problem;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::sleep;

/// For whoever guesses passwords.
const WRONG_PASSWORD_PAUSE: Duration = Duration::from_secs(1);

/// Lets in who knows the password. Where none is set, who asks for this machine by its address: a name could be anybody's, who
/// would have the browsers of others ask here.
pub(super) async fn admitted(State(board): State<Board>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let is_admitted = match &board.password {
        None => is_by_address(headers),
        Some(password) => match said_password(headers) {
            None => false,
            Some(said) if is_same(&said, password.as_bytes()) => true,
            Some(_) => {
                sleep(WRONG_PASSWORD_PAUSE).await;
                false
            }
        },
    };
    match (is_admitted, &board.password) {
        (true, _) => next.run(request).await,
        (false, None) => Problem::NotByAddress.into_response(),
        (false, Some(_)) => {
            let ask = [(header::WWW_AUTHENTICATE, r#"Basic realm="Turnstile board", charset="UTF-8""#)];
            (ask, Problem::NoPassword).into_response()
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn is_by_address(headers: &HeaderMap) -> bool {
    let Some(host) = text(headers, "host") else { return false };
    let host = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(host, _)| host);
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// As browsers say it (RFC 7617).
fn said_password(headers: &HeaderMap) -> Option<Vec<u8>> {
    let (scheme, said) = text(headers, "authorization")?.split_once(' ')?;
    let said = STANDARD.decode(said.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"))?;
    let colon = said.iter().position(|byte| *byte == b':')?;
    Some(said[colon + 1..].to_vec())
}

/// In a time that says nothing of where they differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
}

/// Lets through what this page asks, and what no page does: browsers say where what they ask comes from, and send JSON to nobody else
/// unasked.
pub(super) async fn from_this_page(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let host = text(headers, "host").unwrap_or_default();
    let is_ours = |origin: &str| origin.split_once("://").is_some_and(|(_, ours)| ours == host);
    let is_same_site = text(headers, "sec-fetch-site").is_none_or(|site| site == "same-origin");
    if !is_same_site || headers.get("origin").is_some_and(|origin| !origin.to_str().is_ok_and(is_ours)) {
        return Problem::AnotherOrigin.into_response();
    }
    if text(headers, "content-type").is_none_or(|kind| !kind.starts_with("application/json")) {
        return Problem::NotJson.into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_name_that_could_be_anybodys_is_no_address() {
        for (host, is_one) in [
            ("127.0.0.1:8081", true),
            ("[::1]:8081", true),
            ("[::1]", true),
            ("localhost:8081", true),
            ("evil.example:8081", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_by_address(&headers(&[("host", host)])), is_one, "{host}");
        }
        assert!(!is_by_address(&HeaderMap::new()));
    }

    #[test]
    fn a_password_is_read_as_browsers_say_it() {
        let said = |text: &str| said_password(&headers(&[("authorization", text)]));
        assert_eq!(said("Basic YW5uOnBhc3M6d29yZA==").unwrap(), b"pass:word");
        assert_eq!((said("Bearer YW5uOnBhc3M6d29yZA=="), said("Basic YW5u"), said("Basic !")), (None, None, None));
        assert!(is_same(b"pass", b"pass") && !is_same(b"pass", b"past") && !is_same(b"pass", b"pas"));
    }
}
