//! An HTTP load generator whose every report carries its own proof.
//!
//! The modules in the order in which a run meets them: [`cli`] turns flags into a [`plan`]; [`schedule`] says
//! when each request is due and [`pacer`] waits for it; [`dispatch`] picks its connection on a worker (one
//! thread, one runtime, nothing shared); [`engine`] sends [`body`] and head and reads the response, which
//! [`verify`] checks byte by byte; [`record`] counts it and keeps its [`latency`]. [`run`] leads the workers,
//! [`live`] shows their progress, [`verdict`] says what the figures are worth, [`report`] prints them. [`demo`]
//! does all of that against a server of its own; [`program`] is the command.

mod addresses;
pub mod board;
pub mod body;
pub mod cli;
pub mod clock;
mod connection;
pub mod course;
pub mod demo;
pub mod dispatch;
pub mod engine;
mod environment;
pub mod failure;
pub mod fd_limit;
pub mod healthcheck;
pub mod latency;
pub mod live;
pub mod metrics;
mod opening;
pub mod pacer;
mod patrol;
pub mod plan;
pub mod program;
mod pulse;
pub mod record;
pub mod report;
pub mod run;
pub mod schedule;
pub mod stages;
pub mod target;
mod trace;
mod units;
pub mod verdict;
pub mod verify;
mod worker;
