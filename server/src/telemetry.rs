//! Logs and metrics: without them nobody can say what the server did, or what it refused.

#[cfg(feature = "console")]
pub(crate) mod console;
pub(crate) mod exposition;
pub(crate) mod histogram;
pub(crate) mod log;
pub(crate) mod metrics;
mod proc;
#[cfg(tokio_unstable)]
pub(crate) mod slow_poll;
pub(crate) mod sources;
