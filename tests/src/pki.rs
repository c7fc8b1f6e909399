//! The certificates and keys of a cluster: a CA of its own, the API server's certificate, the key of service accounts.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::{HarnessError, files};

/// The names by which pods know the API server, besides its addresses.
const SERVICE_NAMES: [&str; 5] = [
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// Writes `ca.crt`, `apiserver.crt`, `apiserver.key`, `service-account.key` and `service-account.pub` into `folder`.
/// The API server's certificate is good for `addresses` and the names by which pods know it.
///
/// # Errors
/// When a certificate cannot be made or written.
pub(crate) fn write_certificates(folder: &Path, addresses: &[&str]) -> Result<(), HarnessError> {
    let ca_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name = named("mcpscale test cluster");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    files::write_whole(&folder.join("ca.crt"), authority.self_signed(&ca_key)?.pem())?;
    let issuer = Issuer::new(authority, ca_key);

    let server_key = KeyPair::generate()?;
    let names: Vec<String> = addresses
        .iter()
        .chain(&SERVICE_NAMES)
        .map(|name| (*name).to_owned())
        .collect();
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name = named("kube-apiserver");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    files::write_whole(
        &folder.join("apiserver.crt"),
        server.signed_by(&server_key, &issuer)?.pem(),
    )?;
    write_secret(&folder.join("apiserver.key"), &server_key.serialize_pem())?;

    let accounts = KeyPair::generate()?;
    write_secret(&folder.join("service-account.key"), &accounts.serialize_pem())?;
    files::write_whole(&folder.join("service-account.pub"), accounts.public_key_pem())
}

/// A fresh random token of 128 bits.
pub(crate) fn random_token() -> Result<String, HarnessError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| HarnessError::Unusable(format!("the system gives no random numbers: {error}")))?;
    Ok(hex::encode(bytes))
}

/// Writes a file that only the user may read.
pub(crate) fn write_secret(path: &Path, content: &str) -> Result<(), HarnessError> {
    files::write_whole(path, "")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(HarnessError::io("protect", path))?;
    fs::write(path, content).map_err(HarnessError::io("write", path))
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
