//! API keys from a mounted file that holds only their hashes.
//!
//! A line is `NAME SHA256 [SCOPE …]`; empty lines and lines that begin with `#` do not count. `mcp-server api-key NAME`
//! makes a key and its line. Keys are 256 random bits, so one SHA-256 is enough: there is nothing to guess, and a slow
//! hash would only slow down the server. The file is read again when it changes; one that cannot be read leaves the
//! keys as they were.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use aws_lc_rs::rand;

use super::scopes::Scopes;
use super::{Principal, Refusal};

/// Most keys of a file. Every check compares with all of them.
pub const KEYS_MAX: usize = 1000;
/// Random bytes of a key.
const KEY_BYTES: usize = 32;
/// Begins each key that [`generate`] makes, so that scanners for leaked secrets find them.
const KEY_PREFIX: &str = "mcpk_";

type Hash = [u8; SHA256_OUTPUT_LEN];

/// A file of keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKeys {
    /// It cannot be read.
    #[error("cannot read the API keys in {path} (--api-keys-file): {cause}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// One of its lines is not a key. The line itself is not shown: it may be a key by mistake.
    #[error("line {line} of {path} (--api-keys-file): {problem}", path = .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// It has no keys, or too many.
    #[error("{path} (--api-keys-file) has {count} keys; 1 to {KEYS_MAX} are allowed", path = .path.display())]
    Count {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
    },
}

/// The keys in force.
#[derive(Debug)]
pub struct ApiKeys {
    path: PathBuf,
    keys: ArcSwap<Vec<Key>>,
}

#[derive(Debug)]
struct Key {
    hash: Hash,
    principal: Arc<Principal>,
}

impl ApiKeys {
    /// Reads the file.
    ///
    /// # Errors
    /// [`InvalidKeys`] names the file and the line.
    pub fn open(path: &Path) -> Result<Self, InvalidKeys> {
        Ok(Self {
            path: path.to_owned(),
            keys: ArcSwap::from_pointee(read(path)?),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// [`InvalidKeys`]; the keys are as they were then.
    pub fn reload(&self) -> Result<(), InvalidKeys> {
        self.keys.store(Arc::new(read(&self.path)?));
        tracing::info!(path = %self.path.display(), keys = self.keys.load().len(), "the API keys were read again");
        Ok(())
    }

    /// Whose key it is. Takes the same time whichever key it is, and whether it is one or not.
    ///
    /// # Errors
    /// [`Refusal::Forged`] when it is nobody's.
    pub fn verify(&self, key: &[u8]) -> Result<Arc<Principal>, Refusal> {
        let hash = digest(&SHA256, key);
        let mut found = None;
        for known in self.keys.load().iter() {
            if verify_slices_are_equal(&known.hash, hash.as_ref()).is_ok() {
                found = Some(&known.principal).cloned();
            }
        }
        found.ok_or(Refusal::Forged("the API key is not known"))
    }
}

fn read(path: &Path) -> Result<Vec<Key>, InvalidKeys> {
    let text = std::fs::read_to_string(path).map_err(|cause| InvalidKeys::Read {
        path: path.to_owned(),
        cause,
    })?;
    let mut keys: Vec<Key> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let invalid = |problem| InvalidKeys::Line {
            path: path.to_owned(),
            line: index + 1,
            problem,
        };
        let Some(key) = parse(line).map_err(invalid)? else {
            continue;
        };
        if keys
            .iter()
            .any(|known| known.principal.subject == key.principal.subject)
        {
            return Err(invalid(
                "its name is that of an earlier key; each key needs a name of its own",
            ));
        }
        if keys.iter().any(|known| known.hash == key.hash) {
            return Err(invalid("its key is that of an earlier line"));
        }
        keys.push(key);
    }
    if !(1..=KEYS_MAX).contains(&keys.len()) {
        return Err(InvalidKeys::Count {
            path: path.to_owned(),
            count: keys.len(),
        });
    }
    Ok(keys)
}

fn parse(line: &str) -> Result<Option<Key>, &'static str> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut words = line.splitn(3, char::is_whitespace);
    let (name, hash) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut key = Key {
        hash: [0; SHA256_OUTPUT_LEN],
        principal: Arc::new(
            Principal::new(name, scopes(words.next().unwrap_or_default())?)
                .ok_or("its name is longer than 256 bytes or has control characters")?,
        ),
    };
    hex::decode_to_slice(hash, &mut key.hash)
        .map_err(|_| "expected NAME SHA256 [SCOPE …], with the 64 hex digits that `mcp-server api-key NAME` prints")?;
    Ok(Some(key))
}

fn scopes(text: &str) -> Result<std::collections::BTreeSet<String>, &'static str> {
    let scopes: Scopes = text
        .parse()
        .map_err(|_| "its scopes must be letters, digits and punctuation other than \" and \\, between spaces")?;
    Ok(scopes.iter().map(str::to_owned).collect())
}

/// A new key, and the line of the file that lets it in.
#[derive(Debug)]
pub struct NewKey {
    /// The key; shown once and kept nowhere.
    pub key: String,
    /// The line for the file.
    pub line: String,
}

/// A key cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CannotGenerate {
    /// The name or a scope is not allowed.
    #[error("the name must be one word of at most 256 bytes, and scopes words without \" and \\: {0}")]
    Line(&'static str),
    /// The system has no random numbers.
    #[error("the operating system gives no random numbers")]
    NoRandomness,
}

/// Makes a key for `name`.
///
/// # Errors
/// [`CannotGenerate`] when the name cannot be a name.
pub fn generate(name: &str, scopes: &[String]) -> Result<NewKey, CannotGenerate> {
    let mut bytes = [0; KEY_BYTES];
    rand::fill(&mut bytes).map_err(|_| CannotGenerate::NoRandomness)?;
    let key = format!("{KEY_PREFIX}{}", hex::encode(bytes));
    let hash = hex::encode(digest(&SHA256, key.as_bytes()));
    let line = [&[name.to_owned(), hash], scopes].concat().join(" ");
    match parse(&line) {
        Ok(Some(parsed)) if parsed.principal.subject == name => Ok(NewKey { key, line }),
        Ok(_) => Err(CannotGenerate::Line("the name is empty, has spaces, or begins with #")),
        Err(problem) => Err(CannotGenerate::Line(problem)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    /// What the subcommand prints is what the file takes.
    #[test]
    fn a_new_key_opens_the_door() {
        let (reader, writer) = (
            generate("reader", &["read".to_owned()]).unwrap(),
            generate("writer", &[]).unwrap(),
        );
        assert_ne!(reader.key, writer.key);
        assert!(!reader.line.contains(&reader.key), "the file holds no secret");
        let (_folder, path) = file(&format!("# keys\n\n{}\n  {}  \n", reader.line, writer.line));
        let keys = ApiKeys::open(&path).unwrap();
        let principal = keys.verify(reader.key.as_bytes()).unwrap();
        assert_eq!((principal.subject.as_str(), principal.scopes.len()), ("reader", 1));
        assert_eq!(keys.verify(writer.key.as_bytes()).unwrap().subject, "writer");
        for wrong in ["", "mcpk_", &reader.key[1..], &format!("{}0", reader.key), &reader.line] {
            assert!(keys.verify(wrong.as_bytes()).is_err(), "{wrong}");
        }
        for name in ["", "two words", "#1", "line\nbreak"] {
            assert!(generate(name, &[]).is_err(), "{name:?}");
        }
    }

    /// A typo must be found at the start, without printing what may be a key.
    #[test]
    fn bad_files_are_named_without_their_secrets() {
        let hash = hex::encode([7; 32]);
        for (text, expected) in [
            ("ci mcpk_secret".to_owned(), "line 1"),
            ("mcpk_secret".to_owned(), "64 hex digits"),
            (format!("# x\nci {hash} a\"b"), "line 2"),
            (format!("ci {hash}\nci {}", hex::encode([8; 32])), "name of its own"),
            (format!("a {hash}\nb {hash}"), "earlier line"),
            ("# nothing\n".to_owned(), "has 0 keys"),
        ] {
            let (_folder, path) = file(&text);
            let message = ApiKeys::open(&path).unwrap_err().to_string();
            assert!(
                message.contains(expected) && message.contains("--api-keys-file"),
                "{text:?}: {message}"
            );
            assert!(!message.contains("secret"), "{message}");
        }
        assert!(
            ApiKeys::open(Path::new("/does/not/exist"))
                .unwrap_err()
                .to_string()
                .contains("/does/not/exist")
        );
    }

    /// A half-written file must not lock everybody out.
    #[test]
    fn a_broken_change_leaves_the_keys_in_force() {
        let (first, second) = (generate("a", &[]).unwrap(), generate("b", &[]).unwrap());
        let (_folder, path) = file(&first.line);
        let keys = ApiKeys::open(&path).unwrap();
        std::fs::write(&path, "b 12").unwrap();
        assert!(keys.reload().is_err());
        assert!(keys.verify(first.key.as_bytes()).is_ok());
        std::fs::write(&path, &second.line).unwrap();
        keys.reload().unwrap();
        assert!(keys.verify(first.key.as_bytes()).is_err() && keys.verify(second.key.as_bytes()).is_ok());
    }
}
