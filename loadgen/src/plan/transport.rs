//! Without checks of what is spoken over what, a flag that does nothing would be believed.

use std::path::PathBuf;

use http::{
    HeaderName,
    header::{CONNECTION, TE, TRANSFER_ENCODING, UPGRADE},
};

use super::{PlanError, PlanOptions, STREAMS_MAX, within};
use crate::{
    engine::{
        http2::Http2Template,
        request::RequestHead,
        tls::{Tls, TlsOptions},
    },
    target::Target,
};

/// Streams on each HTTP/2 connection without `--streams`: as many requests at a time as over HTTP/1.1.
pub const STREAMS_DEFAULT: usize = 1;

/// Fields that speak of one HTTP/1.1 connection and make an HTTP/2 request malformed (RFC 9113 section 8.2.2).
const CONNECTION_FIELDS: [HeaderName; 6] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// What is spoken to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: by ALPN over TLS, else by prior knowledge.
    Http2 {
        /// Requests at a time on each connection.
        streams: usize,
    },
}

impl Protocol {
    /// Requests at a time on each connection.
    pub fn streams(self) -> usize {
        match self {
            Self::Http1 => 1,
            Self::Http2 { streams } => streams,
        }
    }
}

pub(super) fn protocol(http2: bool, streams: Option<usize>) -> Result<Protocol, PlanError> {
    match (http2, streams) {
        (false, None) => Ok(Protocol::Http1),
        (false, Some(streams)) => {
            let problem = "only an HTTP/2 connection has streams";
            Err(PlanError::new(streams.to_string(), problem, "--streams or --http2"))
        }
        (true, streams) => {
            let streams = within(streams.unwrap_or(STREAMS_DEFAULT), 1, STREAMS_MAX, "--streams")?;
            Ok(Protocol::Http2 { streams })
        }
    }
}

pub(super) fn tls(options: &TlsOptions, target: &Target, http2: bool) -> Result<Option<Tls>, PlanError> {
    if target.https {
        return Tls::new(options, &target.host, http2).map(Some);
    }
    match options.first_given() {
        Some(flag) => {
            let problem = format!("{flag} is for https:// only");
            Err(PlanError::new(format!("'{}'", target.url), problem, "the URL"))
        }
        None => Ok(None),
    }
}

pub(super) fn unix(path: Option<PathBuf>) -> Result<Option<PathBuf>, PlanError> {
    // The kernel's `sun_path` holds 108 bytes, one of them 0 (unix(7)).
    const PATH_LEN_MAX: usize = 107;
    let too_long = path.as_ref().filter(|path| path.as_os_str().len() > PATH_LEN_MAX);
    match too_long {
        Some(path) => {
            let problem = format!("the path of a socket has at most {PATH_LEN_MAX} bytes");
            Err(PlanError::new(path.display().to_string(), problem, "--unix"))
        }
        None => Ok(path),
    }
}

/// The heads for HTTP/2, if that is spoken.
pub(super) fn http2_template(
    options: &PlanOptions,
    head: &RequestHead,
    sizes: &[u64],
    seed: u64,
) -> Result<Option<Http2Template>, PlanError> {
    if !options.http2 {
        return Ok(None);
    }
    if let Some(name) = CONNECTION_FIELDS.into_iter().find(|name| head.headers.contains_key(name)) {
        let problem = "HTTP/2 has no fields that speak of one connection";
        return Err(PlanError::new(name.to_string(), problem, "-H or --http2"));
    }
    let template = Http2Template::new(head, sizes, options.trace_one_in, seed);
    template.map(Some).map_err(|error| PlanError::new("host", error.to_string(), "-H"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::error;

    #[test]
    fn flags_that_would_do_nothing_are_refused() {
        assert!(error(|options| options.streams = Some(3)).contains("--http2"));
        assert!(error(|options| options.tls.insecure = true).contains("--insecure is for https"));
        assert!(error(|options| options.tls.cacert = Some("x".into())).contains("--cacert"));
        let streams = |count| error(|options| (options.http2, options.streams) = (true, Some(count)));
        assert_eq!(streams(0), "0: it must be from 1 to 1000; change --streams");
        assert!(streams(1_001).contains("1000"));
        assert!(error(|options| options.unix = Some("x".repeat(108).into())).contains("--unix"));
    }

    #[test]
    fn what_http2_cannot_carry_is_refused_before_the_run() {
        for name in CONNECTION_FIELDS {
            let message = error(|options| {
                options.http2 = true;
                options.headers.insert(&name, http::HeaderValue::from_static("x"));
            });
            assert!(message.contains(name.as_str()) && message.contains("--http2"), "{message}");
        }
    }

    #[test]
    fn files_of_tls_are_read_before_the_run() {
        let tls = |change: fn(&mut TlsOptions)| {
            error(|options| {
                options.url = "https://localhost/".to_owned();
                change(&mut options.tls);
            })
        };
        assert!(tls(|tls| tls.cacert = Some("/nonexistent/ca".into())).contains("--cacert"));
        assert!(tls(|tls| tls.cert = Some("/nonexistent/cert".into())).contains("--key"));
        assert!(tls(|tls| tls.key = Some("/nonexistent/key".into())).contains("--cert"));
        let both = |tls: &mut TlsOptions| (tls.insecure, tls.cacert) = (true, Some("x".into()));
        assert!(tls(both).contains("--insecure or --cacert"));
    }
}
