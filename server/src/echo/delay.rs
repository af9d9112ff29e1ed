//! `/delay/{duration}`: a slow upstream. It is a future and no thread: a client that leaves takes it along.

use std::sync::Arc;

use http::{Request, Response};

use super::{answer::Refusal, body::EchoBody, controls::Caps, inspect, query::path_tail, settings::Settings};
use crate::request::{BoxError, RequestBody};

/// Waits (a bare number is seconds), and then answers as `/anything` does.
pub(super) async fn delay(
    request: Request<RequestBody>,
    settings: Arc<Settings>,
) -> Result<Response<EchoBody>, BoxError> {
    let text = path_tail(request.uri(), "/delay/")?;
    let delay = Caps::of(&settings.config)
        .delay(&text)
        .map_err(|why| Refusal::bad_request(format!("delay {text:?} in the path {why}")))?;
    tokio::time::sleep(delay).await;
    inspect::anything(request, settings).await
}
