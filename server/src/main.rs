//! The `echo-server` program. Everything is in the library, so that `loadgen demo` runs the same server.

use std::process::ExitCode;

fn main() -> ExitCode {
    echo_server::cli(std::env::args_os())
}
