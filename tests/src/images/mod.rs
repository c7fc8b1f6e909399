//! The images that the tests run: mcpscale's own, from its Dockerfiles, and stand-ins for those that a user pulls.
//!
//! Nothing is pulled. The stand-ins are made of Debian packages and have the names, paths and user ids of the upstream
//! images; manifests of this project set command, user, paths and data folder themselves, so what runs here is what
//! runs for a user with a registry. Each bundle is an archive in the user's cache folder, named by a hash of all that
//! goes into it; `docker load` and `kind load image-archive` take it too.

mod archive;
mod check;
mod debian;
mod project;
mod upstream;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use archive::{Image, write_archive};

use crate::{
    HarnessError,
    command::run,
    files::{self, ContentHash, Lock, make_folder},
    tools::Tool,
};

/// How many versions of a bundle stay in the cache: a few, as one comes back when a branch is switched.
const KEPT_VERSIONS: usize = 3;

/// Images that are built and loaded together, as one archive.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The bundle's name.
    pub name: &'static str,
    /// The hash of all that went into it.
    pub hash: String,
    /// The names of its images.
    pub images: Vec<String>,
    /// The archive, in the format of `docker save`.
    pub archive: PathBuf,
}

/// All bundles; those that are not in the cache are built first.
///
/// # Errors
/// When a build fails, or an image is not what the tests need.
pub fn all() -> Result<Vec<Bundle>, HarnessError> {
    Ok(vec![
        pause()?,
        upstream::stand_ins()?,
        debian_slim()?,
        project::operator()?,
        project::server()?,
    ])
}

/// The image that holds the network of a pod.
pub(crate) fn pause() -> Result<Bundle, HarnessError> {
    let program = Tool::Pause.path()?;
    let hash = ContentHash::default()
        .with("program", program.as_os_str().as_encoded_bytes())
        .finish();
    let names = vec!["registry.k8s.io/pause:3.10".to_owned()];
    cached("pause", hash, names.clone(), |target| {
        let layer = target.with_extension("layer");
        archive::write_layer(&layer, |tar| tar.program("pause", &program))?;
        let config = serde_json::json!({"Entrypoint": ["/pause"], "User": "65535:65535"});
        write_archive(
            target,
            &[Image {
                name: names[0].clone(),
                layers: vec![layer.clone()],
                config,
            }],
        )?;
        fs::remove_file(&layer).map_err(HarnessError::io("remove", layer))
    })
}

/// The base of mcpscale's own images.
fn debian_slim() -> Result<Bundle, HarnessError> {
    let base = debian::bookworm()?;
    let names = vec!["docker.io/library/debian:bookworm-slim".to_owned()];
    cached("debian", base.hash, names.clone(), |target| {
        let config = serde_json::json!({"Cmd": ["bash"], "Env": [archive::PATH]});
        write_archive(
            target,
            &[Image {
                name: names[0].clone(),
                layers: vec![base.layer.clone()],
                config,
            }],
        )
    })
}

/// The bundle `name` in the version `hash`; `build` writes its archive if the cache has it not.
fn cached(
    name: &'static str,
    hash: String,
    images: Vec<String>,
    build: impl FnOnce(&Path) -> Result<(), HarnessError>,
) -> Result<Bundle, HarnessError> {
    let archive = cached_file(name, &hash, "tar", build)?;
    Ok(Bundle {
        name,
        hash,
        images,
        archive,
    })
}

/// The file `images/NAME/HASH.ENDING` of the cache; `build` writes it if it is not there. Others who want it wait.
fn cached_file(
    name: &str,
    hash: &str,
    ending: &str,
    build: impl FnOnce(&Path) -> Result<(), HarnessError>,
) -> Result<PathBuf, HarnessError> {
    let shelf = files::cache()?.join("images").join(name);
    let file = shelf.join(format!("{hash}.{ending}"));
    make_folder(&shelf)?;
    let _lock = Lock::take(&shelf.join("lock"))?;
    if !file.exists() {
        eprintln!("building the image {name} (kept in {})", file.display());
        let partial = file.with_extension("partial");
        build(&partial)?;
        fs::rename(&partial, &file).map_err(HarnessError::io("rename", &partial))?;
        remove_old(&shelf, ending)?;
    }
    Ok(file)
}

/// Removes all but the newest versions of a file in the cache.
fn remove_old(shelf: &Path, ending: &str) -> Result<(), HarnessError> {
    let entries = fs::read_dir(shelf).map_err(HarnessError::io("list", shelf))?;
    let mut versions: Vec<(SystemTime, PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == ending))
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    versions.sort();
    for (_, old) in versions.iter().rev().skip(KEPT_VERSIONS) {
        fs::remove_file(old).map_err(HarnessError::io("remove", old))?;
    }
    Ok(())
}

/// Loads into the containerd at `socket` those `bundles` that `record`, a file, does not name as loaded.
pub(crate) fn load(record: &Path, socket: &Path, bundles: &[Bundle]) -> Result<(), HarnessError> {
    let content = fs::read(record).unwrap_or_default();
    let mut loaded: BTreeMap<String, String> = serde_json::from_slice(&content).unwrap_or_default();
    for bundle in bundles {
        if loaded.get(bundle.name) == Some(&bundle.hash) {
            continue;
        }
        eprintln!("loading {}", bundle.images.join(", "));
        run(Command::new("ctr")
            .arg("--address")
            .arg(socket)
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(&bundle.archive))?;
        loaded.insert(bundle.name.to_owned(), bundle.hash.clone());
        files::write_whole(record, serde_json::to_vec_pretty(&loaded).unwrap_or_default())?;
    }
    Ok(())
}
