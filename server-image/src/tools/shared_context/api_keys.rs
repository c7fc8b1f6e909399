//! The keys with which programs prove that they may name agents.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Keys shorter than this can be guessed; the server says so when it starts, in characters.
const SHORT: usize = 32;

/// The keys that `authenticate_agent` accepts. Without any, the server is open. Only hashes are kept, which are never
/// shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ApiKeys(Vec<[u8; 32]>);

/// Keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidApiKeys {
    /// The file cannot be read.
    #[error("--agent-keys-file (MCP_AGENT_KEYS_FILE): cannot read {path}: {cause}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// Nothing is given where a key must be.
    #[error("{0} holds no key; give one, such as the output of `openssl rand -base64 32`, or leave the setting out")]
    Empty(String),
}

impl ApiKeys {
    /// The key `single`, if given, and those in `file`, if given: one on each line, empty lines left out.
    ///
    /// # Errors
    /// [`InvalidApiKeys`] when something is given that holds no key: an empty key would let everybody in.
    pub fn read(single: Option<&str>, file: Option<&Path>) -> Result<Self, InvalidApiKeys> {
        let mut keys = Vec::new();
        if let Some(single) = single {
            keys.push(some_key(single).ok_or_else(|| InvalidApiKeys::Empty("--api-key (MCP_API_KEY)".to_owned()))?);
        }
        if let Some(path) = file {
            let text = fs::read_to_string(path).map_err(|cause| InvalidApiKeys::File {
                path: path.to_owned(),
                cause,
            })?;
            let before = keys.len();
            keys.extend(text.lines().filter_map(some_key));
            if keys.len() == before {
                return Err(InvalidApiKeys::Empty(format!("--agent-keys-file {}", path.display())));
            }
        }
        Ok(Self(keys))
    }

    /// Whether there are none, so that anybody may be any agent.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// The id of `key`, if it is one of them. Takes the same time for every key that is wrong.
    #[must_use]
    pub fn accept(&self, key: &str) -> Option<String> {
        let hash = hash(key);
        let found = self
            .0
            .iter()
            .fold(Choice::from(0), |found, known| found | known.ct_eq(&hash));
        bool::from(found).then(|| id(&hash))
    }

    /// Whether a key of this id is still among them.
    #[must_use]
    pub fn know(&self, key_id: &str) -> bool {
        self.0.iter().any(|known| id(known) == key_id)
    }
}

fn some_key(text: &str) -> Option<[u8; 32]> {
    let key = text.trim();
    if key.is_empty() {
        return None;
    }
    if key.chars().count() < SHORT {
        tracing::warn!("an API key has fewer than {SHORT} characters, which can be guessed");
    }
    Some(hash(key))
}

/// Tells keys apart, and nothing about them: the hash of a hash, and only a part of it.
fn id(hash: &[u8; 32]) -> String {
    hex::encode(&Sha256::digest(hash)[..8])
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ApiKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key that should not open the door must not, however close it is.
    #[test]
    fn only_the_very_keys_are_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, "second key\n\n  third \r\n").unwrap();
        let keys = ApiKeys::read(Some("first"), Some(&path)).unwrap();
        for (key, expected) in [
            ("first", true),
            ("second key", true),
            ("third", true),
            ("", false),
            ("firs", false),
            ("first ", false),
            ("First", false),
            ("fourth", false),
        ] {
            let accepted = keys.accept(key);
            assert_eq!(accepted.is_some(), expected, "{key:?}");
            assert!(accepted.is_none_or(|id| keys.know(&id)), "{key:?}");
        }
        assert!(!keys.is_open());
        assert_eq!(format!("{keys:?}"), "ApiKeys(3)", "keys must not reach the logs");
    }

    /// A setting that is there but empty, as a Secret without the key gives it, must not open the server.
    #[test]
    fn empty_settings_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, " \n").unwrap();
        for (name, result, expected) in [
            ("empty", ApiKeys::read(Some(""), None), "--api-key (MCP_API_KEY)"),
            ("blank", ApiKeys::read(Some("  "), None), "--api-key (MCP_API_KEY)"),
            ("empty file", ApiKeys::read(Some("key"), Some(&path)), "holds no key"),
            ("no file", ApiKeys::read(None, Some(Path::new("/no/such"))), "/no/such"),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
        assert!(ApiKeys::read(None, None).unwrap().is_open());
        assert_eq!(ApiKeys::default().accept(""), None);
    }
}
