//! Without what the kernel says of a server, its own counters would have to be believed.

use std::{fs, time::Duration};

use anyhow::Context as _;
use loadgen::demo::server::cpu_time;
use rustix::process::Pid;

/// What a process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since its start, in the kernel's ticks of 10 ms.
    pub cpu: Duration,
    /// Memory of its own (heap and stacks) that is in RAM: what its clients cost it in user space.
    pub anonymous_bytes: u64,
    /// Open descriptors.
    pub fds: u64,
}

impl Usage {
    /// What process `pid` uses now.
    ///
    /// # Errors
    /// If it is gone.
    pub fn of(pid: Pid) -> anyhow::Result<Self> {
        let pid = pid.as_raw_nonzero();
        let gone = || format!("process {pid} is gone");
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(gone)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(gone)?;
        Ok(Self {
            cpu: cpu_time(&stat).with_context(gone)?,
            anonymous_bytes: anonymous_bytes(&status).with_context(gone)?,
            fds: fs::read_dir(format!("/proc/{pid}/fd")).with_context(gone)?.count() as u64,
        })
    }
}

fn anonymous_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The processes of group `group` that are alive.
pub fn members(group: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter_map(Pid::from_raw).filter(|pid| is_member(*pid, group).unwrap_or(false)).collect()
}

/// Whether a process is in the group and no zombie: state, parent and group follow the name (proc(5)).
fn is_member(pid: Pid, group: Pid) -> Option<bool> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let (state, its_group) = (fields.next()?, fields.nth(1)?);
    Some(state != "Z" && its_group == group.as_raw_nonzero().to_string())
}

/// CPU time that the machine under this one took away so far, in ticks, over all cores (`/proc/stat`).
pub fn stolen_ticks() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = stat.lines().next().unwrap_or_default();
    first.split_whitespace().nth(8).and_then(|field| field.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_itself() {
        let usage = Usage::of(rustix::process::getpid()).unwrap();
        assert!(usage.anonymous_bytes > 0 && usage.fds > 2, "{usage:?}");
        let group = rustix::process::getpgrp();
        assert!(members(group).contains(&rustix::process::getpid()));
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 1 0 5 6 7";
        let ticks = 200 * 1_000 / rustix::param::clock_ticks_per_second();
        assert_eq!(cpu_time(stat), Some(Duration::from_millis(ticks)));
    }
}
