//! Connections: TLS, how many, compression.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::InvalidSettings;
use crate::transport::{Settings, TlsFiles};

#[derive(Debug, Args)]
#[command(next_help_heading = "Transport")]
#[group(skip)]
pub(super) struct Flags {
    /// Certificate (PEM) of the MCP address, with those between it and the root; read again when it changes. Without it
    /// the server speaks no TLS.
    #[arg(long, env = "MCP_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM) of --tls-cert.
    #[arg(long, env = "MCP_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// Connections to the MCP address at once; more wait until one is closed.
    #[arg(long, env = "MCP_MAX_CONNECTIONS", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: u32,
    /// Compress JSON answers above 1 KiB with gzip or zstd for clients that ask for it.
    #[arg(long, env = "MCP_COMPRESSION", default_value = "on")]
    compression: Switch,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

impl Flags {
    pub(super) fn settings(&self) -> Result<Settings, InvalidSettings> {
        let tls = match (&self.tls_cert, &self.tls_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            _ => return Err(InvalidSettings::HalfTls),
        };
        Ok(Settings {
            tls,
            connections_max: usize::try_from(self.max_connections).unwrap_or(usize::MAX),
            compression: self.compression == Switch::On,
        })
    }
}
