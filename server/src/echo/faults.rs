//! The switch of all that misbehaves on purpose: without one place to turn it off, a fault that was left on in production
//! is found one endpoint at a time.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use http::{Request, StatusCode};

use super::answer::Refusal;
use crate::request::RequestBody;

/// Whether clients may ask for faults: `--faults` at the start, the admin listener from then on.
#[derive(Debug)]
pub(crate) struct Switch(AtomicBool);

impl Switch {
    pub(crate) fn new(is_on: bool) -> Self {
        Self(AtomicBool::new(is_on))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Returns whether it was on before.
    pub(crate) fn set(&self, is_on: bool) -> bool {
        self.0.swap(is_on, Relaxed)
    }
}

/// Refuses with 403 while faults are switched off.
pub(super) fn check(request: &Request<RequestBody>) -> Result<(), Refusal> {
    if request.body().activity().core().faults.is_on() {
        return Ok(());
    }
    let detail = format!("{} misbehaves on purpose, and faults are off (--faults)", request.uri().path());
    Err(Refusal::new(StatusCode::FORBIDDEN, detail))
}
