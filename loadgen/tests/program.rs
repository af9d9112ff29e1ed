//! Without tests of the program as users call it, flags, exit codes and reports could drift from the library.

mod support;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use support::{EchoServer, Guard, TempFile, loadgen, program, scripted, text};

#[test]
fn without_arguments_it_says_what_to_type() {
    let output = loadgen(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("loadgen demo"));
}

#[test]
fn wrong_usage_exits_with_2_and_names_the_flag() {
    let missing = ["-D", "/nonexistent/body", "http://127.0.0.1:1/"];
    for (args, flag) in [
        (&["-c", "0", "http://127.0.0.1:1/"] as &[&str], "-c/--connections"),
        (&["-q", "0", "http://127.0.0.1:1/"], "-q/--rate"),
        (&["-n", "0", "http://127.0.0.1:1/"], "-n/--requests"),
        (&["-z", "0", "http://127.0.0.1:1/"], "-z/--duration"),
        (&["-z", "soon", "http://127.0.0.1:1/"], "--duration"),
        (&["--stages", "10s-5", "http://127.0.0.1:1/"], "--stages"),
        (&["--stages", "1s@0", "http://127.0.0.1:1/"], "--stages"),
        (&["--stages", "1s@5", "-q", "5", "http://127.0.0.1:1/"], "-q/--rate or --stages"),
        (&["--repeat", "-n", "5", "http://127.0.0.1:1/"], "-n/--requests or --repeat"),
        (&["--metrics", "9091", "http://127.0.0.1:1/"], "--metrics"),
        (&["-t", "2h", "http://127.0.0.1:1/"], "-t/--timeout"),
        (&["-H", "no colon", "http://127.0.0.1:1/"], "--header"),
        (&["-d", "a", "-D", "b", "http://127.0.0.1:1/"], "--data-file"),
        (&["--body-size", "big", "http://127.0.0.1:1/"], "--body-size"),
        (&["--check", "maybe", "http://127.0.0.1:1/"], "--check"),
        (&["--check", "echo", "-m", "HEAD", "http://127.0.0.1:1/"], "--check"),
        (&["--threads", "0", "http://127.0.0.1:1/"], "--threads"),
        (&["--json", "/nonexistent/run.json", "http://127.0.0.1:1/"], "--json"),
        (&missing, "-D/--data-file"),
        (&["ftp://127.0.0.1:1/"], "the URL"),
        (&["--streams", "2", "http://127.0.0.1:1/"], "--http2"),
        (&["--http2", "-H", "Connection: close", "http://127.0.0.1:1/"], "-H or --http2"),
        (&["--insecure", "http://127.0.0.1:1/"], "--insecure"),
        (&["--cacert", "/nonexistent/ca.pem", "https://127.0.0.1:1/"], "--cacert"),
        (&["--cert", "/nonexistent/cert.pem", "https://127.0.0.1:1/"], "--key"),
        (&["--key", "/nonexistent/key.pem", "https://127.0.0.1:1/"], "--cert"),
        (&["demo", "--seconds", "0"], "--seconds"),
    ] {
        let output = loadgen(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(flag), "{args:?}: {stderr}");
    }
}

#[test]
fn connections_that_the_fd_limit_does_not_allow_are_refused_with_the_limit_and_the_flag() {
    let limited = "ulimit -n 256 && exec \"$0\" -c 1000 http://127.0.0.1:1/";
    let output = Command::new("sh").args(["-c", limited, env!("CARGO_BIN_EXE_loadgen")]).output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("1000 connections") && stderr.contains("the limit is 256"), "{stderr}");
    assert!(stderr.contains("-c/--connections"), "{stderr}");
}

#[test]
fn a_target_that_nobody_listens_on_fails_with_the_class() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let output = loadgen(&["-n", "10", &format!("http://{addr}/")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("connect_refused"));
    let unknown = loadgen(&["-n", "10", "http://name.invalid/"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("dns: 'name.invalid'"));
}

#[test]
fn the_json_holds_the_figures_of_the_text_and_the_counts_are_exact() {
    let server = EchoServer::start();
    let json = TempFile::new("figures.json");
    let flags = ["-n", "3k", "-c", "7", "--threads", "3", "--body-size", "64,16k", "--seed", "5"];
    let output = loadgen(&[flags.as_slice(), &["--json", &json.0, &server.url()]].concat());
    let stdout = text(&output.stdout);
    // Whether this machine has the time to make it VALID is not what is tested here.
    assert!(matches!(output.status.code(), Some(0 | 4)), "{stdout}");

    let report = json.json();
    let counts = &report["counts"];
    assert_eq!((&counts["scheduled"], &counts["ok"]), (&3_000.into(), &3_000.into()));
    assert_eq!(counts["body_bytes_sent"], counts["body_bytes_received"]);
    assert!(stdout.contains("scheduled 3000 = sent 3000 + unsent 0"));
    assert!(stdout.contains("sent 3000 = ok 3000 + errors 0 + in flight at end 0: both hold"));
    assert!(stdout.contains(&format!("bytes      {} of bodies sent", counts["body_bytes_sent"])));
    assert!(stdout.contains(report["verdict"]["reason"].as_str().unwrap()));
    assert!(stdout.contains("seed 5") && report["config"]["seed"] == 5);
    assert_eq!(report["latency_ns"]["response"]["count"], 3_000);
    assert_eq!(report["latency_ns"]["response"]["p999"], Value::Null);
    assert_eq!(report["checks"]["latency_identity"], true);

    // The same seed sends the same bytes again.
    loadgen(&[flags.as_slice(), &["--json", &json.0, &server.url()]].concat());
    let again = json.json();
    assert_eq!(again["counts"]["body_bytes_sent"], counts["body_bytes_sent"]);
}

#[test]
fn the_warmup_is_counted_apart_and_a_wrong_echo_in_it_fails_the_run() {
    let addr = scripted(|request| {
        let mut echo = request.echo();
        if request.number() == 3 {
            *echo.last_mut().unwrap() ^= 1;
        }
        (echo, support::Then::KeepOpen)
    });
    let url = format!("http://{addr}/");
    let flags = ["-q", "500", "-n", "1000", "--warmup", "100ms", "-c", "2", "-d", "text"];
    let output = loadgen(&[flags.as_slice(), &[url.as_str()]].concat());
    let stdout = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stdout}");
    assert!(stdout.contains("sent 1000 = ok 1000 + errors 0"), "{stdout}");
    assert!(stdout.contains("sent 50 = ok 49 + errors 1"), "{stdout}");
    assert!(stdout.contains("wrong_body"), "{stdout}");
}

#[test]
fn a_signal_ends_the_run_with_a_partial_report_and_its_own_exit_code() {
    let server = EchoServer::start();
    for (signal, name, code) in [(Signal::INT, "SIGINT", 130), (Signal::TERM, "SIGTERM", 143)] {
        let mut command = program(&["-q", "200", "-z", "10m", "--body-size", "64", &server.url()]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Guard(command.spawn().unwrap());
        // The first line of progress says that it runs.
        let mut progress = BufReader::new(child.0.stderr.take().unwrap());
        progress.read_line(&mut String::new()).unwrap();
        kill_process(Pid::from_child(&child.0), signal).unwrap();
        let mut stdout = String::new();
        child.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        assert_eq!(child.0.wait().unwrap().code(), Some(code));
        assert!(stdout.contains(&format!("PARTIAL REPORT: the run was cut short by {name}")), "{stdout}");
        assert!(stdout.contains("in flight at end 0: both hold"), "{stdout}");
    }
}

#[test]
fn stages_send_their_integral_and_end_the_run() {
    let server = EchoServer::start();
    let json = TempFile::new("stages.json");
    let stages = "200ms@500,400ms@500->1000,200ms@1k->0,100ms@0,100ms@70";
    let output = loadgen(&["--stages", stages, "-c", "4", "--json", &json.0, &server.url()]);
    let stdout = text(&output.stdout);
    // Whether this machine has the time to make it VALID is not what is tested here.
    assert!(matches!(output.status.code(), Some(0 | 4)), "{stdout}");
    let report = json.json();
    assert_eq!(report["counts"]["scheduled"], 100 + 300 + 100 + 7);
    assert_eq!(report["counts"]["ok"], report["counts"]["scheduled"]);
    assert_eq!(report["offered_rate_per_second"], 507.0);
    let canonical = stages.replace("1k", "1000");
    assert_eq!(report["config"]["stages"], canonical);
    assert!(stdout.contains(&format!("mode       open loop, stages {canonical}\n")), "{stdout}");
}

#[test]
fn the_environment_sets_what_the_command_line_does_not() {
    let server = EchoServer::start();
    let json = TempFile::new("twins.json");
    let set = |args: &[&str]| {
        let mut command = program(args);
        command
            .env("LOADGEN_URL", server.url())
            .env("LOADGEN_JSON", &json.0)
            .env("LOADGEN_BODY_SIZE", "64,128");
        command.env("LOADGEN_CONNECTIONS", "3").env("LOADGEN_NO_PROGRESS", "true").env("LOADGEN_THREADS", "");
        command
    };
    // An empty variable is none, as compose files write it.
    let empty = set(&[])
        .env("LOADGEN_RATE", "")
        .env("LOADGEN_STAGES", "100ms@500")
        .env("LOADGEN_REPEAT", "")
        .output();
    let empty = empty.unwrap();
    // Too few samples for a verdict.
    assert_eq!(empty.status.code(), Some(4), "{}", text(&empty.stderr));
    assert_eq!(text(&empty.stderr), "");
    let config = json.json()["config"].clone();
    assert_eq!((&config["stages"], &config["rate_per_second"]), (&"100ms@500".into(), &Value::Null));
    assert_eq!((&config["connections"], &config["body"]["sizes_bytes"]), (&3.into(), &vec![64, 128].into()));

    // A flag beats its twin, and the twins of what it excludes.
    let flags = ["-q", "300", "-n", "30", "-c", "2", "-d", "x"];
    let beaten = set(&flags).env("LOADGEN_STAGES", "1s@5").env("LOADGEN_REPEAT", "true").output().unwrap();
    assert_eq!(beaten.status.code(), Some(4), "{}", text(&beaten.stderr));
    let report = json.json();
    assert_eq!((&report["counts"]["ok"], &report["config"]["connections"]), (&30.into(), &2.into()));

    let wrong = set(&[]).env("LOADGEN_RATE", "fast").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(text(&wrong.stderr).contains("'fast' for '--rate <RATE>'"), "{}", text(&wrong.stderr));
    let clash = set(&[]).env("LOADGEN_RATE", "5").env("LOADGEN_STAGES", "1s@5").output().unwrap();
    assert!(text(&clash.stderr).contains("-q/--rate or --stages"), "{}", text(&clash.stderr));
}

#[test]
fn the_health_check_tells_2xx_from_all_else() {
    let good = scripted(|_| (b"HTTP/1.1 204 Fine\r\n\r\n".to_vec(), support::Then::Close));
    let bad =
        scripted(|_| (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec(), support::Then::Close));
    let mute = scripted(|_| (b"HTTP/1.1 2".to_vec(), support::Then::Hang));
    let endless = scripted(|_| (vec![b'x'; 100_000], support::Then::Hang));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // What a container sets for its run does not disturb it.
    let check = |addr: std::net::SocketAddr| {
        let url = format!("http://{addr}/livez");
        program(&["healthcheck", &url])
            .env("LOADGEN_URL", "http://x/")
            .env("LOADGEN_REPEAT", "true")
            .output()
            .unwrap()
    };
    let healthy = check(good);
    assert_eq!((healthy.status.code(), text(&healthy.stdout)), (Some(0), "HTTP/1.1 204 Fine\n".to_owned()));
    for (addr, why) in
        [(bad, "answered 'HTTP/1.1 503 Busy'"), (mute, "2s"), (endless, "answered 'xxx"), (nobody, "refused")]
    {
        let output = check(addr);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(&addr.to_string()) && stderr.contains(why), "{stderr}");
    }
}

#[test]
fn a_large_file_is_echoed_and_checked_without_being_collected() {
    const MIB: u64 = 1 << 20;
    let server = EchoServer::start();
    let file = TempFile::new("large.bin");
    let mut content = vec![0; 64 << 20];
    fastrand::Rng::with_seed(9).fill(&mut content);
    std::fs::write(&file.0, content).unwrap();

    let mut command = program(&["-n", "4", "-c", "2", "-D", &file.0, &server.url()]);
    let mut child = Guard(command.stdout(Stdio::piped()).spawn().unwrap());
    let status = format!("/proc/{}/status", child.0.id());
    let mut peak = 0;
    while child.0.try_wait().unwrap().is_none() {
        // The high-water mark only grows, so the last look before the end is the one that counts.
        peak = peak.max(high_water(&status).unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mut stdout = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert!(stdout.contains("sent 4 = ok 4 + errors 0"), "{stdout}");
    assert!(stdout.contains(&format!("bytes      {0} of bodies sent, {0} received", 256 * MIB)), "{stdout}");
    // The file itself is held once; two echoes at a time would be 128 MiB more.
    assert!(peak > 64 * MIB && peak < 96 * MIB, "peak of {} MiB", peak / MIB);
}

/// `VmHWM` of a process in bytes, while it lives.
fn high_water(status: &str) -> Option<u64> {
    let status = std::fs::read_to_string(status).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

#[test]
fn the_demo_finds_both_sides_counting_the_same() {
    let json = TempFile::new("demo.json");
    let output = loadgen(&["demo", "--seconds", "2", "--rate-fraction", "0.3", "--json", &json.0]);
    let stdout = text(&output.stdout);
    assert!(matches!(output.status.code(), Some(0 | 4)), "{stdout}{}", text(&output.stderr));
    // Both phases, or twice both if something else took the cores meanwhile.
    assert!(
        matches!(stdout.matches(" down: equal").count(), 2 | 4) && !stdout.contains("DIFFERENT"),
        "{stdout}"
    );
    assert!(stdout.contains("0 requests lost"), "{stdout}");
    let report = json.json();
    let sent = |phase: &str| report[phase]["sent"].as_u64().unwrap();
    assert_eq!(report["server"]["requests"], sent("counts") + sent("warmup"));
}
