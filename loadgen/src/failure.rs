//! Without stable names for what went wrong, two runs cannot be compared and no script can react.

use std::{fmt, io};

use rustix::io::Errno;
use serde::{Serialize, Serializer};

/// Every way in which a request can fail. Names and their order are part of the JSON format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureClass {
    /// Nobody listens at the target.
    ConnectRefused,
    /// The connection was not open within the timeout.
    ConnectTimeout,
    /// Any other error while connecting.
    ConnectOther,
    /// No local address or port was left (`EADDRNOTAVAIL`).
    AddrNotAvail,
    /// The process or the system is out of file descriptors.
    Emfile,
    /// Reset before the first byte of the response.
    ResetBeforeResponse,
    /// Reset after the first byte of the response.
    ResetMidBody,
    /// Closed cleanly before the first byte of the response.
    EofBeforeResponse,
    /// Closed cleanly in the middle of the response.
    Truncated,
    /// No complete response within the timeout; censored, so the latency is a lower bound.
    Timeout,
    /// The bytes are not a response of the protocol that is spoken.
    Protocol,
    /// A redirect, which is never followed.
    Status3xx,
    /// The server rejected the request.
    Status4xx,
    /// The server failed or shed the request.
    Status5xx,
    /// The echo has the right length and other bytes.
    WrongBody,
    /// The echo has another length.
    WrongLength,
    /// The answer belongs to another request.
    Foreign,
    /// TLS failed: a certificate, a version, a protocol that nobody agreed to, an alert.
    Tls,
    /// The server reset the HTTP/2 stream of the request.
    StreamReset,
    /// The server ended the HTTP/2 connection with an error while the request was under way.
    GoAway,
}

impl FailureClass {
    /// All classes, in the order in which reports list them.
    pub const ALL: [Self; 20] = [
        Self::ConnectRefused,
        Self::ConnectTimeout,
        Self::ConnectOther,
        Self::AddrNotAvail,
        Self::Emfile,
        Self::ResetBeforeResponse,
        Self::ResetMidBody,
        Self::EofBeforeResponse,
        Self::Truncated,
        Self::Timeout,
        Self::Protocol,
        Self::Status3xx,
        Self::Status4xx,
        Self::Status5xx,
        Self::WrongBody,
        Self::WrongLength,
        Self::Foreign,
        Self::Tls,
        Self::StreamReset,
        Self::GoAway,
    ];

    /// The name in reports and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimeout => "connect_timeout",
            Self::ConnectOther => "connect_other",
            Self::AddrNotAvail => "addr_not_avail",
            Self::Emfile => "emfile",
            Self::ResetBeforeResponse => "reset_before_response",
            Self::ResetMidBody => "reset_mid_body",
            Self::EofBeforeResponse => "eof_before_response",
            Self::Truncated => "truncated",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Status3xx => "status_3xx",
            Self::Status4xx => "status_4xx",
            Self::Status5xx => "status_5xx",
            Self::WrongBody => "wrong_body",
            Self::WrongLength => "wrong_length",
            Self::Foreign => "foreign",
            Self::Tls => "tls",
            Self::StreamReset => "stream_reset",
            Self::GoAway => "go_away",
        }
    }

    /// True if the server answered, and answered wrongly: the failures that no overload excuses.
    pub fn is_wrong_echo(self) -> bool {
        matches!(self, Self::WrongBody | Self::WrongLength | Self::Foreign)
    }
}

impl fmt::Display for FailureClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for FailureClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One failed request: its class, and what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the failure counts as.
    pub class: FailureClass,
    /// What was seen, for the first sample of each class.
    pub detail: String,
}

impl Failure {
    /// A failure of `class` in which `detail` was seen.
    pub fn new(class: FailureClass, detail: impl Into<String>) -> Self {
        Self { class, detail: detail.into() }
    }

    /// Why a connection could not be opened.
    pub fn connect(error: &io::Error) -> Self {
        let class = match Errno::from_io_error(error) {
            Some(Errno::CONNREFUSED) => FailureClass::ConnectRefused,
            Some(Errno::TIMEDOUT) => FailureClass::ConnectTimeout,
            Some(Errno::ADDRNOTAVAIL) => FailureClass::AddrNotAvail,
            Some(Errno::MFILE | Errno::NFILE) => FailureClass::Emfile,
            _ => FailureClass::ConnectOther,
        };
        Self::new(class, format!("connect: {error}{}", remedy(class)))
    }

    /// An established connection failed; `answered` tells whether response bytes had arrived.
    pub fn transfer(error: &io::Error, answered: bool) -> Self {
        let by_tls = is_from_tls(error);
        let class = match answered {
            _ if by_tls => FailureClass::Tls,
            true => FailureClass::ResetMidBody,
            false => FailureClass::ResetBeforeResponse,
        };
        Self::new(class, error.to_string())
    }
}

fn is_from_tls(error: &io::Error) -> bool {
    let inner = error.get_ref();
    inner.and_then(|inner| inner.downcast_ref::<tokio_rustls::rustls::Error>()).is_some()
}

fn remedy(class: FailureClass) -> &'static str {
    match class {
        FailureClass::AddrNotAvail => " (no local port left: use fewer connections with -c)",
        FailureClass::Emfile => " (raise the limit with `ulimit -n` or use fewer connections with -c)",
        FailureClass::ConnectRefused => " (is the server running?)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_a_name_of_its_own_and_a_place_in_order() {
        let mut names: Vec<_> = FailureClass::ALL.iter().map(|class| class.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FailureClass::ALL.len());
        for (place, class) in FailureClass::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, place);
        }
    }

    #[test]
    fn connect_errors_are_told_apart_by_errno() {
        let class = |errno: Errno| Failure::connect(&errno.into()).class;
        assert_eq!(class(Errno::CONNREFUSED), FailureClass::ConnectRefused);
        assert_eq!(class(Errno::MFILE), FailureClass::Emfile);
        assert_eq!(class(Errno::ADDRNOTAVAIL), FailureClass::AddrNotAvail);
        assert_eq!(class(Errno::HOSTUNREACH), FailureClass::ConnectOther);
    }
}
