//! What clients see, over real sockets. One program, so that it links once; a file per kind of trouble.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test's helper fails the test by panicking, and says why where the test's output goes"
)]

mod admin;
mod command_line;
mod conformance;
mod controls;
mod drain;
mod echo;
mod faults;
mod harness;
mod http2_attacks;
mod http2_frames;
mod inspect;
mod lifecycle;
mod limits;
mod logs;
mod matrix;
mod memory;
mod metrics;
mod openapi;
mod overload;
mod payload;
mod proxy;
mod restart;
mod slow_clients;
mod smuggling;
mod status;
mod streams;
mod tls;
mod tls_client;
#[cfg(feature = "otel")]
mod traces;
mod unix;
mod upload;
mod websocket;
