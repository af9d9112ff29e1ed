//! Flags, environment and file; and what a person sees when one of them is wrong.

use std::process::{Command, Output};

use crate::harness::program;

fn run(command: &mut Command) -> (Output, String) {
    let output = command.stderr(std::process::Stdio::piped()).output().unwrap();
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    (output, error)
}

#[test]
fn a_bad_value_names_itself_its_limit_and_its_flag_and_exits_2() {
    let file = std::env::temp_dir().join(format!("echo-server-test-{}.toml", std::process::id()));
    std::fs::write(&file, "body_max = \"lots\"\n").unwrap();
    let file = file.to_str().unwrap();
    for (args, env, parts) in [
        (vec!["--body-max", "lots"], None, ["--body-max", "\"lots\"", "0 to 1024GiB"]),
        (vec![], Some(("ECHO_DRAIN_GRACE", "soon")), ["ECHO_DRAIN_GRACE", "\"soon\"", "--drain-grace"]),
        (vec!["--config", file], None, ["body_max", "\"lots\"", "--body-max"]),
        (vec!["--config", "/nowhere.toml"], None, ["--config", "/nowhere.toml", "No such file"]),
        (
            vec!["--connections-max", "1000000"],
            None,
            ["--connections-max 1000000", "the limit is", "ulimit -n"],
        ),
        (vec!["--frobnicate"], None, ["--frobnicate", "unexpected", "--help"]),
    ] {
        let (output, error) = run(program().args(&args).envs(env));
        assert_eq!(output.status.code(), Some(2), "{args:?} {env:?}: {error}");
        for part in parts {
            assert!(error.contains(part), "{args:?} {env:?}: {error:?} lacks {part:?}");
        }
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let (output, error) = run(program().args(["--listen", &addr, "--admin", "127.0.0.1:0"]));
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&addr) && error.contains("another process listens there"), "{error}");
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let file = std::env::temp_dir().join(format!("echo-server-test-precedence-{}.toml", std::process::id()));
    std::fs::write(&file, "backlog = 1\nbody_max = 1\nrate_min = 1\n").unwrap();
    let (output, error) = run(program()
        .args(["--config", file.to_str().unwrap(), "--backlog=3", "--print-config"])
        .env("ECHO_BACKLOG", "2")
        .env("ECHO_BODY_MAX", "2"));
    std::fs::remove_file(file).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{error}");
    for line in ["backlog = \"3\"", "body_max = \"2\"", "rate_min = \"1\"", "first_byte_timeout = \"5s\""] {
        assert!(text.lines().any(|l| l == line), "{text} lacks {line}");
    }
}

#[test]
fn the_table_of_limits_in_the_docs_is_the_one_in_the_code() {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/LIMITS.md")).unwrap();
    assert!(
        docs == echo_server::limits_table(),
        "run `cargo run -p echo-server -- --print-limits > server/LIMITS.md`"
    );
}
