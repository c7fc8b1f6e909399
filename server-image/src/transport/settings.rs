//! What is set about connections.

use std::path::PathBuf;

/// Connections open at once when nobody says otherwise: 10,000 idle clients and as many again.
pub const CONNECTIONS_MAX: usize = 20_000;

/// How connections are served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Certificate and key; `None` to speak without TLS.
    pub tls: Option<TlsFiles>,
    /// Connections open at once, at least 1; more wait until one is closed.
    pub connections_max: usize,
    /// Whether long JSON answers are compressed for clients that can read that.
    pub compression: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tls: None,
            connections_max: CONNECTIONS_MAX,
            compression: true,
        }
    }
}

/// The two files of TLS, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and the root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}
