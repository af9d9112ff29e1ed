//! `/status/{codes}`, and what a status needs beside its number: a client library that gets a 401 without its challenge
//! tests nothing but its own error handling.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version, header};

use super::{
    answer::{self, Refusal},
    body::EchoBody,
    chance::Draws,
    payload,
    query::{Query, path_tail},
    routes,
    settings::Settings,
};
use crate::request::{Intended, RequestBody};

/// `/status/{code[:weight],...}`: one of the statuses, as often as its weight says.
pub(super) fn status(
    request: &Request<RequestBody>,
    _settings: &Settings,
) -> Result<Response<EchoBody>, Refusal> {
    let list = path_tail(request.uri(), "/status/")?;
    let choices = parse_list(&list).map_err(Refusal::bad_request)?;
    let seed = payload::seed_of(request, &Query::of(request.uri())?)?;
    let status = choose(&choices, Draws::new(seed).next());
    let mut response = if has_no_body(status) { answer::empty(status) } else { with_name(status) };
    complete(&mut response, request.version(), request.uri().path());
    Ok(response)
}

/// With its name as text.
fn with_name(status: StatusCode) -> Response<EchoBody> {
    let name = format!("{} {}", status.as_str(), status.canonical_reason().unwrap_or_default());
    let text = format!("{}\n", name.trim_end());
    let length = text.len();
    let mut response = answer::text(status, text);
    if status == StatusCode::PARTIAL_CONTENT {
        // Who sends a part says which (RFC 9110, section 15.3.7.1).
        let range = HeaderValue::try_from(format!("bytes 0-{}/{length}", length - 1));
        response.headers_mut().extend(range.ok().map(|range| (header::CONTENT_RANGE, range)));
    }
    response
}

/// A status that a client may ask for: a final one.
///
/// # Errors
/// What it must be.
pub(super) fn parse(text: &str) -> Result<StatusCode, String> {
    let code = text.parse().ok().filter(|code| (200..=599).contains(code) && text.len() == 3);
    let status = code.and_then(|code: u16| StatusCode::from_u16(code).ok());
    status.ok_or_else(|| "must be 200 to 599: a status below that is not a final one".to_owned())
}

/// Statuses with weights, which are 1 where they are not given.
fn parse_list(text: &str) -> Result<Vec<(StatusCode, f64)>, String> {
    let entry = |entry: &str| {
        let (code, weight) = entry.split_once(':').unwrap_or((entry, "1"));
        let status = parse(code).map_err(|why| format!("status {code:?} in the path {why}"))?;
        let weight = weight.parse().ok().filter(|weight: &f64| weight.is_finite() && *weight >= 0.0);
        let weight = weight.ok_or_else(|| {
            format!("status {entry:?} in the path: the weight behind the colon must be a number from 0")
        })?;
        Ok::<_, String>((status, weight))
    };
    let choices: Vec<_> = text.split(',').map(|text| entry(text.trim())).collect::<Result<_, _>>()?;
    let sum: f64 = choices.iter().map(|(_, weight)| weight).sum();
    if sum > 0.0 && sum.is_finite() {
        Ok(choices)
    } else {
        Err(format!("status {text:?} in the path: the weights must have a sum above 0"))
    }
}

/// The choice that `roll` (from 0 to below 1) falls on.
fn choose(choices: &[(StatusCode, f64)], roll: f64) -> StatusCode {
    let sum: f64 = choices.iter().map(|(_, weight)| weight).sum();
    let mut left = roll * sum;
    for (status, weight) in choices {
        if left < *weight {
            return *status;
        }
        left -= weight;
    }
    // Rounding: the last that can be chosen.
    choices.iter().rev().find(|(_, weight)| *weight > 0.0).map_or(StatusCode::OK, |(status, _)| *status)
}

/// Whether a response with this status never has a body (RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5).
pub(super) fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Adds the fields that the status of a response demands (RFC 9110, section 15), and marks it as asked for.
pub(super) fn complete<B>(response: &mut Response<B>, version: Version, path: &str) {
    let status = response.status();
    if status.is_server_error() {
        response.extensions_mut().insert(Intended);
    }
    let headers = response.headers_mut();
    match status.as_u16() {
        300..=303 | 305..=399 => set(headers, header::LOCATION, HeaderValue::from_static("/")),
        401 => set(headers, header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"echo\"")),
        405 => set(headers, header::ALLOW, routes::allowed(path)),
        416 => set(headers, header::CONTENT_RANGE, HeaderValue::from_static("bytes */0")),
        407 => set(headers, header::PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"echo\"")),
        // HTTP/2 has no such field (RFC 9113, section 8.2.2).
        426 if version < Version::HTTP_2 => {
            set(headers, header::UPGRADE, HeaderValue::from_static("websocket"));
            set(headers, header::CONNECTION, HeaderValue::from_static("upgrade"));
        }
        _ => {}
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    headers.entry(name).or_insert(value);
}

/// For the fuzzer, through [`fuzzing`](crate::fuzzing).
pub(crate) fn fuzz_list(text: &str) {
    if let Ok(choices) = parse_list(text) {
        for roll in [0.0, 0.5, 1.0 - f64::EPSILON] {
            let chosen = choose(&choices, roll);
            assert!(choices.iter().any(|(status, weight)| *status == chosen && *weight > 0.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_decide_how_often() {
        let choices = parse_list("200:3,500:1, 404:0").unwrap();
        let at = |roll| choose(&choices, roll).as_u16();
        assert_eq!([at(0.0), at(0.74), at(0.76), at(0.999_999)], [200, 200, 500, 500]);
        assert_eq!(parse_list("200,500").unwrap().len(), 2);
    }

    #[test]
    fn a_list_that_is_wrong_names_the_entry() {
        for (text, part) in [
            ("", "\"\""),
            ("100", "\"100\""),
            ("199", "200 to 599"),
            ("600", "\"600\""),
            ("+200", "\"+200\""),
            ("200,x", "\"x\""),
            ("200:x", "\"200:x\""),
            ("200:-1", "\"200:-1\""),
            ("200:nan", "\"200:nan\""),
            ("200:0", "above 0"),
            ("200:1e308,500:1e308", "above 0"),
        ] {
            let error = parse_list(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_in_the_list_with_a_weight(text in "[2-5]0[0-4](:[0-9]{1,3})?(,[2-5]0[0-4](:[0-9e.]{1,4})?){0,4}") {
            fuzz_list(&text);
        }

        #[test]
        fn any_text_is_parsed_or_refused_without_panic(text in "\\PC{0,24}") {
            fuzz_list(&text);
        }
    }
}
