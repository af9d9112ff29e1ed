//! What the endpoints are told once, at start: read per request, the environment would cost a lock each time.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{
    controls::{Caps, Controls},
    inspect::Origin,
    retry::Attempts,
};
use crate::config::Config;

/// The settings of the endpoints. One for all connections.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) config: Config,
    /// Whether a plain request may be answered without a look at anything else.
    pub(super) answers_inline: bool,
    /// What holds where a request does not ask for something else.
    pub(super) default_controls: Controls,
    pub(super) origin: Origin,
    /// What /retry remembers.
    pub(super) attempts: Attempts,
    /// The threads that may do blocking work for /work: as many as there are workers, which they take the CPU from.
    pub(super) blocking: Arc<Semaphore>,
}

impl Settings {
    pub(super) fn new(config: &Config) -> Self {
        let defaults = default_controls(config).unwrap_or_else(|why| {
            // Flags, environment and file have been checked; this configuration was made by hand.
            tracing::error!("default_params = {:?} is ignored: {why}", config.default_params);
            Controls::default()
        });
        Self {
            answers_inline: defaults == Controls::default() && !config.cors,
            default_controls: defaults,
            origin: Origin::new(config),
            attempts: Attempts::default(),
            blocking: Arc::new(Semaphore::new(config.workers())),
            config: config.clone(),
        }
    }
}

/// Whether `default_params` are controls, within the caps of the same configuration.
///
/// # Errors
/// What is wrong with them, for a person.
pub(crate) fn check_default_params(config: &Config) -> Result<(), String> {
    default_controls(config).map(drop)
}

fn default_controls(config: &Config) -> Result<Controls, String> {
    let parsed = Controls::defaults(&config.default_params, Caps::of(config))?;
    Ok(if config.controls { parsed } else { Controls::default() })
}
