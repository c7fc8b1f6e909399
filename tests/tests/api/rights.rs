//! The rights that the chart gives the operator: enough for its work, where it is told to work, and no more.

use std::{
    fs,
    process::{Command, Output},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        authentication::v1::TokenRequest,
        coordination::v1::Lease,
        core::v1::{Secret, ServiceAccount},
        events::v1::Event,
        policy::v1::PodDisruptionBudget,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use mcpscale_crds::v1alpha1::McpServer;
use mcpscale_tests::{
    ApiCluster, eventually,
    installation::repository,
    tools::{Tool, component},
};
use serde_json::json;

use super::support::{DEADLINE, NAMESPACE, Operator, cluster, create_in, make_namespace, reported};

/// The account that the chart makes when it is installed as `mcpscale` into the namespace of the tests.
const ACCOUNT: &str = "mcpscale";
/// Its name in the audit log.
const USER: &str = "system:serviceaccount:default:mcpscale";
/// The name of the definition, which the operator waits for.
const DEFINITION: &str = "mcpservers.mcpscale.dev";

/// What an administrator loses without it: an operator that may not do its work, or that works, or has rights, in
/// namespaces that were not named.
#[tokio::test(flavor = "multi_thread")]
async fn named_namespaces_are_served_and_no_other() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    for namespace in ["a", "b", "c"] {
        make_namespace(&client, namespace).await;
    }
    let account = granted(&cluster, &["--set", "watchNamespaces={a,b}"], &[Some("a"), Some("b")]).await;
    for elsewhere in [Some("c"), None] {
        let answer = servers(&account, elsewhere).list(&ListParams::default()).await;
        assert!(is_forbidden(&answer), "{elsewhere:?}");
    }
    let refusals = Refusals::until_now(&cluster).await;
    let operator = Operator::start(account, &["--watch-namespaces", "a,b"]);
    create_in(&client, "c", "unserved", &json!({})).await;
    for namespace in ["a", "b"] {
        work(&client, namespace).await;
    }
    operator.stop().await;
    refusals.are_no_more(&cluster).await;

    let unserved = servers(&client, Some("c")).get("unserved").await.unwrap();
    assert!(unserved.status.is_none(), "{unserved:?}");
    // The first thing that a server gets is an account.
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "c");
    let accounts = accounts.list(&ListParams::default()).await.unwrap();
    assert!(accounts.items.is_empty(), "{accounts:?}");
}

/// What an administrator loses without it: an operator whose rights lack something that it does.
#[tokio::test(flavor = "multi_thread")]
async fn every_namespace_is_served_where_none_is_named() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    make_namespace(&client, "a").await;
    let account = granted(&cluster, &[], &[None]).await;
    let secrets: Api<Secret> = Api::namespaced(account.clone(), "a");
    assert!(is_forbidden(&secrets.list(&ListParams::default()).await));
    let refusals = Refusals::until_now(&cluster).await;
    let operator = Operator::start(account, &[]);
    for namespace in ["a", NAMESPACE] {
        work(&client, namespace).await;
    }
    operator.stop().await;
    refusals.are_no_more(&cluster).await;
}

/// Gives the operator something of everything to do: to make the objects of a server, to take some away, to tell of a
/// mistake.
async fn work(client: &Client, namespace: &str) {
    create_in(client, namespace, "served", &json!({"replicas": 2})).await;
    let mistake = json!({"autoscaling": {"maxReplicas": 100}, "postgres": {"maxConnections": 50}});
    create_in(client, namespace, "mistaken", &mistake).await;
    reported(client, namespace, "served").await;
    let less = json!({"spec": {"replicas": 1, "redis": {"mode": "Disabled"}, "loadBalancer": {"mode": "None"}}});
    servers(client, Some(namespace))
        .patch("served", &PatchParams::default(), &Patch::Merge(less))
        .await
        .expect("changed");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), namespace);
    eventually(
        DEADLINE,
        &format!("in {namespace} goes what is no longer wanted"),
        || async {
            let deployments = deployments
                .list(&ListParams::default())
                .await
                .map_err(|e| e.to_string())?;
            let budgets = budgets.list(&ListParams::default()).await.map_err(|e| e.to_string())?;
            let deployments: Vec<_> = deployments.iter().map(ResourceExt::name_any).collect();
            let budgets: Vec<_> = budgets.iter().map(ResourceExt::name_any).collect();
            if deployments == ["served-server"] && budgets.is_empty() {
                Ok(())
            } else {
                Err(format!("{deployments:?} {budgets:?}"))
            }
        },
    )
    .await
    .expect("gone in time");
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    eventually(
        DEADLINE,
        &format!("in {namespace} an Event tells of the mistake"),
        || async {
            let events = events.list(&ListParams::default()).await.map_err(|e| e.to_string())?;
            let reasons: Vec<_> = events.iter().filter_map(|event| event.reason.clone()).collect();
            if reasons.iter().any(|reason| reason == "ConnectionBudgetTooSmall") {
                Ok(())
            } else {
                Err(format!("{reasons:?}"))
            }
        },
    )
    .await
    .expect("told in time");
}

/// What the API server refuses for want of a right.
struct Refusals {
    since: Timestamp,
    until_now: u64,
}

impl Refusals {
    /// There must have been some: else the counter is not what it is taken for.
    async fn until_now(cluster: &ApiCluster) -> Self {
        let until_now = refused_requests(&cluster.client()).await;
        assert!(until_now > 0, "a refused request was not counted");
        Self {
            since: Timestamp::now(),
            until_now,
        }
    }

    /// Fails when the operator wrote nothing, or was refused anything: a write, which is in the audit log, or a read.
    async fn are_no_more(self, cluster: &ApiCluster) {
        let writes = cluster.audit_writes(USER, self.since).expect("the audit log");
        assert!(!writes.is_empty(), "the operator wrote as somebody else");
        let refused: Vec<_> = writes.iter().filter(|write| write.code == 403).collect();
        assert!(refused.is_empty(), "{refused:?}");
        let now = refused_requests(&cluster.client()).await;
        assert_eq!(now, self.until_now, "a read was refused");
    }
}

/// How many requests the API server has refused since it runs, whoever asked. RBAC never denies; it has no opinion.
async fn refused_requests(client: &Client) -> u64 {
    let request = http::Request::get("/metrics").body(Vec::new()).expect("a request");
    let metrics = client.request_text(request).await.expect("the API server's metrics");
    let counters = metrics.lines().filter_map(|line| line.split_once(' '));
    counters
        .filter(|(name, _)| name.starts_with("authorization_attempts_total{") && !name.contains("allowed"))
        .map(|(_, count)| count.parse::<u64>().expect("a count"))
        .sum()
}

fn is_forbidden<T>(answer: &Result<T, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code == 403)
}

/// Makes the operator's account and rights as the chart does, and answers a client that is the operator.
async fn granted(cluster: &ApiCluster, values: &[&str], scopes: &[Option<&str>]) -> Client {
    apply_rights(cluster, values);
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client(), NAMESPACE);
    let answer = accounts
        .create_token_request(ACCOUNT, &PostParams::default(), &TokenRequest::default())
        .await
        .expect("a token for the account of the chart");
    let mut config = cluster.config();
    config.auth_info.token = Some(answer.status.expect("a token").token.into());
    let account = Client::try_from(config).expect("a client");

    // The API server watches its own rules, and takes a moment to go by them.
    let definitions: Api<CustomResourceDefinition> = Api::all(account.clone());
    let leases: Api<Lease> = Api::namespaced(account.clone(), NAMESPACE);
    eventually(DEADLINE, "the rights are in force", || async {
        definitions.get_opt(DEFINITION).await?;
        leases.get_opt(ACCOUNT).await?;
        for scope in scopes {
            servers(&account, *scope).list(&ListParams::default()).await?;
        }
        Ok::<_, kube::Error>(())
    })
    .await
    .expect("in force in time");
    account
}

/// Renders the chart's rights and applies them, as an installation would.
fn apply_rights(cluster: &ApiCluster, values: &[&str]) {
    let mut helm = Command::new(Tool::Helm.path().expect("helm"));
    helm.args(["template", "mcpscale"])
        .arg(repository().join("charts/mcpscale"))
        .args(["--namespace", NAMESPACE, "--kube-version", "1.35.0"])
        .args(["--show-only", "templates/rbac.yaml"])
        .args(values);
    let rights = cluster.folder().join("rights.yaml");
    fs::write(&rights, run(helm).stdout).expect("a file in the cluster's folder");
    let mut kubectl = Command::new(component("kubectl").expect("kubectl"));
    kubectl
        .env("KUBECONFIG", cluster.kubeconfig())
        .args(["apply", "--filename"])
        .arg(rights);
    run(kubectl);
}

fn run(mut command: Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The servers of a namespace, or of all.
fn servers(client: &Client, namespace: Option<&str>) -> Api<McpServer> {
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
