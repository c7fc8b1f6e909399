//! etcd and kube-apiserver, as both modes of the harness start them.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{HarnessError, audit, files, pki, process::Processes, tools};

/// How often a component is asked whether it is ready.
const POLL: Duration = Duration::from_millis(50);

/// Where the control plane of one cluster lives.
pub(crate) struct ControlPlane {
    /// The folder of the cluster.
    pub folder: PathBuf,
    /// The network namespace to run in; `None` is that of the machine.
    pub network: Option<&'static str>,
    /// The address clients reach the API server at; it listens there and, in a namespace of its own, on loopback.
    pub address: Ipv4Addr,
    /// The port of the API server.
    pub api_port: u16,
    /// The port of etcd for the API server.
    pub etcd_port: u16,
    /// The port of etcd for its peers, of which there are none.
    pub peer_port: u16,
}

impl ControlPlane {
    /// Writes certificates, token, kubeconfig and audit policy.
    pub fn prepare(&self) -> Result<(), HarnessError> {
        let certificates = self.folder.join("certificates");
        files::make_folder(&certificates)?;
        files::make_folder(&self.folder.join("log"))?;
        pki::write_certificates(
            &certificates,
            &[&self.address.to_string(), "127.0.0.1", SERVICE_ADDRESS],
        )?;
        let token = pki::random_token()?;
        pki::write_secret(
            &self.folder.join("tokens.csv"),
            &format!("{token},admin,admin,\"system:masters\"\n"),
        )?;
        pki::write_secret(&self.kubeconfig(), &self.kubeconfig_text(&token))?;
        files::write_whole(&self.folder.join("audit-policy.yaml"), audit::POLICY)
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The command line of etcd. Its data is thrown away with the cluster, so it never waits for the disk.
    pub fn etcd(&self) -> Result<Command, HarnessError> {
        let client = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = self.component("etcd")?;
        command
            .arg("--data-dir")
            .arg(self.folder.join("etcd"))
            .args(["--unsafe-no-fsync", "--log-level", "warn"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")]);
        Ok(command)
    }

    /// The command line of kube-apiserver, without what only one mode needs.
    pub fn api_server(&self) -> Result<Command, HarnessError> {
        let certificates = self.folder.join("certificates");
        let mut command = self.component("kube-apiserver")?;
        command
            .args(["--etcd-servers", &format!("http://127.0.0.1:{}", self.etcd_port)])
            .args(["--advertise-address", &self.address.to_string()])
            .args(["--secure-port", &self.api_port.to_string()])
            .args(["--service-cluster-ip-range", SERVICE_RANGE])
            .args(["--service-account-issuer", "https://kubernetes.default.svc"])
            .arg("--service-account-key-file")
            .arg(certificates.join("service-account.pub"))
            .arg("--service-account-signing-key-file")
            .arg(certificates.join("service-account.key"))
            .arg("--tls-cert-file")
            .arg(certificates.join("apiserver.crt"))
            .arg("--tls-private-key-file")
            .arg(certificates.join("apiserver.key"))
            .arg("--cert-dir")
            .arg(&certificates)
            .arg("--token-auth-file")
            .arg(self.folder.join("tokens.csv"))
            .arg("--audit-policy-file")
            .arg(self.folder.join("audit-policy.yaml"))
            .arg("--audit-log-path")
            .arg(self.audit_log());
        Ok(command)
    }

    /// The command line of kube-controller-manager.
    pub fn controller_manager(&self) -> Result<Command, HarnessError> {
        let certificates = self.folder.join("certificates");
        let mut command = self.component("kube-controller-manager")?;
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--cert-dir")
            .arg(&certificates)
            .arg("--root-ca-file")
            .arg(certificates.join("ca.crt"))
            .arg("--service-account-private-key-file")
            .arg(certificates.join("service-account.key"))
            .args(["--use-service-account-credentials", "--leader-elect=false"]);
        Ok(command)
    }

    /// The log of all writes.
    pub fn audit_log(&self) -> PathBuf {
        self.folder.join("log/audit.log")
    }

    /// A component of Kubernetes or etcd, in the network of the cluster.
    pub fn component(&self, name: &str) -> Result<Command, HarnessError> {
        Ok(in_network(self.network, &tools::component(name)?))
    }

    /// Waits until the API server answers and has made the namespace `default`; gives up at once when one of
    /// `processes` ends.
    pub async fn ready(&self, processes: &Processes, client: &Client, patience: Duration) -> Result<(), HarnessError> {
        let start = Instant::now();
        loop {
            let seen = match Api::<Namespace>::all(client.clone()).get("default").await {
                Ok(_) => readyz(client).await,
                Err(error) => Err(error),
            };
            let Err(error) = seen else { return Ok(()) };
            processes.all_running()?;
            if start.elapsed() > patience {
                return Err(processes.ended("kube-apiserver", format!("is not ready after {patience:?}: {error}")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn kubeconfig_text(&self, token: &str) -> String {
        let server = format!("https://{}:{}", self.address, self.api_port);
        let authority = self.folder.join("certificates/ca.crt");
        let name = "mcpscale-test";
        serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority": authority}}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": "admin"}}],
            "current-context": name,
        })
        .to_string()
    }
}

/// The addresses of Services.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The address of the Service `kubernetes`: the first of [`SERVICE_RANGE`].
const SERVICE_ADDRESS: &str = "10.96.0.1";

/// `program` in the network namespace `network`, or in that of the caller. Not `ip netns exec`: it mounts `/sys` anew,
/// and kubelet then finds no control groups.
pub(crate) fn in_network(network: Option<&str>, program: &Path) -> Command {
    match network {
        Some(name) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{name}")).arg("--").arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// The client configuration of a kubeconfig file.
pub(crate) async fn client_config(kubeconfig: &Path) -> Result<Config, HarnessError> {
    let failed = |source| HarnessError::Kubeconfig {
        from: kubeconfig.display().to_string(),
        source: Box::new(source),
    };
    let content = Kubeconfig::read_from(kubeconfig).map_err(failed)?;
    Config::from_custom_kubeconfig(content, &KubeConfigOptions::default())
        .await
        .map_err(failed)
}

async fn readyz(client: &Client) -> Result<(), kube::Error> {
    let request = http::Request::get("/readyz")
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(drop)
}
