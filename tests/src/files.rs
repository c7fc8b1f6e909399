//! Where the harness keeps things, locks between processes, and content hashes.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::HarnessError;

/// The folder of the repository: that of the sources cargo runs, else that of the sources this was compiled from.
#[must_use]
pub fn repository() -> PathBuf {
    let tests = match (env::var("CARGO_PKG_NAME").as_deref(), env::var_os("CARGO_MANIFEST_DIR")) {
        (Ok("mcpscale-tests"), Some(folder)) => PathBuf::from(folder),
        _ => PathBuf::from(env!("CARGO_MANIFEST_DIR")),
    };
    tests.parent().unwrap_or(&tests).to_path_buf()
}

/// The user's cache folder of this project: `$XDG_CACHE_HOME/mcpscale`, else `~/.cache/mcpscale`.
///
/// # Errors
/// When neither `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache() -> Result<PathBuf, HarnessError> {
    let of_user =
        match env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from(env::var_os("HOME").ok_or_else(|| {
                HarnessError::Unusable("set HOME or XDG_CACHE_HOME: the cluster needs a cache".into())
            })?)
            .join(".cache"),
        };
    Ok(of_user.join("mcpscale"))
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<(), HarnessError> {
    fs::create_dir_all(path).map_err(HarnessError::io("create", path))
}

/// Writes a file whole: whoever reads it sees the old content or the new one, also after a crash.
pub(crate) fn write_whole(path: &Path, content: impl AsRef<[u8]>) -> Result<(), HarnessError> {
    let partial = path.with_extension("partial");
    fs::write(&partial, content).map_err(HarnessError::io("write", &partial))?;
    fs::rename(&partial, path).map_err(HarnessError::io("replace", path))
}

/// Reads a text file.
pub(crate) fn read_text(path: &Path) -> Result<String, HarnessError> {
    fs::read_to_string(path).map_err(HarnessError::io("read", path))
}

/// The last `count` lines of a text file, empty when it cannot be read.
pub(crate) fn tail(path: &Path, count: usize) -> String {
    let content = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&content);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Removes a folder with all in it; one that is not there is fine.
pub(crate) fn remove_folder(path: &Path) -> Result<(), HarnessError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(HarnessError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A lock between processes, held until it is dropped. The operating system frees it when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock `path` and takes it.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub fn take(path: &Path) -> Result<Self, HarnessError> {
        if let Some(folder) = path.parent() {
            make_folder(folder)?;
        }
        let file = File::create(path).map_err(HarnessError::io("create", path))?;
        file.lock().map_err(HarnessError::io("lock", path))?;
        Ok(Self { _file: file })
    }

    /// As [`take`](Self::take), but others may share it; whoever takes it whole waits for all of them.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn share(path: &Path) -> Result<Self, HarnessError> {
        let file = File::create(path).map_err(HarnessError::io("create", path))?;
        file.lock_shared().map_err(HarnessError::io("lock", path))?;
        Ok(Self { _file: file })
    }
}

/// A hash over named parts, in the order they are added.
#[derive(Debug, Default)]
pub struct ContentHash(Sha256);

impl ContentHash {
    /// Adds a part. Name and length are part of the hash, so two parts never pass for one.
    #[must_use]
    pub fn with(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let content = content.as_ref();
        self.0.update(format!("{name}\0{}\0", content.len()));
        self.0.update(content);
        self
    }

    /// Adds the files `names` of `folder`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn with_files(self, folder: &Path, names: &[impl AsRef<str>]) -> Result<Self, HarnessError> {
        names.iter().map(AsRef::as_ref).try_fold(self, |hash, name| {
            let path = folder.join(name);
            let content = fs::read(&path).map_err(HarnessError::io("read", &path))?;
            Ok(hash.with(name, content))
        })
    }

    /// The hash: 16 hexadecimal digits, enough to tell the versions of one thing apart.
    #[must_use]
    pub fn finish(self) -> String {
        hex::encode(self.0.finalize())[..16].to_owned()
    }
}
