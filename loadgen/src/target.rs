//! Without taking the URL apart once, each connection would do it again and each error would come late.

use http::Uri;

use crate::plan::PlanError;

/// The parts of the URL that a run needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The URL as it was given.
    pub url: String,
    /// Name or address to connect to.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// `host[:port]` as the `host` field of a request has it.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// True for https.
    pub https: bool,
}

impl Target {
    /// Takes a URL apart; without a scheme it means http, as in curl.
    ///
    /// # Errors
    /// If it is not one that this generator can talk to.
    pub fn parse(url: &str) -> Result<Self, PlanError> {
        let error = |problem: &str| PlanError::new(format!("'{url}'"), problem, "the URL");
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|cause| error(&format!("not a URL ({cause})")))?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(error("only http:// and https:// are spoken, no other scheme")),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| error("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(error("user names in URLs are not sent; use -H 'Authorization: ...'"));
        }
        let port = match authority.port_u16() {
            Some(port) if port > 0 => port,
            None if authority.as_str() == authority.host() => {
                if https {
                    443
                } else {
                    80
                }
            }
            _ => return Err(error("the port is not in 1..=65535")),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            url: url.to_owned(),
            // An IPv6 address is written in brackets in a URL and without them elsewhere.
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port,
            authority: authority.to_string(),
            // `http://host?query` is asked for as `/?query` (RFC 9112 section 3.2.1).
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            https,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let full = Target::parse("http://example.org:8080/a?b=c").unwrap();
        assert_eq!((full.host.as_str(), full.port), ("example.org", 8080));
        assert_eq!((full.authority.as_str(), full.path.as_str()), ("example.org:8080", "/a?b=c"));
        let bare = Target::parse("localhost:9000").unwrap();
        assert_eq!((bare.host.as_str(), bare.port, bare.path.as_str()), ("localhost", 9000, "/"));
        assert_eq!(Target::parse("http://[::1]/").unwrap().host, "::1");
        assert_eq!(Target::parse("http://h?x").unwrap().path, "/?x");
        assert_eq!(Target::parse("http://h/").unwrap().port, 80);
        let secure = Target::parse("https://h/").unwrap();
        assert_eq!((secure.port, secure.https), (443, true));
    }

    #[test]
    fn what_cannot_be_talked_to_is_refused() {
        for url in ["", "http://", "ftp://h/", "http://h:0/", "http://h:99999/", "http://u@h/", "a b"] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
