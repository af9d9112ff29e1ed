//! Certificates made for a test, and clients that speak TLS.

use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use http_body_util::Full;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::task::JoinSet;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};

use crate::harness::{Client, PATIENCE};

/// A client's side of one connection.
pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key in PEM.
pub(crate) struct Identity {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // With rcgen's default both certificates have one name, and OpenSSL takes the server's for self-signed.
        params.distinguished_name.push(DnType::CommonName, "the authority of a test");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// For a server called localhost, or any client.
    pub(crate) fn issue(&self) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Identity { cert: cert.pem(), key: key.serialize_pem() }
    }
}

/// A directory of certificate files that is removed with its owner.
pub(crate) struct Files(PathBuf);

impl Files {
    /// `name` is the test's own. Holds a certificate for the server of `authority`, and that authority for clients.
    pub(crate) fn new(name: &str, authority: &Authority) -> Self {
        let path = std::env::temp_dir().join(format!("echo-server-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let files = Self(path);
        files.put(&authority.issue());
        files.write("ca.pem", &authority.pem());
        files
    }

    pub(crate) fn put(&self, identity: &Identity) {
        self.write("key.pem", &identity.key);
        self.write("cert.pem", &identity.cert);
    }

    /// Replaces the file as a whole, as those who care do.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Trusts `authority`, offers `protocols` in ALPN, shows `identity`.
pub(crate) fn client_config(
    authority: &Authority,
    protocols: &[&str],
    identity: Option<&Identity>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(Identity { cert, key }) => {
            let chain = vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
                .unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Connects, with the handshake still to come.
pub(crate) fn connect(addr: SocketAddr, config: &Arc<ClientConfig>) -> Client<Tls> {
    over(TcpStream::connect(addr).unwrap(), config)
}

/// TLS over a connection that exists.
pub(crate) fn over(stream: TcpStream, config: &Arc<ClientConfig>) -> Client<Tls> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let session = ClientConnection::new(Arc::clone(config), name).unwrap();
    Client::over(StreamOwned::new(session, stream))
}

/// An HTTP/2 connection that lives as long as what is returned with it.
pub(crate) async fn connect_http2(
    addr: SocketAddr,
    config: &Arc<ClientConfig>,
) -> (SendRequest<Full<bytes::Bytes>>, JoinSet<hyper::Result<()>>) {
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = connector.connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    (sender, tasks)
}

/// The flag and the value of a path.
pub(crate) fn flag(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}
