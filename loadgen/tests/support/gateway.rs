//! Without a gateway of our own, TLS and Unix sockets could only be tested against what the server can do already.
//!
//! Terminates TLS (ALPN as given, client certificates on request) or takes a Unix socket, and passes all bytes on to the
//! real echo server.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use rcgen::{CertifiedKey, KeyPair};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener},
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        server::{NoClientAuth, WebPkiClientVerifier, danger::ClientCertVerifier},
    },
};

use super::TempFile;

/// A self-signed certificate with its files.
pub struct Identity {
    pub certified: CertifiedKey<KeyPair>,
    pub cert: TempFile,
    pub key: TempFile,
}

impl Identity {
    pub fn new(name: &str) -> Self {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certified = rcgen::generate_simple_self_signed(names).unwrap();
        let (cert, key) = (TempFile::new(&format!("{name}.pem")), TempFile::new(&format!("{name}.key")));
        std::fs::write(&cert.0, certified.cert.pem()).unwrap();
        std::fs::write(&key.0, certified.signing_key.serialize_pem()).unwrap();
        Self { certified, cert, key }
    }
}

/// What a TLS gateway does with a connection after the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// Passes everything on to this server.
    Server(SocketAddr),
    /// Begins an answer of 100 bytes, sends half of it, and closes the socket without a word of TLS.
    Cut,
}

/// Terminates TLS for `identity`, agreeing to one of `alpn`, with clients that show `client` if that is given.
pub fn tls(identity: &Identity, alpn: &[&str], client: Option<&Identity>, behind: Behind) -> SocketAddr {
    let key = PrivatePkcs8KeyDer::from(identity.certified.signing_key.serialize_der());
    let chain = vec![identity.certified.cert.der().clone()];
    let provider = Arc::new(ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier(client, provider))
        .with_single_cert(chain, PrivateKeyDer::Pkcs8(key))
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    in_background(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        let mut connections = JoinSet::new();
        loop {
            let stream = listener.accept().await.unwrap().0;
            stream.set_nodelay(true).unwrap();
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                match behind {
                    Behind::Server(server) => pass_on(stream, server).await,
                    Behind::Cut => cut(stream).await,
                }
            });
        }
    });
    addr
}

/// A Unix socket in front of `server`.
pub fn unix(name: &str, server: SocketAddr) -> PathBuf {
    let path = std::env::temp_dir().join(format!("loadgen-test-{}-{name}.sock", std::process::id()));
    std::fs::remove_file(&path).ok();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    in_background(async move {
        let listener = UnixListener::from_std(listener).unwrap();
        let mut connections = JoinSet::new();
        loop {
            let stream = listener.accept().await.unwrap().0;
            connections.spawn(pass_on(stream, server));
        }
    });
    path
}

fn verifier(
    client: Option<&Identity>,
    provider: Arc<tokio_rustls::rustls::crypto::CryptoProvider>,
) -> Arc<dyn ClientCertVerifier> {
    let Some(client) = client else { return Arc::new(NoClientAuth) };
    let mut roots = RootCertStore::empty();
    roots.add(client.certified.cert.der().clone()).unwrap();
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap()
}

async fn pass_on(mut stream: impl AsyncRead + AsyncWrite + Unpin, server: SocketAddr) {
    let mut onward = TcpStream::connect(server).await.unwrap();
    onward.set_nodelay(true).unwrap();
    // Either side may leave when it likes.
    copy_bidirectional(&mut stream, &mut onward).await.ok();
}

async fn cut(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    stream.read_exact(&mut [0; 16]).await.ok();
    let half = [b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n".as_slice(), &[b'x'; 50]].concat();
    stream.write_all(&half).await.ok();
    stream.flush().await.ok();
}

/// Runs until the test process ends.
pub fn in_background(work: impl Future<Output = ()> + Send + 'static) {
    std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
    });
}
