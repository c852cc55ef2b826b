//! Certificates of the demo mesh: a CA and one SPIFFE identity per service, made fresh at every start.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use sailcloth_launch::{Error, Result};

/// The services that have an identity, all in namespace `production` of trust domain `cluster.local`.
pub const SERVICES: [&str; 3] = ["api-service", "web-service", "batch-service"];

/// Writes `ca.crt`, `<service>.crt` and `<service>.key` into a directory.
///
/// # Errors
/// When a key cannot be made or a file cannot be written.
pub fn write(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(Error::io(format!("could not make `{}`", dir.display())))?;
    let ca = authority().map_err(failed)?;
    write_file(&dir.join("ca.crt"), &ca.pem())?;
    for service in SERVICES {
        let (certificate, key) = identity(service, &ca).map_err(failed)?;
        write_file(&dir.join(format!("{service}.crt")), &certificate)?;
        write_file(&dir.join(format!("{service}.key")), &key)?;
    }
    Ok(())
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "Sailcloth demo CA");
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

fn identity(service: &str, ca: &CertifiedIssuer<'static, KeyPair>) -> Result<(String, String), rcgen::Error> {
    let spiffe = format!("spiffe://cluster.local/ns/production/sa/{service}");
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(spiffe.try_into()?)];
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, ca)?.pem(), key.serialize_pem()))
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    let doing = || Error::io(format!("could not write `{}`", path.display()));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(doing())?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(doing())
}

fn failed(error: rcgen::Error) -> Error {
    Error::InvalidConfig(format!("could not make the demo's certificates: {error}"))
}
