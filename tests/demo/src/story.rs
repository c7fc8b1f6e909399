//! The steps of the demo.

use std::time::Instant;

use mcpscale_tests::{
    Cluster,
    installation::{self, repository},
};

use crate::{
    Result, load,
    narrator::Narrator,
    server::{NAME, Server},
};

/// The server that is declared.
const EXAMPLE: &str = "examples/quickstart.yaml";
/// The definition that the chart of CRDs installs, and leaves behind when it is uninstalled.
const CRD: &str = "mcpservers.mcpscale.dev";

/// Tells the whole story: install, declare, load, scale up, scale down.
///
/// # Errors
/// When a step fails, or the load shows that the loop does not work.
pub(crate) async fn tell(cluster: &Cluster, narrator: &Narrator) -> Result<()> {
    install(cluster, narrator).await?;
    let namespace = cluster.namespace("demo").await?;
    let server = declare(cluster, &namespace, narrator).await?;
    narrator.say(&cluster.kubectl(&["get", "pods", "--namespace", &namespace]).await?);

    let endpoint = cluster.endpoint(&namespace, NAME, 80).await?;
    let url = format!("{}/mcp", endpoint.url());
    narrator.step(
        "Load: a tool that takes 50 ms; few calls, then ten times as many, then few",
        &[&load::command(&url)],
    );
    let facts = load::send(&url, &server, narrator).await?;

    let look = ["get", "mcpserver", NAME, "--namespace", &namespace];
    narrator.step("What is left to see", &[&format!("kubectl {}", look.join(" "))]);
    narrator.say(&cluster.kubectl(&look).await?);

    narrator.step("Summary", &[]);
    narrator.say(&facts.text());
    let problems = facts.problems();
    if problems.is_empty() {
        narrator.say(
            &narrator
                .paint
                .good("The loop works: replicas followed the load, and no request failed."),
        );
        return Ok(());
    }
    for problem in &problems {
        narrator.say(&narrator.paint.bad(problem));
    }
    Err(format!("the loop does not work: {}", problems.join("; ")).into())
}

/// Installs the operator, as the README says.
async fn install(cluster: &Cluster, narrator: &Narrator) -> Result<()> {
    let commands = [
        "helm install mcpscale-crds charts/mcpscale-crds",
        "helm install mcpscale charts/mcpscale --namespace mcpscale-system --create-namespace --set prometheus.install=true",
    ];
    narrator.step("Install the operator, and a small Prometheus for it to read", &commands);
    let start = Instant::now();
    installation::install(cluster, &[]).await?;
    narrator.say(&format!("both are ready after {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

/// Declares the server and waits until it serves.
async fn declare(cluster: &Cluster, namespace: &str, narrator: &Narrator) -> Result<Server> {
    let file = repository().join(EXAMPLE);
    let (create, apply) = (
        format!("kubectl create namespace {namespace}"),
        format!("kubectl apply --namespace {namespace} -f {EXAMPLE}"),
    );
    narrator.step("Declare one McpServer", &[&create, &format!("cat {EXAMPLE}")]);
    narrator.say(&std::fs::read_to_string(&file)?);
    narrator.step("Apply it, and wait until it serves", &[&apply]);
    let start = Instant::now();
    let printed = cluster
        .kubectl(&["apply", "--namespace", namespace, "-f", &file.display().to_string()])
        .await?;
    narrator.say(&printed);
    let server = Server::read(cluster, namespace).await?;
    server.ready(narrator).await?;
    narrator.say(
        &narrator
            .paint
            .good(&format!("serves {:.1} s after apply", start.elapsed().as_secs_f64())),
    );
    Ok(server)
}

/// What of mcpscale was in the cluster before the demo, so that only the rest is removed.
#[derive(Debug)]
pub(crate) struct Installed {
    releases: String,
    definition: bool,
}

impl Installed {
    /// Looks before the demo begins.
    pub(crate) async fn look(cluster: &Cluster) -> Result<Self> {
        let releases = cluster
            .helm(&["list", "--all", "--short", "--namespace", installation::NAMESPACE])
            .await?;
        let found = cluster
            .kubectl(&["get", "crd", CRD, "--ignore-not-found", "--output", "name"])
            .await?;
        Ok(Self {
            releases,
            definition: !found.trim().is_empty(),
        })
    }

    /// Removes what the demo has installed. Its namespace goes by itself.
    pub(crate) async fn restore(&self, cluster: &Cluster) -> Result<()> {
        let had = |release: &str| self.releases.lines().any(|line| line == release);
        for release in ["mcpscale", "mcpscale-crds"] {
            if !had(release) {
                let uninstall = [
                    "uninstall",
                    "--ignore-not-found",
                    "--wait",
                    "--namespace",
                    installation::NAMESPACE,
                ];
                cluster.helm(&[&uninstall[..], &[release]].concat()).await?;
            }
        }
        if !self.definition {
            cluster.kubectl(&["delete", "crd", CRD, "--ignore-not-found"]).await?;
        }
        Ok(())
    }
}
