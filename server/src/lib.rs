//! A server core for production async Rust, and the echo server that shows it.
//!
//! [`serve`] runs any tower service behind every limit, deadline and drain phase of [`Config`]; [`Server`] and [`cli()`]
//! are the echo server as a process. The modules stand in the order in which the bytes of a request meet them:
//!
//! ```text
//! socket::listen     bind, with every option explicit
//! socket::accept     connection limit; what to do when descriptors run out
//! socket::progress   deadlines on reading our responses
//! connection         PROXY header, TLS; HTTP/1.1 or HTTP/2, under a deadline; framing held to the RFC; idle, head, age, drain
//! request            meter -> rescue -> conformance -> admission -> trace -> deadline
//! overload           how late each worker is; what is refused for it
//! echo               the endpoints, or your service
//! ```
//!
//! Beside the path: [`config`](Config) (every limit, once), `drain` (phases), `restart` (one process after another),
//! `overload` (who is refused), `admin` (health and metrics on a thread of its own), `runtime` (work stealing or one runtime per core), `task` (the only place that spawns), `telemetry`.

mod activity;
mod admin;
mod cli;
mod config;
mod connection;
mod core;
mod drain;
mod echo;
#[doc(hidden)]
pub mod fuzzing;
mod grammar;
mod healthcheck;
mod hostname;
#[cfg(feature = "console")]
mod lab;
mod overload;
mod phase;
mod request;
mod restart;
mod runtime;
mod server;
mod socket;
mod task;
mod telemetry;

pub use self::{
    cli::cli,
    config::{
        CatchAll, ClientAuth, Config, ConfigError, Kind, LogFormat, RequestsLimit, Runtime, SETTINGS, Secret,
        Setting, limits_table,
    },
    connection::tls::TlsError,
    drain::DrainReport,
    echo::{Echo, EchoBody, EchoFuture},
    phase::Phase,
    request::{BodyError, BoxError, HttpService, LongLived, RequestBody},
    server::{Server, ServerError, serve},
    socket::{listen::Listener, peer::Peer},
};
