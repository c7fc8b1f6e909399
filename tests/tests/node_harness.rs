//! Tests of the harness itself, the part with real pods: what the end-to-end tests build on.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kube::{
    Api,
    api::{DeleteParams, LogParams, PostParams},
};
use mcpscale_tests::{Cluster, TestResult, eventually, images, run_in_cluster};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How long a pod whose image is on the node may take to run, with room for a busy machine.
const POD_PATIENCE: Duration = Duration::from_mins(2);

/// Any error: it fails the test.
type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn typed<T: DeserializeOwned>(object: Value) -> Result<T, serde_json::Error> {
    serde_json::from_value(object)
}

/// A pod that Pod Security `restricted` admits, with a folder `/scratch` to write to.
fn restricted_pod(name: &str, image: &str, user: u32, command: &[&str]) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": user,
                "runAsGroup": user,
                "fsGroup": user,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "main",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": command,
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
            }],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    })
}

/// Runs the pod to its end and returns what it printed, and how its container ended.
async fn run_pod(cluster: &Cluster, namespace: &str, pod: Value) -> Result<(String, String), AnyError> {
    let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    let created = pods.create(&PostParams::default(), &typed(pod)?).await?;
    let name = created.metadata.name.unwrap_or_default();
    let what = format!("pod {name} to end");
    let ended = eventually(POD_PATIENCE, &what, async || {
        let status = pods
            .get(&name)
            .await
            .map_err(|error| error.to_string())?
            .status
            .unwrap_or_default();
        let containers = status.container_statuses.clone().unwrap_or_default();
        let state = containers
            .into_iter()
            .next()
            .and_then(|container| container.state?.terminated);
        state.ok_or_else(|| format!("{:?} {:?}", status.phase, status.container_statuses))
    });
    let reason = ended.await?.reason.unwrap_or_default();
    Ok((pods.logs(&name, &LogParams::default()).await?, reason))
}

/// Lost otherwise: a test that is red for an image that cannot run under the rules all pods of mcpscale keep to.
#[test]
fn node_a_pod_of_each_image_runs_under_restricted() -> TestResult {
    run_in_cluster(async |cluster: Cluster| {
        let namespace = cluster.namespace("images").await?;
        let postgres = "export PATH=/usr/lib/postgresql/18/bin:$PATH; initdb -D /scratch/data -U mcp >/dev/null && \
                        echo 'create table kept (x int); insert into kept values (42); select x from kept;' | \
                        postgres --single -D /scratch/data postgres";
        let images: [(&str, &str, u32, &[&str], &str); 7] = [
            (
                "nginx",
                "nginx:1.30",
                101,
                &["sh", "-c", "id -un; /usr/sbin/nginx -v 2>&1"],
                "nginx version: nginx/1.3",
            ),
            (
                "valkey",
                "valkey/valkey:9",
                999,
                &["/usr/local/bin/valkey-server", "--version"],
                "v=9.",
            ),
            ("postgres", "postgres:18", 999, &["sh", "-c", postgres], "42"),
            (
                "prometheus",
                "prom/prometheus:v3.5.0",
                65534,
                &["/bin/prometheus", "--version"],
                "version 3.",
            ),
            (
                "debian",
                "debian:bookworm-slim",
                65532,
                &["cat", "/etc/debian_version"],
                "12.",
            ),
            (
                "operator",
                "mcpscale/operator:0.1.0",
                65532,
                &["/usr/local/bin/mcpscale", "--help"],
                "",
            ),
            (
                "server",
                "mcpscale/mcp-server:0.1.0",
                65532,
                &["/usr/local/bin/mcp-server", "--help"],
                "",
            ),
        ];
        let runs = images.map(|(name, image, user, command, expected)| {
            let (cluster, namespace) = (&cluster, &namespace);
            async move {
                let pod = restricted_pod(name, image, user, command);
                let (printed, reason) = run_pod(cluster, namespace, pod).await.expect(name);
                assert_eq!(reason, "Completed", "{name}: {printed}");
                assert!(printed.contains(expected), "{name} printed {printed}");
            }
        });
        futures::future::join_all(runs).await;
        Ok(())
    })
}

/// Lost otherwise: a node that pulls an image of a system nobody uses, and an administrator who has to patch it.
#[test]
fn node_the_images_of_the_project_are_small() -> TestResult {
    for bundle in images::all()? {
        let limit = match bundle.name {
            "mcp-server" | "operator" => 60_000_000,
            _ => continue,
        };
        let size = std::fs::metadata(&bundle.archive)?.len();
        println!("{}: {size} bytes", bundle.name);
        assert!(
            size < limit,
            "the image {} has {size} bytes, the limit is {limit}",
            bundle.name
        );
    }
    Ok(())
}

/// Lost otherwise: manifests that a user's cluster refuses would pass here.
#[test]
fn node_a_pod_with_more_rights_is_refused() -> TestResult {
    run_in_cluster(async |cluster: Cluster| {
        let namespace = cluster.namespace("refused").await?;
        let mut pod = restricted_pod("root", "debian:bookworm-slim", 0, &["id"]);
        pod["spec"]["securityContext"]["runAsNonRoot"] = json!(false);
        let refused = run_pod(&cluster, &namespace, pod).await.expect_err("it is refused");
        assert!(
            refused.to_string().contains("violates PodSecurity \"restricted"),
            "{refused}"
        );
        Ok(())
    })
}

/// Lost otherwise: name resolution, Services between pods, a pod's way to itself through its Service, or the test's own
/// way to a Service would fail here and work for users.
#[test]
fn node_a_service_is_found_by_name_and_reached_by_pods_and_by_the_test() -> TestResult {
    run_in_cluster(async |cluster: Cluster| {
        let namespace = cluster.namespace("service").await?;
        let pods: Api<Pod> = Api::namespaced(cluster.client(), &namespace);
        let services: Api<Service> = Api::namespaced(cluster.client(), &namespace);
        let serve = "printf 'daemon off; pid /scratch/pid; error_log stderr; events {} http { access_log off; \
                     client_body_temp_path /scratch/1; proxy_temp_path /scratch/2; fastcgi_temp_path /scratch/3; \
                     uwsgi_temp_path /scratch/4; scgi_temp_path /scratch/5; \
                     server { listen 8080; return 200 served; } }' >/scratch/nginx.conf; \
                     exec /usr/sbin/nginx -c /scratch/nginx.conf -e stderr";
        let mut server = restricted_pod("web", "nginx:1.30", 101, &["sh", "-c", serve]);
        server["spec"]["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 8080}});
        pods.create(&PostParams::default(), &typed(server)?).await?;
        let service = json!({
            "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        services.create(&PostParams::default(), &typed(service)?).await?;

        let endpoint = cluster.endpoint(&namespace, "web", 80).await?;
        let answer = eventually(POD_PATIENCE, "the Service to answer", async || {
            let response = reqwest::get(endpoint.url())
                .await
                .map_err(|error| format!("{error:?}"))?;
            response.text().await.map_err(|error| error.to_string())
        });
        assert_eq!(answer.await?, "served");

        let host = format!("web.{namespace}.svc.cluster.local");
        let ask = format!("exec 3<>/dev/tcp/{host}/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
        let client = restricted_pod("client", "debian:bookworm-slim", 65532, &["bash", "-c", &ask]);
        let (printed, _) = run_pod(&cluster, &namespace, client).await?;
        assert!(printed.contains("served"), "the client printed {printed}");

        let from_itself = cluster
            .kubectl(&["exec", "--namespace", &namespace, "web", "--", "bash", "-c", &ask])
            .await?;
        assert!(from_itself.contains("served"), "the server itself got {from_itself}");
        Ok(())
    })
}

/// Lost otherwise: Postgres could not write to its volume, or a second run would find no volume, or old data in it.
#[test]
fn node_a_volume_belongs_to_the_group_of_the_pod_and_comes_back_empty() -> TestResult {
    run_in_cluster(async |cluster: Cluster| {
        let write = "test -z \"$(ls /data)\" && echo kept >/data/file && stat -c %g /data/file && cat /data/file";
        // More rounds than there are volumes would take minutes; that a used one is offered again shows in the second.
        for round in ["first", "second"] {
            let namespace = cluster.namespace("volume").await?;
            let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.client(), &namespace);
            let claim = json!({
                "metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            });
            claims.create(&PostParams::default(), &typed(claim)?).await?;
            let mut pod = restricted_pod("writer", "postgres:18", 999, &["sh", "-c", write]);
            pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
            pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
            let (printed, reason) = run_pod(&cluster, &namespace, pod).await?;
            assert_eq!(
                (printed.as_str(), reason.as_str()),
                ("999\nkept\n", "Completed"),
                "{round} round"
            );

            let pods: Api<Pod> = Api::namespaced(cluster.client(), &namespace);
            pods.delete("writer", &DeleteParams::default()).await?;
            claims.delete("data", &DeleteParams::default()).await?;
            eventually(POD_PATIENCE, "the claim to go", async || {
                match claims.get_opt("data").await {
                    Ok(None) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await?;
        }
        Ok(())
    })
}

/// Lost otherwise: measurements under load, and a memory limit that a leak should meet, would mean nothing.
#[test]
fn node_limits_are_enforced() -> TestResult {
    run_in_cluster(async |cluster: Cluster| {
        let namespace = cluster.namespace("limits").await?;
        let limited = |name: &str, command: &str| {
            let mut pod = restricted_pod(name, "debian:bookworm-slim", 65532, &["bash", "-c", command]);
            pod["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "200m", "memory": "64Mi"}});
            pod
        };
        let (_, reason) = run_pod(&cluster, &namespace, limited("greedy", "tail /dev/zero")).await?;
        assert_eq!(reason, "OOMKilled");

        // 2 s of work at a fifth of a core take 10 s; without the limit 2 s, or 4 on a machine that is busy.
        let work = "while times >/scratch/t; read -r used _ </scratch/t; [ \"${used%.*}\" = 0m0 ] || \
                    [ \"${used%.*}\" = 0m1 ]; do :; done; echo $SECONDS";
        let (printed, _) = run_pod(&cluster, &namespace, limited("busy", work)).await?;
        let seconds: u32 = printed.trim().parse()?;
        assert!(seconds >= 7, "2 s of work took {seconds} s");
        Ok(())
    })
}

/// Lost otherwise: the test that a quiet operator writes nothing could not fail.
#[test]
fn node_writes_of_a_user_are_counted() -> TestResult {
    run_in_cluster(async |cluster: Cluster| {
        if !cluster.is_node() {
            eprintln!("not tried: only the node of this machine has an audit log to read");
            return Ok(());
        }
        let namespace = cluster.namespace("audit").await?;
        let before = Timestamp::now();
        cluster
            .kubectl(&["create", "configmap", "counted", "--namespace", &namespace])
            .await?;
        cluster
            .kubectl(&["get", "configmap", "counted", "--namespace", &namespace])
            .await?;
        let writes = cluster.audit_writes("admin", before)?;
        let ours: Vec<_> = writes.iter().filter(|write| write.namespace == namespace).collect();
        assert_eq!(ours.len(), 1, "{ours:?}");
        assert_eq!((ours[0].verb.as_str(), ours[0].name.as_str()), ("create", "counted"));
        Ok(())
    })
}
