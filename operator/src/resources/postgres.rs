//! The embedded Postgres: one instance with a volume. Claim and Secret carry no ownerReference, so they outlive the
//! `McpServer`; the claim records which major version wrote it and where.

use mcpscale_crds::labels;
use serde_json::{Value, json};

use super::{
    Child, ChildKind, Component, child, component_name, container_security, content_hash, pod_metadata, pod_spec,
    redis::with, selector_labels,
};
use crate::controller::validate::{EmbeddedPostgres, ValidatedServer};

/// Port of the Postgres protocol.
pub const PORT: u16 = 5432;
/// Role and database of the server.
pub const ROLE: &str = "mcp";
/// Major version that this operator runs. A volume of another major is refused, never converted.
pub const MAJOR: &str = "18";
/// Data directory. A sub-folder of the mount, which may hold `lost+found`.
pub const PGDATA: &str = "/var/lib/postgresql/data/pgdata";

const USER: i64 = 999;
const MOUNT: &str = "/var/lib/postgresql/data";
const BINARIES: &str = "/usr/lib/postgresql/18/bin";
const PASSWORD_FILE: &str = "/run/secrets/postgres/password";

/// Makes the data directory once. It is built beside its place and renamed, so that a crash half way leaves nothing
/// that looks complete. The password goes by a file and standard input, never as an argument.
const INITIALISE: &str = r#"set -eu
if [ -s "$PGDATA/PG_VERSION" ]; then
  echo "the data directory exists, Postgres $(cat "$PGDATA/PG_VERSION")"
  exit 0
fi
if [ -e "$PGDATA" ] && [ -n "$(ls -A "$PGDATA")" ]; then
  echo "$PGDATA is not empty and has no PG_VERSION: it is left untouched, look at the volume" >&2
  exit 1
fi
new="$PGDATA.new"
rm -rf "$new"
"$BINARIES/initdb" --pgdata "$new" --username postgres --encoding UTF8 --locale C.UTF-8 --data-checksums \
  --auth-local peer --auth-host scram-sha-256
printf 'host all all all scram-sha-256\n' >> "$new/pg_hba.conf"
# Single-user mode takes one statement a line and ends well whatever they did, so its words decide. A statement is never
# logged: one of them holds the password.
said=$({
  printf "CREATE ROLE mcp LOGIN PASSWORD '%s'\n" "$(cat "$PASSWORD_FILE")"
  printf 'CREATE DATABASE mcp OWNER mcp\n'
} | "$BINARIES/postgres" --single -D "$new" -c log_min_error_statement=panic postgres 2>&1)
case "$said" in
  *ERROR:* | *FATAL:* | *PANIC:*)
    echo "the role and the database could not be made: $said" >&2
    exit 1
    ;;
esac
rmdir "$PGDATA" 2> /dev/null || true
mv "$new" "$PGDATA"
echo "the data directory was made"
"#;

/// Claim, Service and StatefulSet. The Secret is made apart, because it is written once and never read.
#[must_use]
pub fn build(server: &ValidatedServer, postgres: &EmbeddedPostgres) -> Vec<Child> {
    vec![
        claim(server, postgres),
        configuration(server, postgres),
        service(server),
        stateful_set(server, postgres),
    ]
}

/// The Secret with the credentials of the server's role. Written create-only: an existing one is never replaced.
#[must_use]
pub fn secret(server: &ValidatedServer, password: &str) -> Child {
    child(
        server,
        ChildKind::Secret,
        Component::Postgres,
        &component_name(&server.name, Component::Postgres),
        json!({
            "type": "Opaque",
            "stringData": {"username": ROLE, "password": password, "dbname": ROLE},
        }),
    )
}

fn claim(server: &ValidatedServer, postgres: &EmbeddedPostgres) -> Child {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": postgres.storage.size}},
    });
    if let Some(class) = &postgres.storage.storage_class_name {
        spec["storageClassName"] = json!(class);
    }
    child(
        server,
        ChildKind::PersistentVolumeClaim,
        Component::Postgres,
        &component_name(&server.name, Component::Postgres),
        json!({
            "metadata": {"annotations": {labels::POSTGRES_MAJOR_KEY: MAJOR, labels::POSTGRES_PGDATA_KEY: PGDATA}},
            "spec": spec,
        }),
    )
}

/// Settings of Postgres. Sized for the small install that the embedded tier is for.
fn settings(postgres: &EmbeddedPostgres) -> String {
    format!(
        "listen_addresses = '*'\n\
         port = {PORT}\n\
         unix_socket_directories = '/var/run/postgresql'\n\
         max_connections = {}\n\
         superuser_reserved_connections = 3\n\
         shared_buffers = 64MB\n\
         effective_cache_size = 192MB\n\
         max_wal_size = 256MB\n\
         password_encryption = scram-sha-256\n\
         log_destination = 'stderr'\n\
         logging_collector = off\n",
        postgres.max_connections
    )
}

fn configuration_name(server: &ValidatedServer, postgres: &EmbeddedPostgres) -> String {
    format!(
        "{}-{}",
        component_name(&server.name, Component::Postgres),
        content_hash(&settings(postgres))
    )
}

fn configuration(server: &ValidatedServer, postgres: &EmbeddedPostgres) -> Child {
    child(
        server,
        ChildKind::ConfigMap,
        Component::Postgres,
        &configuration_name(server, postgres),
        json!({"immutable": true, "data": {"postgresql.conf": settings(postgres)}}),
    )
}

fn service(server: &ValidatedServer) -> Child {
    child(
        server,
        ChildKind::Service,
        Component::Postgres,
        &component_name(&server.name, Component::Postgres),
        json!({"spec": {
            "selector": selector_labels(&server.name, Component::Postgres),
            "ports": [{"name": "postgres", "port": PORT, "targetPort": "postgres"}],
        }}),
    )
}

fn stateful_set(server: &ValidatedServer, postgres: &EmbeddedPostgres) -> Child {
    let name = component_name(&server.name, Component::Postgres);
    let mounts = json!([
        {"name": "data", "mountPath": MOUNT},
        {"name": "run", "mountPath": "/var/run/postgresql"},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "configuration", "mountPath": "/etc/mcpscale/postgres", "readOnly": true},
    ]);
    let mut initialise_mounts = mounts.clone();
    if let Some(list) = initialise_mounts.as_array_mut() {
        list.push(json!({"name": "password", "mountPath": "/run/secrets/postgres", "readOnly": true}));
    }
    let initialise = json!({
        "name": "initialise",
        "image": server.images.postgres,
        "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", INITIALISE],
        "env": [
            {"name": "PGDATA", "value": PGDATA},
            {"name": "BINARIES", "value": BINARIES},
            {"name": "PASSWORD_FILE", "value": PASSWORD_FILE},
        ],
        "resources": resources(),
        "securityContext": container_security(),
        "volumeMounts": initialise_mounts,
    });
    child(
        server,
        ChildKind::StatefulSet,
        Component::Postgres,
        &name,
        json!({"spec": {
            "replicas": 1,
            "serviceName": name,
            "selector": {"matchLabels": selector_labels(&server.name, Component::Postgres)},
            "template": {
                "metadata": pod_metadata(server, Component::Postgres),
                "spec": pod_spec(server, USER, json!({
                    "terminationGracePeriodSeconds": 60,
                    "initContainers": [initialise],
                    "containers": [container(server, &mounts)],
                    "volumes": [
                        {"name": "data", "persistentVolumeClaim": {"claimName": name}},
                        {"name": "run", "emptyDir": {}},
                        {"name": "tmp", "emptyDir": {}},
                        {"name": "configuration", "configMap": {"name": configuration_name(server, postgres)}},
                        {"name": "password", "secret": {"secretName": name, "items": [{"key": "password", "path": "password"}]}},
                    ],
                })),
            },
        }}),
    )
}

fn container(server: &ValidatedServer, mounts: &Value) -> Value {
    let ready = json!({"exec": {"command": [format!("{BINARIES}/pg_isready"), "-h", "127.0.0.1", "-p", PORT.to_string()]}, "timeoutSeconds": 5});
    json!({
        "name": "postgres",
        "image": server.images.postgres,
        "imagePullPolicy": "IfNotPresent",
        "command": [format!("{BINARIES}/postgres")],
        "args": ["-D", PGDATA, "-c", "config_file=/etc/mcpscale/postgres/postgresql.conf",
                 "-c", format!("hba_file={PGDATA}/pg_hba.conf"), "-c", format!("ident_file={PGDATA}/pg_ident.conf")],
        "env": [{"name": "PGDATA", "value": PGDATA}],
        "ports": [{"name": "postgres", "containerPort": PORT}],
        // A container is stopped by SIGTERM, which Postgres reads as «wait for all clients to leave».
        "lifecycle": {"preStop": {"exec": {"command": [format!("{BINARIES}/pg_ctl"), "stop", "-D", PGDATA, "-m", "fast", "-w", "-t", "55"]}}},
        "startupProbe": with(&ready, json!({"periodSeconds": 1, "failureThreshold": 600})),
        "readinessProbe": with(&ready, json!({"periodSeconds": 5, "failureThreshold": 3})),
        "livenessProbe": with(&ready, json!({"periodSeconds": 30, "failureThreshold": 6})),
        "resources": resources(),
        "securityContext": container_security(),
        "volumeMounts": mounts,
    })
}

fn resources() -> Value {
    json!({"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "768Mi"}})
}
