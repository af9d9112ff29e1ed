//! Failures of ours in the log, each with its request's id and trace: without them a client's complaint, the line and the
//! trace never meet. What is the client's fault, or the load's, is counted and has no line of its own.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Response};

use super::{Intended, failure::Failure, response::ResponseBody, trace::SampledTrace};
use crate::telemetry::throttle::Throttle;

/// So many lines per second; the failures without one are counted in the next.
static LINES: Throttle = Throttle::new(20, Duration::from_secs(1));

/// What went wrong on our side, on its way from who knows it to who knows the request.
#[derive(Clone, Debug)]
pub(super) struct Fault(Arc<str>);

impl Fault {
    /// `None` where the failure is not ours.
    pub(super) fn of(failure: &Failure) -> Option<Self> {
        match failure {
            Failure::Panic | Failure::Service(_) | Failure::Deadline(_) => {
                Some(Self(failure.to_string().into()))
            }
            Failure::Shed(_) | Failure::Body(_) | Failure::Refused(_) => {
                tracing::debug!("{failure}");
                None
            }
        }
    }
}

/// Logs a failure of ours, if the response is one.
pub(super) fn report<B>(
    response: &mut Response<ResponseBody<B>>,
    id: &HeaderValue,
    trace: Option<&SampledTrace>,
) {
    let status = response.status();
    if !status.is_server_error() || response.extensions().get::<Intended>().is_some() {
        return;
    }
    let fault = response.extensions_mut().remove::<Fault>();
    if fault.is_none() && !response.body().is_of_service() {
        return;
    }
    let Some(suppressed) = LINES.admit() else { return };
    let _entered = trace.map(SampledTrace::enter);
    tracing::error!(
        status = status.as_u16(),
        request_id = id.to_str().unwrap_or(""),
        suppressed = (suppressed > 0).then_some(suppressed),
        "{}",
        fault.as_ref().map_or("the service answered with an error", |fault| &*fault.0)
    );
}
