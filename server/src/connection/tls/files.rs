//! Certificate, key and client authorities from their files, each error with the file's name: "bad certificate" alone
//! sends its reader through three files.

use std::{
    fmt::Display,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use tokio_rustls::rustls::{
    self, InconsistentKeys, RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};

use super::TlsError;
use crate::config::{ClientAuth, Config};

/// Largest file that is read: a chain has a few KiB, a bundle of all public authorities a few hundred.
const FILE_MAX: u64 = 4 << 20;

const CERT: &str = "--tls-cert";
const KEY: &str = "--tls-key";
const CLIENT_CA: &str = "--tls-client-ca";

/// Where certificate and key are, and the authorities of clients.
#[derive(Clone, Debug)]
pub(super) struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// By these a changed file is known without being read; `None` for one that is not there.
pub(super) type Stamps = Vec<Option<Stamp>>;

/// Files are replaced by renaming (another inode) or written over (another time or size).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
}

impl Files {
    /// The files that `config` names; `None` for a development certificate.
    ///
    /// # Errors
    /// [`TlsError`] where it names neither, or only a part.
    pub(super) fn of(config: &Config) -> Result<Option<Self>, TlsError> {
        match (&config.tls_cert, &config.tls_key) {
            (Some(cert), Some(key)) => {
                let client_ca = config.tls_client_ca.clone();
                Ok(Some(Self { cert: cert.clone(), key: key.clone(), client_ca }))
            }
            (None, None) if config.tls_dev_cert => Ok(None),
            _ => Err(TlsError(format!("--listen-tls needs {CERT} and {KEY}, or --tls-dev-cert"))),
        }
    }

    pub(super) fn stamps(&self) -> Stamps {
        let stamp = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            let (device, inode) = (metadata.dev(), metadata.ino());
            Some(Stamp { device, inode, size: metadata.len(), modified: metadata.modified().ok() })
        };
        [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(stamp)
            .collect()
    }

    /// The certificate chain and its key.
    ///
    /// # Errors
    /// [`TlsError`] where one cannot be read, or the key belongs to another certificate.
    pub(super) fn certified_key(&self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let chain = certificates(CERT, &self.cert)?;
        let text = read(KEY, &self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
            let is_encrypted = text.windows(9).any(|word| word == b"ENCRYPTED");
            let hint = if is_encrypted {
                "; it is encrypted, and nobody can be asked for the passphrase"
            } else {
                ""
            };
            wrong(KEY, &self.key, format!("no private key in PEM ({error}){hint}"))
        })?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| wrong(KEY, &self.key, format!("a key of no known kind ({error})")))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // Not all kinds of keys can tell their public half.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
            Err(rustls::Error::InconsistentKeys(_)) => {
                let cert = self.cert.display();
                Err(wrong(KEY, &self.key, format!("not the key of the certificate in {cert} ({CERT})")))
            }
            Err(error) => Err(wrong(CERT, &self.cert, format!("not a certificate ({error})"))),
        }
    }

    /// What checks the certificates of clients; `None` where they are not asked.
    ///
    /// # Errors
    /// [`TlsError`] where the authorities cannot be read.
    pub(super) fn verifier(
        &self,
        auth: ClientAuth,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        if auth == ClientAuth::Off {
            return Ok(None);
        }
        let Some(path) = &self.client_ca else {
            return Err(TlsError(format!("--tls-client-auth needs {CLIENT_CA}")));
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(CLIENT_CA, path)? {
            roots
                .add(authority)
                .map_err(|error| wrong(CLIENT_CA, path, format!("not a certificate ({error})")))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let builder = if auth == ClientAuth::Request { builder.allow_unauthenticated() } else { builder };
        builder.build().map(Some).map_err(|error| wrong(CLIENT_CA, path, error))
    }
}

/// All certificates of a file, at least one.
fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(flag, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(wrong(flag, path, "no certificate in PEM (-----BEGIN CERTIFICATE-----)"))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(flag, path, format!("not PEM ({error})"))),
    }
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut text));
    match read {
        Ok(length) if length as u64 > FILE_MAX => {
            Err(wrong(flag, path, format!("more than {FILE_MAX} bytes")))
        }
        Ok(_) => Ok(text),
        Err(error) => Err(wrong(flag, path, error)),
    }
}

fn wrong(flag: &str, path: &Path, reason: impl Display) -> TlsError {
    TlsError(format!("{flag} {}: {reason}", path.display()))
}
