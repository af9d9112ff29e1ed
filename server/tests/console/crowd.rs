//! 100,000 tasks: what each costs, how large the console's first update is, and whether it misses anything.

use crate::{
    harness::{Client, metric, samples, scrape},
    watch::{Console, Watched},
};

const TASKS: u64 = 100_000;

/// What the stock console takes in one message.
const MESSAGE_MAX: usize = 4 * 1024 * 1024;

#[test]
fn a_hundred_thousand_tasks_are_watched_at_one_in_64() {
    let Watched { program, mut console } = Watched::start(&["--lab=on"]);
    let address = program.admin;
    let before = program.memory("VmRSS");
    let data = program.addr;
    let crowd = std::thread::spawn(move || {
        let mut client = Client::connect(data);
        client.send(format!("GET /lab/crowd?for=6s&tasks={TASKS} HTTP/1.1\r\nhost: lab\r\n\r\n").as_bytes());
        client.response()
    });
    let shown = usize::try_from(TASKS.div_ceil(64)).unwrap();
    let seen = console.until("the crowd is there", |seen| seen.live("crowd") >= shown);
    assert_eq!((seen.live("crowd"), seen.dropped), (shown, 0));
    let live = metric(address, "echo_tasks", "crowd");
    let per_task = (program.memory("VmRSS") - before) / live;
    assert_eq!(live, TASKS, "the metric counts those that are not shown, too");

    let mut second = Console::attach(&console.address);
    let seen = second.until("a console that comes late knows them", |seen| seen.live("crowd") >= shown);
    eprintln!(
        "{TASKS} tasks: {per_task} bytes each, first update {} bytes for {} tasks, {} events dropped",
        seen.first_update_bytes,
        seen.tasks.len(),
        seen.dropped
    );
    assert!(seen.first_update_bytes < MESSAGE_MAX && seen.dropped == 0, "{}", seen.first_update_bytes);
    // Stock: 51 KB each.
    assert!(per_task < 4096, "{per_task} bytes per task");
    assert_eq!(crowd.join().unwrap().status, 200);
    console.until("the crowd has gone", |seen| seen.live("crowd") == 0);
    let text = scrape(address);
    let dropped: Vec<_> = samples(&text, "echo_console_events_dropped_total", "").collect();
    assert_eq!(dropped, ["0"]);
}
