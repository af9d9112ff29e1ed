//! Settings that are one of a few names.

/// Which tokio runtime carries the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// One multi-thread runtime whose workers steal from each other; one listener.
    WorkStealing,
    /// One current-thread runtime and one `SO_REUSEPORT` listener per core; nothing moves between cores.
    PerCore,
}

impl Runtime {
    pub(super) const ALL: &[Self] = &[Self::WorkStealing, Self::PerCore];
    pub(super) const NAMES: &[&str] = &["work-stealing", "per-core"];
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line for people.
    Pretty,
    /// One JSON object per line, for collectors.
    Json,
}

impl LogFormat {
    pub(super) const ALL: &[Self] = &[Self::Pretty, Self::Json];
    pub(super) const NAMES: &[&str] = &["pretty", "json"];
}

/// Whether TLS clients show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    Off,
    /// They are asked; one that is shown must be good.
    Request,
    /// Without a good one there is no connection.
    Require,
}

impl ClientAuth {
    pub(super) const ALL: &[Self] = &[Self::Off, Self::Request, Self::Require];
    pub(super) const NAMES: &[&str] = &["off", "request", "require"];
}

/// What bounds the requests in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestsLimit {
    /// `requests_max`.
    Fixed,
    /// A number between `requests_min` and `requests_max` that follows the queue delay.
    Adaptive,
}

impl RequestsLimit {
    pub(super) const ALL: &[Self] = &[Self::Fixed, Self::Adaptive];
    pub(super) const NAMES: &[&str] = &["fixed", "adaptive"];
}

/// What a path without an endpoint of its own answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchAll {
    /// JSON about the request.
    Inspect,
    /// Its body.
    Echo,
    /// 404.
    NotFound,
}

impl CatchAll {
    pub(super) const ALL: &[Self] = &[Self::Inspect, Self::Echo, Self::NotFound];
    pub(super) const NAMES: &[&str] = &["inspect", "echo", "404"];
}
