//! The programs that the harness builds itself from pinned Go modules: Kubernetes and etcd, `CoreDNS`, helm, kwok,
//! kubeconform and the pause program of a pod.
//!
//! Versions live in the `go.mod` files below `tests/cluster/` and nowhere else; sums are checked against the committed
//! `go.sum`. A build is kept in the user's cache folder under a hash of all that goes into it, so a fresh clone of the
//! same sources builds nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use crate::{
    HarnessError,
    command::run,
    files::{self, ContentHash, Lock, make_folder, read_text},
    node::network,
};

/// A program, or a family of programs in one binary, that the harness builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kube-proxy, kubelet and kubectl.
    Kubernetes,
    /// The program of the pause image.
    Pause,
    /// The cluster's name server.
    CoreDns,
    /// The package manager that installs the charts.
    Helm,
    /// Nodes and pods that only pretend, for tests of scale.
    Kwok,
    /// The checker of rendered manifests.
    Kubeconform,
}

/// How a [`Tool`] is built.
struct Recipe {
    /// The name of the binary.
    binary: &'static str,
    /// The folder of the Go module below `tests/cluster/`.
    module: &'static str,
    /// The Go package of the program.
    package: &'static str,
    /// The project's own sources in the module, besides `go.mod` and `go.sum`.
    sources: &'static [&'static str],
    /// The module whose version the binary reports, and the variables to write it to (`{}` is the version).
    version: Option<(&'static str, &'static str)>,
    /// Other names for the binary.
    links: &'static [&'static str],
}

impl Tool {
    /// Every tool.
    pub const ALL: [Self; 6] = [
        Self::Kubernetes,
        Self::Pause,
        Self::CoreDns,
        Self::Helm,
        Self::Kwok,
        Self::Kubeconform,
    ];

    /// The path of the tool's binary; it is built first if this version is not in the cache.
    ///
    /// # Errors
    /// When Go is missing or the build fails.
    pub fn path(self) -> Result<PathBuf, HarnessError> {
        let recipe = self.recipe();
        Ok(built(&recipe)?.join(recipe.binary))
    }

    fn recipe(self) -> Recipe {
        let simple = |binary, module, package| Recipe {
            binary,
            module,
            package,
            sources: &[],
            version: None,
            links: &[],
        };
        match self {
            Self::Kubernetes => Recipe {
                sources: &["kube/main.go"],
                version: Some((
                    "k8s.io/kubernetes",
                    "-X k8s.io/component-base/version.gitVersion={} -X k8s.io/component-base/version.gitMajor=1 \
                     -X k8s.io/component-base/version.gitMinor=35",
                )),
                links: &[
                    "etcd",
                    "kube-apiserver",
                    "kube-controller-manager",
                    "kube-scheduler",
                    "kube-proxy",
                    "kubelet",
                    "kubectl",
                ],
                ..simple("kube", "", "./kube")
            },
            Self::Pause => Recipe {
                sources: &["pause/main.go"],
                ..simple("pause", "", "./pause")
            },
            Self::CoreDns => simple("coredns", "tools/coredns", "github.com/coredns/coredns"),
            Self::Helm => Recipe {
                version: Some(("helm.sh/helm/v3", "-X helm.sh/helm/v3/internal/version.version={}")),
                ..simple("helm", "tools/helm", "helm.sh/helm/v3/cmd/helm")
            },
            Self::Kwok => simple("kwok", "tools/kwok", "sigs.k8s.io/kwok/cmd/kwok"),
            Self::Kubeconform => simple(
                "kubeconform",
                "tools/kubeconform",
                "github.com/yannh/kubeconform/cmd/kubeconform",
            ),
        }
    }
}

/// The path of a Kubernetes component or etcd, for example `kube-apiserver`.
///
/// # Errors
/// As [`Tool::path`].
pub fn component(name: &str) -> Result<PathBuf, HarnessError> {
    Ok(built(&Tool::Kubernetes.recipe())?.join(name))
}

/// Whether a program of the machine is on the `PATH`.
#[must_use]
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The folder of the binary in the cache; it is built first if it is not there. Others who want the same wait.
fn built(recipe: &Recipe) -> Result<PathBuf, HarnessError> {
    let module = files::repository().join("tests/cluster").join(recipe.module);
    let flags = linker_flags(recipe, &module)?;
    let hash = ContentHash::default()
        .with("go", go_version()?)
        .with("package", recipe.package)
        .with("flags", &flags)
        .with("links", recipe.links.join(" "))
        .with_files(&module, &["go.mod", "go.sum"])?
        .with_files(&module, recipe.sources)?
        .finish();
    let shelf = files::cache()?.join("bin");
    let folder = shelf.join(hash);
    if folder.exists() {
        return Ok(folder);
    }
    let _lock = Lock::take(&shelf.join(format!(".{}.lock", recipe.binary)))?;
    if !folder.exists() {
        build(recipe, &module, &flags, &folder)?;
    }
    Ok(folder)
}

fn build(recipe: &Recipe, module: &Path, flags: &str, folder: &Path) -> Result<(), HarnessError> {
    if network::is_inside() {
        // Go would wait for its modules for minutes, and say nothing.
        return Err(HarnessError::Unusable(format!(
            "{} is not built, and cannot be inside of the cluster's network: run `mcpscale-cluster tools` first",
            recipe.binary
        )));
    }
    eprintln!("building {} (kept in {})", recipe.binary, folder.display());
    let partial = folder.with_extension("partial");
    files::remove_folder(&partial)?;
    make_folder(&partial)?;
    run(go()
        .current_dir(module)
        .args(["build", "-ldflags", flags, "-o"])
        .arg(partial.join(recipe.binary))
        .arg(recipe.package))?;
    for name in recipe.links {
        let link = partial.join(name);
        std::os::unix::fs::symlink(recipe.binary, &link).map_err(HarnessError::io("link", link))?;
    }
    // The folder appears with its final name only when it is complete.
    fs::rename(&partial, folder).map_err(HarnessError::io("rename", &partial))
}

/// Go with settings of its own, so that those of the user change nothing about the result.
fn go() -> Command {
    let mut command = Command::new("go");
    command
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .env("GOWORK", "off");
    command
}

fn go_version() -> Result<&'static str, HarnessError> {
    static VERSION: LazyLock<Option<String>> = LazyLock::new(|| {
        let module = files::repository().join("tests/cluster");
        run(go().current_dir(module).args(["env", "GOVERSION", "GOARCH"])).ok()
    });
    VERSION.as_deref().ok_or_else(|| HarnessError::MissingProgram {
        program: "go".into(),
        remedy: "install Go 1.26 or newer and put it on the PATH".into(),
    })
}

fn linker_flags(recipe: &Recipe, module: &Path) -> Result<String, HarnessError> {
    let Some((name, variables)) = recipe.version else {
        return Ok("-s -w".into());
    };
    let path = module.join("go.mod");
    let requirements = read_text(&path)?;
    let version = requirements
        .lines()
        .find_map(|line| {
            line.trim()
                .trim_start_matches("require ")
                .strip_prefix(name)?
                .split_whitespace()
                .next()
        })
        .ok_or_else(|| HarnessError::Unusable(format!("{} names no version of {name}", path.display())))?;
    Ok(format!("-s -w {}", variables.replace("{}", version)))
}
