//! Many requests in one message: a JSON array of them, as in JSON-RPC's batch.

use super::request::{BYTE_ORDER_MARK, malformed, not_json};
use super::verdict::{Code, Rejection};
use serde_json::value::RawValue;

/// The most requests in one message.
pub const REQUESTS_MAX: usize = 1_000;
/// The largest body of a message with several requests, in bytes.
pub const ARRAY_BYTES_MAX: usize = 256 * 1024;

/// Whether a body is an array, well formed or not.
pub fn is_array(body: &[u8]) -> bool {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
}

/// The requests in an array, each as it was written; or why the whole message has none.
pub fn read_array(body: &[u8]) -> Result<Vec<&RawValue>, Rejection> {
    if body.len() > ARRAY_BYTES_MAX {
        let message = format!("The array has {} bytes, the most is {ARRAY_BYTES_MAX}.", body.len());
        return Err(Rejection::new(Code::TooLarge, message));
    }
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let requests: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| malformed(not_json(&error)))?;
    let invalid = |message| Err(Rejection::new(Code::InvalidArray, message));
    if requests.is_empty() {
        return invalid(format!("The array is empty; it takes 1 to {REQUESTS_MAX} requests."));
    }
    if requests.len() > REQUESTS_MAX {
        return invalid(format!("The array has {} requests, the most is {REQUESTS_MAX}.", requests.len()));
    }
    if let Some(place) = requests.iter().position(|request| request.get().starts_with('[')) {
        return invalid(format!("Number {} in the array is an array; send requests, each an object.", place + 1));
    }
    Ok(requests)
}

/// The bodies of the requests in a message: those of an array, or the whole.
pub fn bodies(body: &[u8]) -> Vec<&[u8]> {
    let requests = if is_array(body) { read_array(body).ok() } else { None };
    requests.map_or_else(|| vec![body], |requests| requests.iter().map(|request| request.get().as_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_cut_into_its_requests_and_any_other_body_is_one() {
        for (body, expected) in [
            (&br#"{"a":[1]}"#[..], &[r#"{"a":[1]}"#][..]),
            (b"\xef\xbb\xbf \n[ {\"a\": 1} ,2, \"]\" ]", &[r#"{"a": 1}"#, "2", r#""]""#]),
            (b"[", &["["]),
            (b"[]", &["[]"]),
            (b"", &[""]),
        ] {
            assert_eq!(bodies(body), expected.iter().map(|text| text.as_bytes()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_no_array_of_1_to_1000_requests_is_refused_whole_with_a_sentence() {
        let of = |count| format!("[{}]", vec!["{}"; count].join(","));
        for (body, code, message) in [
            (of(0), Code::InvalidArray, "The array is empty; it takes 1 to 1000 requests."),
            (of(1_001), Code::InvalidArray, "The array has 1001 requests, the most is 1000."),
            ("[{},[]]".into(), Code::InvalidArray, "Number 2 in the array is an array; send requests, each an object."),
            ("[{},]".into(), Code::Malformed, "The body is not JSON (line 1, column 5)."),
            ("[".repeat(100_000), Code::Malformed, "The body is not JSON (line 1, column 100000)."),
            (" ".repeat(262_145), Code::TooLarge, "The array has 262145 bytes, the most is 262144."),
        ] {
            assert_eq!(read_array(body.as_bytes()).unwrap_err(), Rejection::new(code, message));
        }
        assert_eq!(read_array(of(1_000).as_bytes()).map(|requests| requests.len()), Ok(1_000));
        assert!(read_array(b"[\"\xff\"]").is_err(), "what is not UTF-8 is no request");
    }
}
