//! Without one harness, each experiment would pin, start, count and round in its own way.
//!
//! [`child`] starts this program again in another role; [`server`] and [`load`] are two such children; [`process`] and
//! [`metrics`] read what a server uses and counts, [`probe`] sees whether it is well; [`latency`] merges histograms; [`report`] writes the result.

pub mod child;
pub mod cores;
pub mod latency;
pub mod load;
pub mod metrics;
pub mod probe;
pub mod process;
pub mod report;
pub mod server;
