//! The images of the operator and the server, from their own Dockerfiles.
//!
//! The Dockerfiles build from sources when `docker build` runs them. Here their stage `build` is replaced by a folder
//! with the release binary that cargo built on this machine: the same final image in a fraction of the time.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Bundle, cached, debian_slim};
use crate::{
    HarnessError,
    command::run,
    files::{self, ContentHash, make_folder},
};

/// One image of the project.
struct Project {
    name: &'static str,
    image: &'static str,
    /// The cargo package, whose binary has the same name.
    package: &'static str,
    dockerfile: &'static str,
    /// The folders with the sources of the package and of those it depends on.
    sources: &'static [&'static str],
}

/// What every build depends on, besides the sources.
const COMMON: [&str; 4] = ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", ".cargo"];

/// `mcpscale/operator`.
pub(super) fn operator() -> Result<Bundle, HarnessError> {
    build(&Project {
        name: "operator",
        image: "docker.io/mcpscale/operator:0.1.0",
        package: "mcpscale",
        dockerfile: "operator/Dockerfile",
        sources: &["operator", "crds"],
    })
}

/// `mcpscale/mcp-server`.
pub(super) fn server() -> Result<Bundle, HarnessError> {
    build(&Project {
        name: "mcp-server",
        image: "docker.io/mcpscale/mcp-server:0.1.0",
        package: "mcp-server",
        dockerfile: "server-image/Dockerfile",
        sources: &["server-image"],
    })
}

fn build(project: &Project) -> Result<Bundle, HarnessError> {
    let base = debian_slim()?;
    let hash = ContentHash::default()
        .with("base", &base.hash)
        .with("image", project.image)
        .with_files(&files::repository(), &sources(project)?)?
        .finish();
    cached(project.name, hash, vec![project.image.to_owned()], |target| {
        let scratch = tempfile::Builder::new()
            .prefix("mcpscale-image-")
            .tempdir()
            .map_err(HarnessError::io("create a folder in", env::temp_dir()))?;
        let binary = release_binary(project.package)?;
        let stage = scratch.path().join("stage");
        make_folder(&stage)?;
        let staged = stage.join(project.package);
        fs::copy(&binary, &staged).map_err(HarnessError::io("copy", binary))?;
        stage_certificates(&stage)?;
        let buildah = Buildah {
            folder: scratch.path().join("storage"),
            policy: scratch.path().join("policy.json"),
        };
        buildah.run_dockerfile(project, &base.archive, &stage, target)
    })
}

/// The files that the image is made of: those git tracks and the new ones it does not ignore.
fn sources(project: &Project) -> Result<Vec<String>, HarnessError> {
    let listed = run(Command::new("git")
        .current_dir(files::repository())
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "--deduplicate",
            "--",
        ])
        .args(COMMON)
        .args(project.sources)
        // A release binary has nothing of them, and building one takes minutes.
        .args([":(exclude,glob)**/tests/**", ":(exclude,glob)**/benches/**"]))?;
    let names = listed.split('\0').filter(|name| !name.is_empty());
    Ok(names
        .filter(|name| files::repository().join(name).is_file())
        .map(str::to_owned)
        .collect())
}

/// The authorities that the build image trusts, where it has them.
fn stage_certificates(stage: &Path) -> Result<(), HarnessError> {
    let folder = stage.join("etc/ssl/certs");
    make_folder(&folder)?;
    let bundle = Path::new("/etc/ssl/certs/ca-certificates.crt");
    fs::copy(bundle, folder.join("ca-certificates.crt"))
        .map(drop)
        .map_err(HarnessError::io("copy (from the package ca-certificates)", bundle))
}

/// The packages with images. They are built in one go, so that what both depend on is compiled once.
const PACKAGES: [&str; 2] = ["mcpscale", "mcp-server"];

/// Builds the project with cargo as a user would, and returns the path of `package`'s binary.
fn release_binary(package: &str) -> Result<PathBuf, HarnessError> {
    let target = match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => files::cache()?.join("target"),
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo)
        .current_dir(files::repository())
        .env("CARGO_TARGET_DIR", &target)
        .args(["build", "--quiet", "--release", "--locked", "--bins"])
        .args(PACKAGES.iter().flat_map(|package| ["--package", package])))?;
    Ok(target.join("release").join(package))
}

/// buildah with a storage of its own: nothing of the user's images is seen or changed.
struct Buildah {
    folder: PathBuf,
    policy: PathBuf,
}

impl Buildah {
    fn run_dockerfile(&self, project: &Project, base: &Path, stage: &Path, target: &Path) -> Result<(), HarnessError> {
        // The archives are our own; nothing else is ever read.
        files::write_whole(&self.policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#)?;
        run(self.command("pull").arg(format!("docker-archive:{}", base.display())))?;
        run(self
            .command("bud")
            .args(["--pull-never", "--isolation", "chroot", "--tag", project.image])
            .arg(format!("--build-context=build={}", stage.display()))
            .arg("--file")
            .arg(files::repository().join(project.dockerfile))
            .arg(files::repository()))?;
        run(self.command("push").arg(project.image).arg(format!(
            "docker-archive:{}:{}",
            target.display(),
            project.image
        )))
        .map(drop)
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(self.folder.join("root"))
            .arg("--runroot")
            .arg(self.folder.join("run"))
            .args(["--storage-driver", "vfs"])
            .arg(action)
            .arg("--signature-policy")
            .arg(&self.policy);
        command
    }
}
