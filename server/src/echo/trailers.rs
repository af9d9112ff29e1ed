//! Trailers on demand: proxies drop them, merge them into the head, or forget the `Trailer` header, and nobody notices
//! until gRPC breaks.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::{Body, Frame};

use super::{answer::Refusal, ask::Ask, names};
use crate::request::BoxError;

/// More than anyone sends, and fewer than clients' limits of fields.
const TRAILERS_MAX: usize = 64;

/// Beyond what nobody may send so: what a client acts on before it has read the body (RFC 9110 section 6.5.1).
const FOR_THE_HEAD: [HeaderName; 7] = [
    header::DATE,
    header::EXPIRES,
    header::LOCATION,
    header::RETRY_AFTER,
    header::VARY,
    header::WARNING,
    HeaderName::from_static("realm"),
];

/// A body with trailers behind it; of no known length, for HTTP/1.1 has trailers only in chunks.
#[derive(Debug)]
pub(super) struct WithTrailers {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

/// `/trailers?k=v`: each parameter comes back as a trailer.
pub(super) fn trailers<B>(request: &Request<B>) -> Result<Response<WithTrailers>, Refusal> {
    let mut trailers = HeaderMap::new();
    for (name, value) in Ask::of(request)?.iter() {
        let field: HeaderName = name.parse().ok().filter(is_allowed).ok_or_else(|| {
            Refusal::bad_request(format!("{name} cannot be a trailer (RFC 9110 section 6.5.1)"))
        })?;
        let value = HeaderValue::from_str(value)
            .ok()
            .ok_or_else(|| Refusal::bad_request(format!("{name} has a value that no field can have")))?;
        trailers.append(field, value);
        if trailers.len() > TRAILERS_MAX {
            return Err(Refusal::bad_request(format!("more than {TRAILERS_MAX} trailers")));
        }
    }
    let names = trailers.keys().map(HeaderName::as_str).collect::<Vec<_>>().join(", ");
    let text = Bytes::from_static(b"the trailers are behind this line\n");
    let mut response = Response::new(WithTrailers { data: Some(text), trailers: Some(trailers) });
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // hyper sends in HTTP/1.1 only those that are named here.
    if let Some(names) = HeaderValue::try_from(names).ok().filter(|names| !names.is_empty()) {
        headers.insert(header::TRAILER, names);
    }
    Ok(response)
}

fn is_allowed(name: &HeaderName) -> bool {
    let is_condition = name.as_str().starts_with("if-");
    !is_condition && !names::is_forbidden_in_trailers(name) && !FOR_THE_HEAD.contains(name)
}

impl Body for WithTrailers {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let data = self.data.take().map(Frame::data);
        Poll::Ready(data.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn ask(query: &str) -> Result<Response<WithTrailers>, Refusal> {
        let request = Request::builder().uri(format!("/trailers?{query}")).body(()).unwrap();
        trailers(&request)
    }

    #[tokio::test]
    async fn parameters_become_trailers_that_are_named_before() {
        let response = ask("x-a=1&x-b=2&x-a=3").unwrap();
        assert_eq!(response.headers()[header::TRAILER], "x-a, x-b");
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().unwrap();
        assert_eq!(trailers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(trailers["x-b"], "2");
        assert_eq!(trailers.len(), 3);
    }

    #[test]
    fn what_must_not_be_a_trailer_is_refused() {
        for query in [
            "content-length=1",
            "Transfer-Encoding=x",
            "set-cookie=a",
            "if-range=1",
            "realm=x",
            "a%20b=1",
            "a=%0d",
        ] {
            assert!(ask(query).is_err(), "{query}");
        }
        let many = vec!["a=1"; TRAILERS_MAX + 1].join("&");
        assert!(ask(&many[4..]).is_ok());
        assert!(ask(&many).unwrap_err().to_string().contains("64"));
    }
}
