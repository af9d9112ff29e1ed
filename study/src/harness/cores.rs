//! Without cores of their own, server and load would measure how they fight for one.

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_getaffinity};

/// Which cores are whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The server's.
    pub server: Vec<usize>,
    /// For load and attackers.
    pub client: Vec<usize>,
}

impl Cores {
    /// One core for the server and the others for its clients; no pinning where there is only one.
    ///
    /// # Errors
    /// If the kernel does not say which cores there are.
    pub fn split() -> anyhow::Result<Self> {
        let allowed = sched_getaffinity(None).context("cannot read the cores of this process")?;
        let mut cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        if cores.len() < 2 {
            return Ok(Self { server: Vec::new(), client: Vec::new() });
        }
        let client = cores.split_off(1);
        Ok(Self { server: cores, client })
    }

    /// How the report names them.
    pub fn describe(&self) -> String {
        if self.server.is_empty() {
            return "one core for all, not pinned".to_owned();
        }
        format!("server pinned to {:?}, load and attackers to {:?}", self.server, self.client)
    }
}
