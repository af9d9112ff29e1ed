//! Health on the data port, for those who can reach no other: what probes there also learns whether data gets through.

use http::{Request, Response, StatusCode};

use super::{
    answer::{self, Refusal},
    body::EchoBody,
    settings::Settings,
};
use crate::request::{Intended, RequestBody};

/// `/livez`, `/healthz`: 200 while the process works, also while it drains.
#[expect(clippy::unnecessary_wraps, reason = "the form of a handler")]
pub(super) fn alive(
    _request: &Request<RequestBody>,
    _settings: &Settings,
) -> Result<Response<EchoBody>, Refusal> {
    Ok(answer::text(StatusCode::OK, "alive\n"))
}

/// `/readyz`, `/health`: 200 where new clients are welcome, else 503 with the phase.
#[expect(clippy::unnecessary_wraps, reason = "the form of a handler")]
pub(super) fn ready(
    request: &Request<RequestBody>,
    _settings: &Settings,
) -> Result<Response<EchoBody>, Refusal> {
    let lifecycle = &request.body().activity().core().lifecycle;
    if lifecycle.is_ready() {
        return Ok(answer::text(StatusCode::OK, "ready\n"));
    }
    let mut response =
        answer::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {}\n", lifecycle.phase().name()));
    // A fact, and no failure.
    response.extensions_mut().insert(Intended);
    Ok(response)
}
