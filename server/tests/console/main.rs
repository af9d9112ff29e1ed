//! What tokio-console is shown, over the gRPC that it speaks: of a real server, of each seeded fault, and of 100,000 tasks.
//!
//! `cargo test -p echo-server --features console --test console`

#![expect(clippy::unwrap_used, reason = "a test's helper fails the test by panicking")]

mod crowd;
mod faults;
#[path = "../behaviour/harness.rs"]
#[expect(dead_code, reason = "another test uses the rest of it")]
mod harness;
mod tasks;
mod watch;
