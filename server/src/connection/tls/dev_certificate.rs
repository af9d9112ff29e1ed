//! A certificate for those who develop against the server: without it the first thing to learn about it is openssl's
//! command line.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::{crypto::CryptoProvider, pki_types::PrivateKeyDer, sign::CertifiedKey};

use super::TlsError;

/// What it is good for: browsers refuse longer lives.
const LIFE: Duration = Duration::from_hours(397 * 24);

const DAY: Duration = Duration::from_hours(24);

/// Makes a self-signed certificate for this machine's names, and tells its fingerprint in the log.
///
/// # Errors
/// [`TlsError`] where it cannot be made.
pub(super) fn make(provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let failed = |error: &dyn std::error::Error| {
        TlsError(format!("--tls-dev-cert: the certificate cannot be made: {error}"))
    };
    let key = KeyPair::generate().map_err(|error| failed(&error))?;
    let names = names();
    let certificate =
        params(&names).and_then(|params| params.self_signed(&key)).map_err(|error| failed(&error))?;
    let certificate = certificate.der().clone();
    tracing::info!(
        names = names.join(" "),
        sha256 = fingerprint(&certificate),
        "a self-signed development certificate; clients must be told to take it (curl --insecure)"
    );
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    CertifiedKey::from_der(vec![certificate], key, provider).map_err(|error| failed(&error))
}

/// Those by which clients of this machine reach it, and the machine's own, if it is one that a certificate can hold.
fn names() -> Vec<String> {
    let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    if !names.contains(&hostname) && CertificateParams::new(vec![hostname.clone()]).is_ok() {
        names.push(hostname);
    }
    names
}

fn params(names: &[String]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "echo-server development");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = SystemTime::now();
    // Clocks differ a little.
    if let (Some((y1, m1, d1)), Some((y2, m2, d2))) = (date(now - DAY), date(now + LIFE)) {
        params.not_before = rcgen::date_time_ymd(y1, m1, d1);
        params.not_after = rcgen::date_time_ymd(y2, m2, d2);
    }
    Ok(params)
}

/// Year, month and day.
fn date(time: SystemTime) -> Option<(i32, u8, u8)> {
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let mut parts = text.split(['-', 'T']);
    let mut next = || parts.next();
    Some((next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?))
}

/// As `openssl x509 -fingerprint -sha256` prints it.
fn fingerprint(certificate: &[u8]) -> String {
    let digest = Sha256::digest(certificate);
    digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}
