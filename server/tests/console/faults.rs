//! Each seeded fault is found by what tokio-console is told of it: by the five lints of its terminal, where there is one.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

use console_api::tasks::Stats;

use crate::{
    harness::{Client, PATIENCE, Program, Response, metric},
    watch::{Seen, Task, Watched, busy, polls},
};

/// A console that watches a lab, and a client that has asked for the fault and waits for the answer.
fn seed(path: &str, args: &[&str]) -> (Watched, JoinHandle<Response>) {
    let watched = Watched::start(&[&["--lab=on", "--workers=2"], args].concat());
    let (address, path) = (watched.program.addr, path.to_owned());
    let client = std::thread::spawn(move || get(address, &path));
    (watched, client)
}

fn get(address: SocketAddr, path: &str) -> Response {
    let mut client = Client::connect(address);
    client.send(format!("GET {path} HTTP/1.1\r\nhost: lab\r\nconnection: close\r\n\r\n").as_bytes());
    client.response()
}

fn answered(client: JoinHandle<Response>) {
    let response = client.join().unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
}

/// `self-wakes`: more than half of the wake-ups are the task's own.
fn wakes_itself(stats: &Stats) -> bool {
    stats.wakes > 0 && stats.self_wakes * 2 > stats.wakes
}

/// `never-yielded`: in its first poll, for a second at least.
fn never_yields(stats: &Stats, now: SystemTime) -> bool {
    let since = stats.poll_stats.as_ref().and_then(|polls| polls.last_poll_started);
    let since: Option<SystemTime> = since.map(|since| since.try_into().unwrap());
    polls(stats) <= 1
        && is_running(stats)
        && since.is_some_and(|since| now.duration_since(since).is_ok_and(|ran| ran >= Duration::from_secs(1)))
}

/// `lost-waker`: idle, with nobody to wake it.
fn has_lost_its_waker(stats: &Stats) -> bool {
    stats.dropped_at.is_none()
        && polls(stats) > 0
        && !is_running(stats)
        && stats.waker_clones == stats.waker_drops
        && stats.last_wake.is_none()
}

/// `auto-boxed-future` and `large-future`.
fn was_boxed(task: &Task) -> bool {
    task.original_size.is_some_and(|original| original > task.size)
}

fn is_running(stats: &Stats) -> bool {
    let polls = stats.poll_stats.as_ref();
    let at = |stamp: Option<prost_types::Timestamp>| stamp.map(|at| (at.seconds, at.nanos));
    polls.is_some_and(|polls| at(polls.last_poll_started) > at(polls.last_poll_ended))
}

fn some(seen: &Seen, name: &str, is_it: impl Fn(&Stats) -> bool) -> bool {
    seen.named(name).any(|(_, stats)| is_it(stats))
}

#[test]
fn a_poll_that_blocks_is_found_by_its_busy_time_per_poll() {
    let (mut watched, client) = seed("/lab/block?for=300ms", &[]);
    let seen = watched
        .console
        .until("it has ended", |seen| some(seen, "lab block", |stats| stats.dropped_at.is_some()));
    let (_, stats) = seen.named("lab block").next().unwrap();
    let per_poll = busy(stats) / u32::try_from(polls(stats)).unwrap();
    assert!(per_poll >= Duration::from_millis(10), "{per_poll:?} {stats:?}");
    answered(client);
}

#[test]
fn a_slow_poll_is_counted_and_named_with_the_place_that_spawned_its_task() {
    let (program, log) = Program::start_with_log(&["--console=127.0.0.1:0", "--lab=on", "--slow-poll=10ms"]);
    assert_eq!(get(program.addr, "/lab/block?for=100ms").status, 200);
    assert!(metric(program.admin, "tokio_slow_polls_total", "") > 0);
    let mut lines = BufReader::new(log).lines();
    let line = lines.find(|line| line.as_ref().unwrap().contains("a poll took longer")).unwrap().unwrap();
    assert!(line.contains("lab.rs:") && line.contains("--slow-poll 10ms"), "{line}");
}

#[test]
fn a_dump_says_where_each_task_stands_on_either_runtime() {
    for runtime in ["work-stealing", "per-core"] {
        let (mut watched, client) = seed("/lab/lock?for=10s", &["--runtime", runtime]);
        watched.console.until("the task is there", |seen| seen.live("lab lock") == 1);
        let text = get(watched.program.admin, "/debug/tasks").text();
        for part in ["data-0: ", "echo_server::socket::accept", "echo_server::lab::hold"] {
            assert!(text.contains(part), "{runtime}: no {part} in {text}");
        }
        answered(client);
    }
}

#[test]
fn a_dump_of_a_blocked_runtime_ends_and_says_so() {
    let (watched, client) = seed("/lab/never-yield?for=6s", &["--slow-poll=1s"]);
    let began = Instant::now();
    let text = loop {
        let text = get(watched.program.admin, "/debug/tasks").text();
        if text.contains("no dump within 2s") {
            break text;
        }
        assert!(began.elapsed() < PATIENCE, "{text}");
    };
    assert!(text.contains("a worker is blocked"), "{text}");
    answered(client);
}

#[test]
fn a_task_that_wakes_itself_is_found_by_its_self_wakes() {
    let (mut watched, client) = seed("/lab/self-wake?for=500ms", &[]);
    let seen = watched.console.until("it wakes itself", |seen| some(seen, "lab self-wake", wakes_itself));
    assert!(!some(seen, "h1 connection", wakes_itself), "a healthy task is told from it");
    answered(client);
}

#[test]
fn a_lock_held_across_an_await_is_found_by_who_waits_for_it() {
    let (mut watched, client) = seed("/lab/lock?for=5s", &["--console-resources=on"]);
    watched.console.until("one holds it", |seen| seen.live("lab lock") == 1);
    let address = watched.program.addr;
    let others: Vec<_> =
        (0..3).map(|_| std::thread::spawn(move || get(address, "/lab/lock?for=1ms"))).collect();
    watched.console.until("three tasks wait for one lock", |seen| {
        let waiting = |id: &u64| seen.async_op_stats.get(id).is_some_and(|op| op.dropped_at.is_none());
        let waits = seen.async_ops.iter().filter(|(id, op)| op.source == "Mutex::lock" && waiting(id));
        waits.count() >= 3 && seen.live("lab lock") == 4
    });
    answered(client);
    others.into_iter().for_each(answered);
}

#[test]
fn a_task_that_never_yields_is_found_while_it_runs() {
    let (mut watched, client) = seed("/lab/never-yield?for=4s", &[]);
    watched.console.until("it is caught", |seen| {
        seen.now.is_some_and(|now| some(seen, "lab never-yield", |stats| never_yields(stats, now)))
    });
    answered(client);
}

#[test]
fn a_task_that_leaks_is_found_by_its_lost_waker() {
    let (mut watched, client) = seed("/lab/leak", &["--drain-grace=0s"]);
    answered(client);
    let seen = watched.console.until("it is left over", |seen| some(seen, "lab leak", has_lost_its_waker));
    let accept = format!("accept {}", watched.program.addr);
    assert!(!some(seen, &accept, has_lost_its_waker), "a healthy task is told from it");
    watched.program.terminate();
    let (report, code) = watched.program.wait();
    assert_eq!(code, Some(0), "a leaked task holds no request, so nothing is lost: {report}");
}

#[test]
fn a_huge_future_is_found_by_its_size() {
    let (mut watched, client) = seed("/lab/huge-future?for=500ms", &[]);
    let seen = watched.console.until("it is there", |seen| seen.named("lab huge-future").count() > 0);
    let (task, _) = seen.named("lab huge-future").next().unwrap();
    assert!(task.original_size.is_some_and(|bytes| bytes >= 24 * 1024), "{task:?}");
    assert!(was_boxed(task), "tokio has boxed it: {task:?}");
    answered(client);
}

#[test]
fn the_lab_is_closed_unless_it_is_asked_for_and_refuses_what_it_cannot_do() {
    assert_eq!(get(Watched::start(&["--catch-all=404"]).program.addr, "/lab/block").status, 404);
    let open = Watched::start(&["--lab=on"]);
    for (path, status, part) in [
        ("/lab/", 404, "/lab/block"),
        ("/lab/block?for=1h", 400, "for=1h: must be 1ms to 10s"),
        ("/lab/crowd?tasks=0", 400, "tasks=0: must be 1 to 1000000"),
        ("/", 200, "echo-server"),
    ] {
        let response = get(open.program.addr, path);
        assert!(response.status == status && response.text().contains(part), "{path}: {response:?}");
    }
}
