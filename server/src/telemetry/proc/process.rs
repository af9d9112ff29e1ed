//! The process as the kernel sees it: memory, descriptors, threads and CPU, under the names that every Prometheus client
//! gives them; without them dashboards made for any process do not show this one.

use std::{
    collections::HashMap,
    fs,
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    param::clock_ticks_per_second,
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// User and system time of all threads, also of those that have ended.
pub(in crate::telemetry) fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Lines of `/proc/self/status`.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::telemetry) struct Memory {
    pub(in crate::telemetry) resident_bytes: u64,
    pub(in crate::telemetry) virtual_bytes: u64,
    pub(in crate::telemetry) threads: u64,
}

pub(in crate::telemetry) fn memory() -> Option<Memory> {
    memory_of(&fs::read_to_string("/proc/self/status").ok()?)
}

fn memory_of(status: &str) -> Option<Memory> {
    Some(Memory {
        resident_bytes: field(status, "VmRSS:")? * 1024,
        virtual_bytes: field(status, "VmSize:")? * 1024,
        threads: field(status, "Threads:")?,
    })
}

fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

/// Open file descriptors.
pub(crate) fn fds_open() -> Option<u64> {
    const FDS: &str = "/proc/self/fd";
    // Since Linux 6.2 the size of the directory is their number; counting a million entries takes a second.
    match fs::metadata(FDS).ok()?.len() {
        // The directory that is being read is open, too.
        0 => Some(fs::read_dir(FDS).ok()?.count().saturating_sub(1) as u64),
        size => Some(size),
    }
}

/// The limit of file descriptors that now holds; `None` if there is none.
pub(crate) fn fds_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// When the process was started, in seconds since 1970. Found out once: the kernel keeps it in ticks since boot, and
/// the wall clock, which is corrected, must not make it look like a restart.
pub(in crate::telemetry) fn start_time() -> Option<f64> {
    static START: LazyLock<Option<f64>> = LazyLock::new(|| {
        let started = started_after_boot(&fs::read_to_string("/proc/self/stat").ok()?)?;
        let now_after_boot = Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
        let age = now_after_boot.checked_sub(started)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(now.checked_sub(age)?.as_secs_f64())
    });
    *START
}

/// Field 22 of `/proc/self/stat`. The second field, the name, may hold spaces and brackets itself.
fn started_after_boot(stat: &str) -> Option<Duration> {
    let (_name, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}

/// Context switches of the whole process. The kernel gives them by thread (`getrusage` has the sum, but no safe
/// interface here), and a counter must not fall when a thread ends.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct Switches {
    living: HashMap<u64, [u64; 2]>,
    /// Of threads that have ended, as last seen.
    ended: [u64; 2],
}

impl Switches {
    /// Takes the voluntary and involuntary switches of each living thread; returns those of all threads ever seen.
    pub(in crate::telemetry) fn observe(&mut self, threads: HashMap<u64, [u64; 2]>) -> [u64; 2] {
        for (thread, before) in &self.living {
            // Fewer than before: another thread that was given the same number.
            let is_the_same =
                threads.get(thread).is_some_and(|now| now[0] >= before[0] && now[1] >= before[1]);
            if !is_the_same {
                self.ended = [self.ended[0] + before[0], self.ended[1] + before[1]];
            }
        }
        self.living = threads;
        self.living.values().fold(self.ended, |sum, thread| [sum[0] + thread[0], sum[1] + thread[1]])
    }
}

/// The switches of each living thread, by its number.
pub(in crate::telemetry) fn switches_by_thread() -> Option<HashMap<u64, [u64; 2]>> {
    let threads = fs::read_dir("/proc/self/task").ok()?;
    // A thread that has ended since is no error.
    let switches = threads.filter_map(|thread| {
        let thread = thread.ok()?;
        let status = fs::read_to_string(thread.path().join("status")).ok()?;
        Some((thread.file_name().to_str()?.parse().ok()?, switches_of(&status)?))
    });
    Some(switches.collect())
}

fn switches_of(status: &str) -> Option<[u64; 2]> {
    Some([field(status, "voluntary_ctxt_switches:")?, field(status, "nonvoluntary_ctxt_switches:")?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_by_the_names_of_its_lines() {
        let status = "Name:\tx\nVmPeak:\t  900 kB\nVmSize:\t  800 kB\nVmRSS:\t   70 kB\nThreads:\t5\n\
                      voluntary_ctxt_switches:\t6\nnonvoluntary_ctxt_switches:\t7\n";
        let expected = Memory { resident_bytes: 70 * 1024, virtual_bytes: 800 * 1024, threads: 5 };
        assert_eq!((memory_of(status), switches_of(status)), (Some(expected), Some([6, 7])));
        assert_eq!((memory_of("VmRSS:\t70 kB\n"), switches_of("")), (None, None), "a line is missing");
    }

    #[test]
    fn a_name_with_brackets_does_not_move_the_fields_of_stat() {
        let stat = format!("7 (a) b) S {} 250 0", ["1"; 18].join(" "));
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!(started_after_boot(&stat), Some(Duration::from_secs_f64(250.0 / ticks)));
        assert_eq!(started_after_boot("7 (a) S 1 2 3"), None);
    }

    #[test]
    fn switches_never_fall_when_threads_end_or_their_numbers_come_again() {
        let mut switches = Switches::default();
        assert_eq!(switches.observe(HashMap::from([(1, [10, 1]), (2, [20, 2])])), [30, 3]);
        assert_eq!(switches.observe(HashMap::from([(1, [11, 1])])), [31, 3], "2 has ended");
        assert_eq!(switches.observe(HashMap::from([(1, [12, 1]), (2, [5, 0])])), [37, 3], "2 is another");
        assert_eq!(switches.observe(HashMap::from([(1, [12, 1]), (2, [1, 0])])), [38, 3], "and another");
    }

    #[test]
    fn this_process_is_what_it_is() {
        let memory = memory().unwrap();
        assert!(
            memory.resident_bytes > 1 << 20 && memory.virtual_bytes >= memory.resident_bytes,
            "{memory:?}"
        );
        assert!(memory.threads >= 1 && cpu_time() > Duration::ZERO);
        let open = fds_open().unwrap();
        let listed = fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        assert!(open >= 3 && open.abs_diff(listed) < 50, "{open} against {listed}");
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() - start_time().unwrap();
        assert!((0.0..3600.0).contains(&age), "started {age} s ago");
        assert!(!switches_by_thread().unwrap().is_empty());
    }
}
