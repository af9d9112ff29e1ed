//! Without HTTP/2, a run could not tell whether many requests on one connection wait for each other.
//!
//! Over the h2 crate and not over hyper's client: only there a refused stream, a GOAWAY and an error of our own can be
//! told apart, and a request costs no task and no channel.

mod body;
mod request;
pub mod session;
pub mod stream;

pub use self::request::Http2Template;
