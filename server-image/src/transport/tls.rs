//! TLS from mounted files. The files are read again when they change; connections that are open stay open.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio_rustls::TlsAcceptor;

use super::TlsFiles;
use crate::watch;

/// Certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTls {
    /// A file cannot be read, or is not PEM.
    #[error("{flag} {path}: {cause}", path = .path.display())]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Both can be read, but do not work together.
    #[error("--tls-cert and --tls-key cannot be used together: {0}")]
    Pair(rustls::Error),
}

/// The TLS side of a server.
pub struct Tls {
    files: TlsFiles,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
}

impl Tls {
    /// Reads certificate and key. TLS 1.2 and 1.3.
    ///
    /// # Errors
    /// [`InvalidTls`] names the file.
    pub fn open(files: TlsFiles) -> Result<Self, InvalidTls> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let current = Arc::new(Current(ArcSwap::from_pointee(read(&files, &provider)?)));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(InvalidTls::Pair)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            files,
            current,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// What takes connections. Cheap to clone.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Reads the files again when they change; ones that cannot be used change nothing. Runs until it is dropped.
    pub async fn maintain(self) {
        let paths = [self.files.certificate.clone(), self.files.key.clone()];
        watch::files(&paths, || match read(&self.files, &aws_lc_rs::default_provider()) {
            Ok(pair) => {
                self.current.0.store(Arc::new(pair));
                tracing::info!("certificate and key were read again");
            }
            Err(error) => tracing::error!(%error, "certificate and key stay as they were"),
        })
        .await;
    }
}

/// The pair that new connections get.
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Current")
    }
}

fn read(files: &TlsFiles, provider: &CryptoProvider) -> Result<CertifiedKey, InvalidTls> {
    let failed = |flag, path: &PathBuf, cause: String| InvalidTls::File {
        flag,
        path: path.clone(),
        cause,
    };
    let of_certificate = |cause| failed("--tls-cert", &files.certificate, cause);
    let of_key = |cause| failed("--tls-key", &files.key, cause);
    let certificates =
        CertificateDer::pem_file_iter(&files.certificate).map_err(|error| of_certificate(error.to_string()))?;
    let certificates: Vec<_> = certificates
        .collect::<Result<_, _>>()
        .map_err(|error| of_certificate(error.to_string()))?;
    if certificates.is_empty() {
        return Err(of_certificate("there is no certificate in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| of_key(error.to_string()))?;
    CertifiedKey::from_der(certificates, key, provider).map_err(InvalidTls::Pair)
}
