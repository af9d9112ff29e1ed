//! What clients see, over real sockets. One program, so that it links once; a file per kind of trouble.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test's helper fails the test by panicking, and says why where the test's output goes"
)]

mod admin;
mod command_line;
mod drain;
mod echo;
mod harness;
mod limits;
mod logs;
mod memory;
mod metrics;
mod slow_clients;
#[cfg(feature = "otel")]
mod traces;
