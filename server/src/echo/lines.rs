//! `/stream/{n}`: the request as JSON, once per line; clients that parse while they read are tested with it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use serde_json::Value;

use super::{
    answer::{self, Refusal},
    body::EchoBody,
    inspect,
    settings::Settings,
};
use crate::request::{BoxError, RequestBody};

/// As many as httpbin gives.
const LINES_MAX: u32 = 100;

/// Answers with the lines.
pub(super) async fn answer(
    request: Request<RequestBody>,
    settings: Arc<Settings>,
) -> Result<Response<EchoBody>, BoxError> {
    // The count first: a request for too many lines is refused whatever else it has.
    let count = count(request.uri().path().strip_prefix("/stream/").unwrap_or_default())?;
    let document = inspect::look(request, &settings).await?;
    Ok(answer::of_type(StatusCode::OK, "application/json", EchoBody::boxed(Lines::new(count, document))))
}

/// A document, line by line, each with its number as `id`. One line is in memory at a time.
#[derive(Debug)]
struct Lines {
    document: Value,
    next: u32,
    count: u32,
}

/// Reads the number of lines from a path.
fn count(text: &str) -> Result<u32, Refusal> {
    let count = text.parse().ok().filter(|count| *count <= LINES_MAX);
    count.ok_or_else(|| {
        Refusal::bad_request(format!(
            "/stream/{{n}} gives 0 to {LINES_MAX} lines, as httpbin does, and not {text}"
        ))
    })
}

impl Lines {
    fn new(count: u32, document: Value) -> Self {
        Self { document, next: 0, count }
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        self.document["id"] = self.next.into();
        self.next += 1;
        let mut line = self.document.to_string();
        line.push('\n');
        Poll::Ready(Some(Ok(Frame::data(line.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.count
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn each_line_is_the_document_with_its_number() {
        let body = Lines::new(3, json!({"url": "/a"}));
        let text = body.collect().await.unwrap().to_bytes();
        let lines: Vec<Value> = text
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(lines, [0, 1, 2].map(|id| json!({"url": "/a", "id": id})));
    }

    #[test]
    fn more_lines_than_the_cap_are_refused() {
        assert_eq!(count("100").unwrap(), 100);
        for text in ["101", "-1", "x", ""] {
            assert!(count(text).unwrap_err().to_string().contains("100"), "{text}");
        }
        assert!(Lines::new(0, Value::Null).is_end_stream());
    }
}
