//! Without TLS, what most users meet would be the one thing that no run measures.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

use self::insecure::AnyCertificate;
use super::wire::Socket;
use crate::{
    failure::{Failure, FailureClass},
    plan::PlanError,
};

mod insecure;

/// What the flags say about TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// `--insecure`: any certificate will do.
    pub insecure: bool,
    /// `--cacert`: trust the certificates in this file, and no others.
    pub cacert: Option<PathBuf>,
    /// `--cert`: the client's certificate chain.
    pub cert: Option<PathBuf>,
    /// `--key`: its private key.
    pub key: Option<PathBuf>,
}

impl TlsOptions {
    /// The first flag that is given, for a run that does not use TLS.
    pub(crate) fn first_given(&self) -> Option<&'static str> {
        [
            (self.insecure, "--insecure"),
            (self.cacert.is_some(), "--cacert"),
            (self.cert.is_some(), "--cert"),
            (self.key.is_some(), "--key"),
        ]
        .into_iter()
        .find_map(|(given, flag)| given.then_some(flag))
    }
}

/// How a run speaks TLS; all files are read.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    http2: bool,
    /// True if any certificate will do.
    pub insecure: bool,
    /// True if the client shows a certificate.
    pub client_certificate: bool,
}

impl Tls {
    /// TLS to `host`, for HTTP/2 or for HTTP/1.1, which the server is told by ALPN (RFC 7301).
    ///
    /// # Errors
    /// A file that cannot be read or is not what it should be, with the flag.
    pub fn new(options: &TlsOptions, host: &str, http2: bool) -> Result<Self, PlanError> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| PlanError::new("TLS", error.to_string(), "the URL"))?
            .dangerous()
            .with_custom_certificate_verifier(verifier(options, provider)?);
        let mut config = match (&options.cert, &options.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates(cert, "--cert")?;
                let secret =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error, "--key"))?;
                builder
                    .with_client_auth_cert(chain, secret)
                    .map_err(|error| unusable(cert, &error, "--cert or --key"))?
            }
            (None, None) => builder.with_no_client_auth(),
            (Some(cert), None) => return Err(unusable(cert, &"it needs its private key", "--key")),
            (None, Some(key)) => return Err(unusable(key, &"it needs its certificate", "--cert")),
        };
        config.alpn_protocols = vec![protocol(http2).to_vec()];
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| PlanError::new(format!("'{host}'"), error.to_string(), "the URL"))?;
        Ok(Self {
            config: Arc::new(config),
            name,
            http2,
            insecure: options.insecure,
            client_certificate: options.cert.is_some(),
        })
    }

    /// The handshake over `socket`.
    ///
    /// # Errors
    /// A failure of class `tls`.
    pub async fn connect(&self, socket: Socket) -> Result<TlsStream<Socket>, Failure> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(self.name.clone(), socket).await.map_err(|error| {
            let hint = if error.to_string().contains("invalid peer certificate") {
                " (trust its issuer with --cacert FILE, or any certificate with --insecure)"
            } else {
                ""
            };
            Failure::new(FailureClass::Tls, format!("{error}{hint}"))
        })?;
        if self.http2 && stream.get_ref().1.alpn_protocol() != Some(protocol(true)) {
            let detail = "the server did not agree to HTTP/2 by ALPN (leave --http2 out to speak HTTP/1.1)";
            return Err(Failure::new(FailureClass::Tls, detail));
        }
        Ok(stream)
    }
}

fn protocol(http2: bool) -> &'static [u8] {
    if http2 { b"h2" } else { b"http/1.1" }
}

fn verifier(
    options: &TlsOptions,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, PlanError> {
    if options.insecure {
        if options.cacert.is_some() {
            let problem = "it trusts any certificate, so there is nothing to trust besides";
            return Err(PlanError::new("--insecure", problem, "--insecure or --cacert"));
        }
        return Ok(Arc::new(AnyCertificate(provider)));
    }
    let mut roots = RootCertStore::empty();
    let (name, flag) = if let Some(path) = &options.cacert {
        for certificate in certificates(path, "--cacert")? {
            roots.add(certificate).map_err(|error| unusable(path, &error, "--cacert"))?;
        }
        (path.display().to_string(), "--cacert")
    } else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        ("the built-in roots".to_owned(), "--cacert")
    };
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| PlanError::new(name, error.to_string(), flag))?;
    Ok(verifier)
}

fn certificates(path: &Path, flag: &'static str) -> Result<Vec<CertificateDer<'static>>, PlanError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| unusable(path, &error, flag))?;
    if certificates.is_empty() {
        return Err(unusable(path, &"it holds no certificate (PEM)", flag));
    }
    Ok(certificates)
}

fn unusable(path: &Path, problem: &dyn ToString, flag: &'static str) -> PlanError {
    PlanError::new(path.display().to_string(), problem.to_string(), flag)
}
