//! Without it there is no command: the program is in the library, so that others can run it as their child.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    loadgen::program::main(&args)
}
