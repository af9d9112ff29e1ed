//! TLS between the client's socket and its plaintext, with a certificate that is replaced while the server runs: a
//! server that must be restarted for a new certificate serves, one day, an expired one.

mod dev_certificate;
mod expiry;
mod files;
mod handshake;
mod reload;
mod secured;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use tokio_rustls::rustls::{
    self, ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{ServerSessionMemoryCache, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};

use self::files::{Files, Stamps};
pub(super) use self::handshake::handshake;
pub(crate) use self::{expiry::not_after, reload::keep_fresh, secured::Secured};
use crate::config::Config;

/// Why there is no TLS. The message names the file, what is wrong with it, and the flag that names it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// Sessions that clients without tickets (TLS 1.2 only) may resume.
const SESSIONS_MAX: usize = 256;

/// The server's side of TLS, as it now is.
#[derive(Debug)]
pub(crate) struct Tls {
    /// `None` with a development certificate, which lives as long as the process.
    files: Option<Files>,
    /// What the files were when they were last tried.
    tried: Mutex<Stamps>,
    current: ArcSwap<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// When the certificate ends, in seconds since 1970; `None` where it does not say so in a form that we know.
    expires_s: Option<i64>,
}

impl Tls {
    /// Loads what `config` names; `None` where it has no TLS listener.
    ///
    /// # Errors
    /// [`TlsError`]
    pub(crate) fn load(config: &Config) -> Result<Option<Arc<Self>>, TlsError> {
        if config.listen_tls.is_none() {
            return Ok(None);
        }
        let files = Files::of(config)?;
        // Before they are read: what changes meanwhile is seen at the next look.
        let tried = files.as_ref().map(Files::stamps).unwrap_or_default();
        let current = Current::load(config, files.as_ref())?;
        let (tried, current) = (Mutex::new(tried), ArcSwap::from_pointee(current));
        Ok(Some(Arc::new(Self { files, tried, current })))
    }

    /// What a handshake that begins now goes by.
    fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// When the certificate ends, in seconds since 1970.
    pub(crate) fn expires_s(&self) -> Option<i64> {
        self.current.load().expires_s
    }

    /// Loads the files again if one of them has changed since the last try, or if `forced`; `None` where not.
    ///
    /// # Errors
    /// [`TlsError`]; then what was loaded before stays.
    fn look(&self, config: &Config, forced: bool) -> Option<Result<(), TlsError>> {
        let files = self.files.as_ref()?;
        let stamps = files.stamps();
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if *tried == stamps && !forced {
            return None;
        }
        *tried = stamps;
        Some(Current::load(config, Some(files)).map(|current| self.current.store(Arc::new(current))))
    }
}

impl Current {
    fn load(config: &Config, files: Option<&Files>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let (key, verifier) = match files {
            Some(files) => {
                (files.certified_key(&provider)?, files.verifier(config.tls_client_auth, &provider)?)
            }
            None => (dev_certificate::make(&provider)?, None),
        };
        let expires_s = key.cert.first().and_then(|certificate| not_after(certificate));
        warn_if_over(expires_s);
        let config = server_config(config, provider, key, verifier)
            .map_err(|error| TlsError(format!("--listen-tls: TLS cannot be set up: {error}")))?;
        Ok(Self { config: Arc::new(config), expires_s })
    }
}

/// Serving goes on: a client that checks will tell its user, and the others are better off than without an answer.
fn warn_if_over(expires_s: Option<i64>) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if expires_s.is_some_and(|expires| expires <= i64::try_from(now.as_secs()).unwrap_or(i64::MAX)) {
        tracing::warn!("the TLS certificate has expired (--tls-cert); clients will refuse it");
    }
}

/// TLS 1.2 and 1.3, ALPN for the protocols that are switched on.
///
/// Tickets are encrypted with keys of this configuration, rotated every six hours: with those of another, a client could
/// resume a session past certificate authorities that are not trusted any more. No early data: it can be replayed.
fn server_config(
    config: &Config,
    provider: Arc<CryptoProvider>,
    key: CertifiedKey,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, rustls::Error> {
    let verifier = verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(key));
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    let protocols = [(config.http2, handshake::H2), (config.http1, handshake::HTTP11)];
    tls.alpn_protocols =
        protocols.into_iter().filter(|(is_on, _)| *is_on).map(|(_, name)| name.to_vec()).collect();
    tls.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
    tls.ticketer = ring::Ticketer::new()?;
    tls.max_early_data_size = 0;
    Ok(tls)
}
