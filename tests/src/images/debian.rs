//! Base layers: Debian systems made by `debootstrap` from the mirror that the machine itself uses.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{cached_file, check};
use crate::{
    HarnessError,
    command::run,
    files::{self, ContentHash},
};

/// What no container needs: caches, documentation, translations, and a cluster of Postgres that the package makes.
const LEFT_OUT: &[&str] = &[
    "./dev/*",
    "./proc/*",
    "./sys/*",
    "./tmp/*",
    "./usr/bin/promtool",
    "./usr/share/bash-completion",
    "./usr/share/doc/*",
    "./usr/share/i18n",
    "./usr/share/info/*",
    "./usr/share/lintian",
    "./usr/share/locale/*",
    "./usr/share/man/*",
    "./var/cache/*",
    "./var/lib/apt/lists/*",
    "./var/lib/postgresql/*",
    "./var/log/*",
];

/// A layer with a Debian system.
pub(super) struct Base {
    /// The hash of all that went into it.
    pub hash: String,
    /// The layer, a tar file.
    pub layer: PathBuf,
}

/// Debian 12, as in `debian:bookworm-slim`.
pub(super) fn bookworm() -> Result<Base, HarnessError> {
    base("bookworm", &[], |_| Ok(()))
}

/// Debian's newest, with the servers that mcpscale runs beside its own. Checked to be what the tests need.
pub(super) fn servers() -> Result<Base, HarnessError> {
    base(
        "sid",
        &[
            "ca-certificates",
            "nginx",
            "postgresql-18",
            "prometheus",
            "valkey-server",
            "valkey-tools",
        ],
        check::check_servers,
    )
}

fn base(
    suite: &str,
    packages: &[&str],
    check: impl FnOnce(&Path) -> Result<(), HarnessError>,
) -> Result<Base, HarnessError> {
    let hash = ContentHash::default()
        .with("suite", suite)
        .with("packages", packages.join(","))
        .with("left out", LEFT_OUT.join(","))
        .with("machine", std::env::consts::ARCH)
        .finish();
    let layer = cached_file(&format!("base-{suite}"), &hash, "layer", |target| {
        let root = target.with_extension("root");
        files::remove_folder(&root)?;
        let made = debootstrap(suite, packages, &root)
            .and_then(|()| check(&root))
            .and_then(|()| pack(&root, target));
        // The system is large and of no use once it is packed, or broken.
        files::remove_folder(&root)?;
        made
    })?;
    Ok(Base { hash, layer })
}

fn debootstrap(suite: &str, packages: &[&str], root: &Path) -> Result<(), HarnessError> {
    let mut command = Command::new("debootstrap");
    command.arg("--variant=minbase");
    if !packages.is_empty() {
        command.arg(format!("--include={}", packages.join(",")));
    }
    run(command.arg(suite).arg(root).arg(mirror()?)).map(drop)
}

/// The address of the Debian mirror that this machine's package manager is set to use.
fn mirror() -> Result<String, HarnessError> {
    let listed = |filter: &[&str]| {
        run(Command::new("apt-get")
            .args(["indextargets", "--format", "$(REPO_URI)"])
            .args(filter))
    };
    // Security updates come from a mirror of their own, which has no other suites.
    let first = |addresses: String, ending: &str| {
        let mut lines = addresses.lines().map(|line| line.trim_end_matches('/'));
        lines
            .find(|address| !address.contains("security") && address.ends_with(ending))
            .map(str::to_owned)
    };
    // Who is behind a mirror is known only once its lists are there; before that its path has to tell.
    let mirror = first(listed(&["Origin: Debian"])?, "").or(first(listed(&[])?, "/debian"));
    mirror.ok_or_else(|| HarnessError::Unusable("this machine's package manager knows no Debian mirror".into()))
}

/// Packs the system at `root` as a layer.
fn pack(root: &Path, target: &Path) -> Result<(), HarnessError> {
    let mut command = Command::new("tar");
    command
        .args(["--create", "--numeric-owner", "--sort=name", "--mtime=@0", "--file"])
        .arg(target);
    for path in LEFT_OUT {
        command.arg(format!("--exclude={path}"));
    }
    run(command.arg("--directory").arg(root).arg(".")).map(drop)
}
