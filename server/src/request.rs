//! One request, from its head to the end of its response body: the layers that stand around any service.

mod account;
mod admission;
mod body;
mod conformance;
mod deadline;
mod failure;
mod fault;
pub(crate) mod forwarded;
mod gate;
mod id;
mod meter;
mod place;
mod polls;
mod record;
mod rescue;
mod response;
mod stack;
mod trace;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

pub use self::body::{BodyError, RequestBody};
pub(crate) use self::{
    conformance::is_authority,
    failure::error_body,
    gate::Gate,
    id::RequestId,
    place::{PlaceKeeper, StreamPlace},
    polls::{BodyPolls, LastPoll},
    stack::{Stack, stack},
};

/// A tower service that [`serve`](crate::serve) can run. Implemented for every one that fits: an alias for its bounds.
///
/// Any body of `Bytes` will do as response body; errors end as a status (before the head) or as a cut response.
pub trait HttpService:
    Service<
        Request<RequestBody>,
        Response = Response<Self::ResponseBody>,
        Error: Into<BoxError>,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
    /// The body of the responses.
    type ResponseBody: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<RequestBody>, Response = Response<B>, Error: Into<BoxError>, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type ResponseBody = B;
}

/// Put into a response's extensions by a service whose response has no natural end (server-sent events, a WebSocket): it
/// then counts against `streams_max` and no longer against the limit of requests, which it would fill up for ever.
#[derive(Clone, Copy, Debug)]
pub struct LongLived;

/// Put into the extensions of a response by a service that was asked for an error, so that the log does not take it for
/// a failure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intended;

/// Any error a service or body may have.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
