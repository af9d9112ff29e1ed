//! What the kernel knows about this process and its sockets: without it nobody sees the connections that wait to be
//! accepted, or that were dropped before we heard of them.
//!
//! What cannot be read is `None`, and then missing in the scrape.

mod network;
mod process;

pub(crate) use self::process::{fds_max, fds_open};
pub(super) use self::{
    network::{accept_queue, listen_losses, somaxconn},
    process::{Switches, cpu_time, memory, start_time, switches_by_thread},
};
