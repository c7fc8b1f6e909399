//! mcpscale itself, installed with its charts as a user would.

use std::path::{Path, PathBuf};

use crate::{Cluster, HarnessError};

/// The namespace that the operator is installed into.
pub const NAMESPACE: &str = "mcpscale-system";
/// Who the operator's writes are by, as the audit log names it.
pub const OPERATOR: &str = "system:serviceaccount:mcpscale-system:mcpscale";

/// Installs or upgrades the operator with a small Prometheus of its own, and waits until both are ready. An
/// installation that is as it should be is left alone.
///
/// # Errors
/// When helm fails; its output says why.
pub async fn install(cluster: &Cluster, values: &[&str]) -> Result<(), HarnessError> {
    let crds = repository().join("charts/mcpscale-crds").display().to_string();
    let chart = repository().join("charts/mcpscale").display().to_string();
    let create = [
        "--namespace",
        NAMESPACE,
        "--create-namespace",
        "--wait",
        "--timeout",
        "120s",
    ];
    let mut arguments = vec!["upgrade", "--install", "mcpscale-crds", crds.as_str()];
    arguments.extend(create);
    cluster.helm(&arguments).await?;
    let mut arguments = vec![
        "upgrade",
        "--install",
        "mcpscale",
        chart.as_str(),
        "--set",
        "prometheus.install=true",
    ];
    arguments.extend(create);
    for value in values {
        arguments.extend(["--set", value]);
    }
    cluster.helm(&arguments).await.map(drop)
}

/// The folder of the sources that this was built from.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
        .to_owned()
}
