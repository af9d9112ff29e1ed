//! `/upload`: reads and counts. An upload handler that believes Content-Length measures nothing.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::time::Instant;

use super::{answer, body::EchoBody, digest::Tally, inspect::wants_text, settings::Settings};
use crate::request::{BoxError, RequestBody};

/// Discards a body of any size up to `body_max`, and tells how large it was, its SHA-256, and how long it took from the
/// head. With `?format=text` the number of bytes alone.
pub(super) async fn upload(
    request: Request<RequestBody>,
    _settings: Arc<Settings>,
) -> Result<Response<EchoBody>, BoxError> {
    let wants_text = wants_text(&request)?;
    let began_at = Instant::now();
    let mut body = request.into_body();
    let mut tally = Tally::default();
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await.transpose()? else { break };
        if let Ok(data) = frame.into_data() {
            tally.add(&data);
        }
    }
    let bytes = tally.bytes();
    if wants_text {
        return Ok(answer::text(StatusCode::OK, bytes.to_string()));
    }
    let elapsed_ms = began_at.elapsed().as_secs_f64() * 1e3;
    let seen = json!({ "bytes_received": bytes, "sha256": tally.hex(), "elapsed_ms": elapsed_ms });
    Ok(answer::json(StatusCode::OK, &seen))
}
