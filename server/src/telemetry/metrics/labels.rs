//! What labels may say: each an enum, so that no client and no error can add a series.

/// Why a request was refused before any work was done for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shed {
    /// `connections_max` was reached.
    Connections,
    /// `requests_max` was reached.
    Concurrency,
    /// The process was out of file descriptors or memory.
    Descriptors,
    /// The client's address had `connections_per_address_max` connections.
    Address,
    /// The worker had been busy for `busy_max`.
    Busy,
    /// `queue_max` requests waited already.
    QueueFull,
    /// The request had waited for `queue_timeout`.
    QueueTimeout,
    /// `streams_max` was reached.
    Streams,
    /// Under pressure, and the client had more than its share.
    FairShare,
}

impl Shed {
    pub(crate) const ALL: [Self; 9] = [
        Self::Connections,
        Self::Concurrency,
        Self::Descriptors,
        Self::Address,
        Self::Busy,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Streams,
        Self::FairShare,
    ];

    /// The value of the `x-echo-overloaded` header and of the metric's label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Concurrency => "concurrency",
            Self::Descriptors => "descriptors",
            Self::Address => "address",
            Self::Busy => "busy",
            Self::QueueFull => "queue-full",
            Self::QueueTimeout => "queue-timeout",
            Self::Streams => "streams",
            Self::FairShare => "fair-share",
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionEnd {
    /// The client closed it, or either side asked for it with `connection: close`.
    Complete,
    /// `keep_alive_timeout` passed.
    Idle,
    /// Closed because the server drains.
    Drained,
    /// `drain_grace` passed with a request in progress.
    Killed,
    /// `first_byte_timeout` passed.
    FirstByteTimeout,
    /// `header_read_timeout` passed.
    HeaderTimeout,
    /// `write_stall_timeout` passed, or the client read slower than `rate_min`.
    SlowReader,
    /// What the client sent is not HTTP, or more than `header_max`.
    Malformed,
    /// The client reset it, a body broke, or the socket failed.
    Broken,
    /// It was old: `connection_age_max`.
    Aged,
    /// It had carried `connection_requests_max` requests.
    RequestsDone,
    /// Closed to make room for a new one: it had been idle longest.
    Evicted,
    /// The TLS handshake failed, or took longer than `tls_handshake_timeout`.
    TlsFailed,
    /// What should have been a PROXY protocol header was none.
    ProxyHeader,
    /// It sent frames that cost us and move nothing (HTTP/2 floods), faster than it may.
    Flood,
    /// It became something else (WebSocket), which ended.
    Upgraded,
    /// A fault that a client asked for (/abort).
    Fault,
}

impl ConnectionEnd {
    pub(crate) const ALL: [Self; 17] = [
        Self::Complete,
        Self::Idle,
        Self::Drained,
        Self::Killed,
        Self::FirstByteTimeout,
        Self::HeaderTimeout,
        Self::SlowReader,
        Self::Malformed,
        Self::Broken,
        Self::Aged,
        Self::RequestsDone,
        Self::Evicted,
        Self::TlsFailed,
        Self::ProxyHeader,
        Self::Flood,
        Self::Upgraded,
        Self::Fault,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::Killed => "killed",
            Self::FirstByteTimeout => "first_byte_timeout",
            Self::HeaderTimeout => "header_timeout",
            Self::SlowReader => "slow_reader",
            Self::Malformed => "malformed",
            Self::Broken => "broken",
            Self::Aged => "aged",
            Self::RequestsDone => "requests_done",
            Self::Evicted => "evicted",
            Self::TlsFailed => "tls_failed",
            Self::ProxyHeader => "proxy_header",
            Self::Flood => "flood",
            Self::Upgraded => "upgraded",
            Self::Fault => "fault",
        }
    }
}

/// Why `accept` failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcceptError {
    /// EMFILE, ENFILE, ENOMEM, ENOBUFS: nothing can be accepted until something is released.
    Exhausted,
    /// The client was gone before we accepted it.
    Connection,
    /// Anything else.
    Other,
}

impl AcceptError {
    pub(crate) const ALL: [Self; 3] = [Self::Exhausted, Self::Connection, Self::Other];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Connection => "connection",
            Self::Other => "other",
        }
    }
}

/// How a restart of the program (SIGUSR2) ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// The new process serves.
    Completed,
    /// It could not be started, or ended before it was ready.
    Failed,
    /// It was not ready within `restart_timeout`.
    TimedOut,
}

impl Restart {
    pub(crate) const ALL: [Self; 3] = [Self::Completed, Self::Failed, Self::TimedOut];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|result| result.name() == name)
    }
}

/// How a TLS handshake ended that had begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// TLS 1.2.
    Full12,
    /// TLS 1.2, a session from before gone on with.
    Resumed12,
    /// TLS 1.3.
    Full13,
    /// TLS 1.3, a session from before gone on with.
    Resumed13,
    /// Client and server did not agree, or the client left.
    Failed,
    /// `tls_handshake_timeout` passed.
    TimedOut,
    /// The client spoke HTTP without TLS.
    PlainHttp,
}

impl Handshake {
    pub(crate) const ALL: [Self; 7] = [
        Self::Full12,
        Self::Resumed12,
        Self::Full13,
        Self::Resumed13,
        Self::Failed,
        Self::TimedOut,
        Self::PlainHttp,
    ];

    /// The version that was agreed on, and how it ended.
    pub(crate) const fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Full12 => ("1.2", "full"),
            Self::Resumed12 => ("1.2", "resumed"),
            Self::Full13 => ("1.3", "full"),
            Self::Resumed13 => ("1.3", "resumed"),
            Self::Failed => ("none", "failed"),
            Self::TimedOut => ("none", "timeout"),
            Self::PlainHttp => ("none", "plain_http"),
        }
    }
}

/// How an attempt to load a changed certificate ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reload {
    /// It is in use.
    Done,
    /// Its files are not right; the one from before stays in use.
    Failed,
}

impl Reload {
    pub(crate) const ALL: [Self; 2] = [Self::Done, Self::Failed];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// Where a request ended that did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aborted {
    /// The client left before it had a response head.
    BeforeResponse,
    /// The response had begun and was cut.
    InBody,
}

impl Aborted {
    pub(crate) const ALL: [Self; 2] = [Self::BeforeResponse, Self::InBody];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::BeforeResponse => "before_response",
            Self::InBody => "in_body",
        }
    }
}

/// Who wanted a request traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SampledBy {
    /// `trace_one_in`.
    Ratio,
    /// The caller, who traces its part.
    Parent,
}

impl SampledBy {
    pub(crate) const ALL: [Self; 2] = [Self::Ratio, Self::Parent];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ratio => "ratio",
            Self::Parent => "parent",
        }
    }
}

/// What a task is for: the label of `echo_tasks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskKind {
    /// One accept loop per listener.
    Accept,
    /// One client connection whose protocol is not known yet.
    NewConnection,
    /// One HTTP/1 connection, until it closes.
    Http1Connection,
    /// One HTTP/2 connection, until it closes.
    Http2Connection,
    /// One HTTP/2 stream: hyper runs each on a task of its own.
    Http2Stream,
    /// One client over the connection limit that is being told so.
    Reject,
    /// One WebSocket, after its connection became one.
    WebSocket,
    /// What the server does for itself, now and then: certificates looked at, forgotten state dropped.
    Upkeep,
    /// Goes once through a worker's queue, to see how long that takes.
    Probe,
    /// A fault of the lab.
    Lab,
    /// One of many tasks without sockets that the lab spawns to be looked at.
    Crowd,
}

impl TaskKind {
    pub(crate) const ALL: [Self; 11] = [
        Self::Accept,
        Self::NewConnection,
        Self::Http1Connection,
        Self::Http2Connection,
        Self::Http2Stream,
        Self::Reject,
        Self::WebSocket,
        Self::Upkeep,
        Self::Probe,
        Self::Lab,
        Self::Crowd,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::NewConnection => "new connection",
            Self::Http1Connection => "h1 connection",
            Self::Http2Connection => "h2 connection",
            Self::Http2Stream => "h2 stream",
            Self::Reject => "reject",
            Self::WebSocket => "websocket",
            Self::Upkeep => "upkeep",
            Self::Probe => "probe",
            Self::Lab => "lab",
            Self::Crowd => "crowd",
        }
    }

    /// Whether there may be as many as clients: then tokio-console is shown one in `console_one_in`.
    #[cfg(feature = "console")]
    pub(crate) const fn follows_clients(self) -> bool {
        !matches!(self, Self::Accept | Self::Lab | Self::Upkeep)
    }
}
