//! One request, from its head to the end of its response body: the layers that stand around any service.

mod account;
mod admission;
mod body;
mod deadline;
mod failure;
mod fault;
mod gate;
mod id;
mod meter;
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
    failure::error_body,
    gate::Gate,
    id::RequestId,
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

/// Any error a service or body may have.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
