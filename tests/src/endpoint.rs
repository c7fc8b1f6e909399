//! Reaching a Service from a test.

use std::{process::Stdio, time::Duration};

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::{
    HarnessError,
    access::Access,
    command::{cannot_start, describe},
};

/// How long kubectl may take to open a way.
const FORWARD_PATIENCE: Duration = Duration::from_secs(30);

/// A Service that can be reached at [`url`](Self::url) until this is dropped.
#[derive(Debug)]
pub struct Endpoint {
    url: String,
    /// The `kubectl port-forward` that keeps the way open; it ends with this value.
    _forward: Option<Child>,
}

impl Endpoint {
    /// The address, `http://HOST:PORT` without a path.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The address of the Service itself, for a caller in the cluster's network.
    pub(crate) async fn of_service(
        client: &Client,
        namespace: &str,
        name: &str,
        port: u16,
    ) -> Result<Self, HarnessError> {
        let services: Api<Service> = Api::namespaced(client.clone(), namespace);
        let service = services
            .get(name)
            .await
            .map_err(HarnessError::kube(format!("read the Service {namespace}/{name}")))?;
        let address = service
            .spec
            .and_then(|spec| spec.cluster_ip)
            .filter(|address| address != "None");
        let address = address.ok_or_else(|| {
            HarnessError::Unusable(format!("the Service {namespace}/{name} has no address: it is headless"))
        })?;
        Ok(Self {
            url: format!("http://{address}:{port}"),
            _forward: None,
        })
    }

    /// A port of loopback that kubectl forwards to one pod of the Service.
    pub(crate) async fn forwarded(
        access: &Access,
        namespace: &str,
        service: &str,
        port: u16,
    ) -> Result<Self, HarnessError> {
        let (target, ports) = (format!("service/{service}"), format!(":{port}"));
        let command = access.kubectl(&["port-forward", "--namespace", namespace, &target, &ports])?;
        let described = describe(&command);
        let failed = |problem: String| HarnessError::Command {
            command: described.clone(),
            status: "it forwards nothing".into(),
            output: problem,
        };
        let mut command = Command::from(command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| cannot_start(command.as_std(), error))?;
        let output = child.stdout.take().ok_or_else(|| failed("it has no output".into()))?;
        let mut lines = BufReader::new(output).lines();
        let first = tokio::time::timeout(FORWARD_PATIENCE, lines.next_line()).await;
        let line = match first {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return Err(failed("it ended; its reason is above".into())),
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("it said nothing for {FORWARD_PATIENCE:?}"))),
        };
        let url = forwarded_address(&line).ok_or_else(|| failed(line.clone()))?;
        // kubectl says a line for each connection, and stops when nobody reads them.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            url,
            _forward: Some(child),
        })
    }
}

/// The address in `Forwarding from 127.0.0.1:41234 -> 8080`.
fn forwarded_address(line: &str) -> Option<String> {
    let address = line.strip_prefix("Forwarding from ")?.split_whitespace().next()?;
    Some(format!("http://{address}"))
}
