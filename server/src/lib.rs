//! A server core for production async Rust, and the echo server that shows it.
//!
//! [`serve`] runs any tower service behind every limit, deadline and drain phase of [`Config`]; [`Server`] and [`cli()`]
//! are the echo server as a process. The modules stand in the order in which the bytes of a request meet them:
//!
//! ```text
//! socket::listen     bind, with every option explicit
//! socket::accept     connection limit; what to do when descriptors run out
//! socket::progress   deadlines on reading our responses
//! connection         HTTP/1.1 or HTTP/2, under a deadline; idle, head and drain deadlines
//! request            meter -> rescue -> admission -> trace -> deadline
//! echo               the endpoints, or your service
//! ```
//!
//! Beside the path: [`config`](Config) (every limit, once), `drain` (phases), `admin` (health and metrics on a thread of
//! its own), `runtime` (work stealing or one runtime per core), `task` (the only place that spawns), `telemetry`.

mod activity;
mod admin;
mod cli;
mod config;
mod connection;
mod core;
mod drain;
mod echo;
mod healthcheck;
#[cfg(feature = "console")]
mod lab;
mod phase;
mod request;
mod runtime;
mod server;
mod socket;
mod task;
mod telemetry;

pub use self::{
    cli::cli,
    config::{Config, ConfigError, Kind, LogFormat, Runtime, SETTINGS, Setting, limits_table},
    drain::DrainReport,
    echo::{Echo, EchoBody, EchoFuture},
    phase::Phase,
    request::{BodyError, BoxError, HttpService, RequestBody},
    server::{Server, ServerError, serve},
    socket::listen::Listener,
};
