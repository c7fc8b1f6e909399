//! Writing image archives, in the format of `docker save`: a manifest, a configuration per image, layers that several
//! images may share. Written directly because a builder would copy each layer several times.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::HarnessError;

/// The search path that the upstream images set.
pub(super) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One image of an archive.
pub(super) struct Image {
    /// The full name with registry and tag.
    pub name: String,
    /// Its layers, tar files, the lowest first.
    pub layers: Vec<PathBuf>,
    /// The part `config` of its configuration: `Cmd`, `Env`, `User` and so on.
    pub config: Value,
}

/// Writes `images` as one archive to `target`.
pub(super) fn write_archive(target: &Path, images: &[Image]) -> Result<(), HarnessError> {
    let mut archive = Layer::create(target)?;
    let mut written = BTreeSet::new();
    let mut manifest = Vec::new();
    for image in images {
        let mut layer_files = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &image.layers {
            let digest = digest_of(layer)?;
            let name = format!("{digest}.tar");
            if written.insert(digest.clone()) {
                archive.copy(&name, layer, 0o644)?;
            }
            layer_files.push(name);
            diff_ids.push(format!("sha256:{digest}"));
        }
        let configuration = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let configuration = configuration.to_string();
        let name = format!("{}.json", hex::encode(Sha256::digest(&configuration)));
        archive.file(&name, configuration.as_bytes(), 0, 0o644)?;
        manifest.push(json!({"Config": name, "RepoTags": [image.name], "Layers": layer_files}));
    }
    archive.file("manifest.json", Value::from(manifest).to_string().as_bytes(), 0, 0o644)?;
    archive.finish()
}

/// Writes a layer to `target`.
pub(super) fn write_layer(
    target: &Path,
    fill: impl FnOnce(&mut Layer) -> Result<(), HarnessError>,
) -> Result<(), HarnessError> {
    let mut layer = Layer::create(target)?;
    fill(&mut layer)?;
    layer.finish()
}

/// A tar file in the making. Entries carry no time, so equal content gives an equal layer.
pub(super) struct Layer {
    path: PathBuf,
    tar: Builder<BufWriter<File>>,
}

impl Layer {
    fn create(path: &Path) -> Result<Self, HarnessError> {
        let file = File::create(path).map_err(HarnessError::io("create", path))?;
        Ok(Self {
            path: path.to_path_buf(),
            tar: Builder::new(BufWriter::new(file)),
        })
    }

    /// Adds the file `name` that belongs to the user and group `owner`.
    pub fn file(&mut self, name: &str, content: &[u8], owner: u64, mode: u32) -> Result<(), HarnessError> {
        let mut header = header(EntryType::Regular, owner, mode);
        header.set_size(content.len() as u64);
        let added = self.tar.append_data(&mut header, name, content);
        added.map_err(HarnessError::io("write", &self.path))
    }

    /// Adds the folder `name` that belongs to the user and group `owner`.
    pub fn folder(&mut self, name: &str, owner: u64, mode: u32) -> Result<(), HarnessError> {
        let mut header = header(EntryType::Directory, owner, mode);
        let added = self.tar.append_data(&mut header, format!("{name}/"), io::empty());
        added.map_err(HarnessError::io("write", &self.path))
    }

    /// Adds the symbolic link `name` to `target`.
    pub fn link(&mut self, name: &str, target: &str) -> Result<(), HarnessError> {
        let mut header = header(EntryType::Symlink, 0, 0o777);
        let added = self.tar.append_link(&mut header, name, target);
        added.map_err(HarnessError::io("write", &self.path))
    }

    /// Adds the file `source` as the program `name`.
    pub fn program(&mut self, name: &str, source: &Path) -> Result<(), HarnessError> {
        self.copy(name, source, 0o755)
    }

    fn copy(&mut self, name: &str, source: &Path, mode: u32) -> Result<(), HarnessError> {
        let file = File::open(source).map_err(HarnessError::io("open", source))?;
        let size = file.metadata().map_err(HarnessError::io("read", source))?.len();
        let mut header = header(EntryType::Regular, 0, mode);
        header.set_size(size);
        let added = self.tar.append_data(&mut header, name, BufReader::new(file));
        added.map_err(HarnessError::io("write", &self.path))
    }

    fn finish(self) -> Result<(), HarnessError> {
        let written = self.tar.into_inner().and_then(|mut file| file.flush());
        written.map_err(HarnessError::io("write", self.path))
    }
}

fn header(kind: EntryType, owner: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_uid(owner);
    header.set_gid(owner);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_size(0);
    header
}

fn digest_of(path: &Path) -> Result<String, HarnessError> {
    let mut file = File::open(path).map_err(HarnessError::io("open", path))?;
    let mut hash = Hasher(Sha256::new());
    io::copy(&mut file, &mut hash).map_err(HarnessError::io("read", path))?;
    Ok(hex::encode(hash.0.finalize()))
}

/// A hash that bytes can be written to.
struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
