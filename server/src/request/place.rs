//! What a request holds while it is in progress: tower's limits release at the response head, so that streaming load is
//! invisible to them; a place here is released when whoever holds it is dropped, and the response body holds it.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use super::failure::Failure;
use crate::{activity::Activity, core::Core, telemetry::metrics::Shed};

/// The limit of long-lived responses.
#[derive(Debug)]
pub(crate) struct Streams {
    taken: AtomicUsize,
    max: usize,
}

impl Streams {
    pub(super) fn new(max: usize) -> Self {
        Self { taken: AtomicUsize::new(0), max }
    }

    /// Those in progress.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }
}

/// A request's place in a limit, released on drop.
#[derive(Debug)]
pub(crate) struct Admitted(Place);

#[derive(Debug)]
enum Place {
    Request(Activity),
    Stream(#[expect(dead_code, reason = "held for its drop")] StreamPlace),
    /// It needs none.
    None,
}

impl Admitted {
    /// The place that [`Gate::try_enter`](super::Gate::try_enter) has taken.
    pub(super) fn request(activity: &Activity) -> Self {
        Self(Place::Request(activity.clone()))
    }

    /// What is never refused needs no place.
    pub(super) fn exempt() -> Self {
        Self(Place::None)
    }

    /// Moves to the limit of long-lived responses; where the connection becomes what the response tells of, it keeps the
    /// place from then on.
    ///
    /// # Errors
    /// [`Shed::Streams`] where that limit is reached.
    pub(super) fn into_stream(self, becomes_connection: bool) -> Result<Self, Failure> {
        let Place::Request(activity) = &self.0 else { return Ok(self) };
        let Some(place) = StreamPlace::take(activity.core()) else {
            activity.core().metrics.shard().shed(Shed::Streams);
            return Err(Failure::Shed(Shed::Streams));
        };
        if becomes_connection {
            activity.keep_stream_place(place);
            return Ok(Self(Place::None));
        }
        Ok(Self(Place::Stream(place)))
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Place::Request(activity) = &self.0 {
            activity.core().gate.leave();
        }
    }
}

/// Keeps the place of a long-lived response beyond it, for what goes on after it (a WebSocket in a stream of HTTP/2): put
/// into the response's extensions, with a clone that lives as long as what goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlaceKeeper(Arc<OnceLock<Admitted>>);

impl PlaceKeeper {
    pub(super) fn keep(&self, admitted: Admitted) {
        let _there_is_one = self.0.set(admitted);
    }
}

/// A place in the limit of long-lived responses, released on drop.
#[derive(Debug)]
pub(crate) struct StreamPlace(Arc<Core>);

impl StreamPlace {
    fn take(core: &Arc<Core>) -> Option<Self> {
        let streams = core.gate.streams();
        let take = |taken: usize| (taken < streams.max).then_some(taken + 1);
        streams.taken.fetch_update(Relaxed, Relaxed, take).ok()?;
        Some(Self(Arc::clone(core)))
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        self.0.gate.streams().taken.fetch_sub(1, Relaxed);
    }
}
