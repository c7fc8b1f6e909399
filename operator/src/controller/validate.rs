//! Step 2: from what was declared and observed to a model that the builders can trust. No client, no clock.
//!
//! Schema and CEL refuse most mistakes on apply. What is refused here is what they cannot see, and what they would have
//! refused had admission not been bypassed. An error becomes a condition that says what to do; nothing is half applied.

use std::collections::BTreeMap;

use kube::ResourceExt;
use mcpscale_crds::{
    ValueError, labels,
    v1alpha1::{
        Autoscaling, DataTierMode, KnobMode, LoadBalancer, MAX_NAME_LENGTH, McpServer, PodSettings, ServerSettings,
        Storage,
    },
};
use thiserror::Error;

use super::{
    dereference::{DataClaim, Observed},
    policy::policy,
};
use crate::resources::postgres;

/// Connections of Postgres that server pods never get: 3 for superusers, 5 for administrators and their tools, 2 for
/// what Postgres and the probes use themselves.
pub const RESERVED_CONNECTIONS: i32 = 10;
/// Share of the pods by which a rollout of the server exceeds them: `maxSurge` of its Deployment, in percent.
const SURGE_PERCENT: i32 = 25;

/// Defaults and facts of the installation that every server shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Images for servers that name none.
    pub images: Images,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Seconds between two scrapes of Prometheus.
    pub scrape_interval_seconds: u32,
}

/// One image a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the image of the tier of its name")]
pub struct Images {
    pub server: String,
    pub nginx: String,
    pub redis: String,
    pub postgres: String,
}

/// A server that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedServer {
    /// Name of the `McpServer`.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Images as they are to run.
    pub images: Images,
    /// Newer default images than those that run, as `tier: image`. They are not rolled out by themselves.
    pub updates: Vec<String>,
    /// Whether the server's image is the default one, which has metrics, readiness and tuning on ports of their own.
    pub implements_tuning_contract: bool,
    /// How the server's container runs.
    pub server: ServerSettings,
    /// The load balancer.
    pub load_balancer: LoadBalancer,
    /// Whether a Redis tier runs.
    pub redis: bool,
    /// The Postgres tier, if one runs.
    pub postgres: Option<EmbeddedPostgres>,
    /// Placement of pods.
    pub pod: PodSettings,
    /// Labels for everything.
    pub extra_labels: BTreeMap<String, String>,
    /// Annotations for everything.
    pub extra_annotations: BTreeMap<String, String>,
    /// Who sets the replicas.
    pub replicas: Replicas,
}

/// An embedded Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedPostgres {
    /// Its `max_connections`.
    pub max_connections: i32,
    /// Connections that each server pod may open: see [`connections_per_pod`].
    pub connections_per_pod: i32,
    /// Its volume.
    pub storage: Storage,
}

/// Who sets the number of server pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Replicas {
    /// The resource, and nobody computes another number.
    Fixed(i32),
    /// The resource; the scaler says what it would set.
    Recommended(i32),
    /// The scaler, within the bounds of its policy.
    Scaled {
        /// Least number.
        minimum: i32,
        /// Greatest number.
        maximum: i32,
    },
}

/// Why a server cannot be built. Each message says what to do.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the message of each variant says what it is")]
pub enum ValidateError {
    #[error("{field}: {source}")]
    Value { field: &'static str, source: ValueError },
    #[error(
        "metadata.name {name:?} cannot be used: it must be at most {MAX_NAME_LENGTH} lower case letters, digits and '-', \
         starting with a letter"
    )]
    Name { name: String },
    #[error(
        "autoscaling.minReplicas {minimum} exceeds autoscaling.maxReplicas {maximum}: lower the one or raise the other"
    )]
    Bounds { minimum: i32, maximum: i32 },
    #[error(
        "postgres.maxConnections {max_connections} is too small: {RESERVED_CONNECTIONS} are reserved, and the rest is shared by up to \
         {pods} pods ({replicas} replicas, {surge} surging in a rollout, {replicas} terminating), less than one connection for each; \
         set postgres.maxConnections to at least {needed}, or lower the greatest number of replicas to at most {affordable}"
    )]
    ConnectionBudget {
        max_connections: i32,
        replicas: i32,
        surge: i32,
        pods: i32,
        needed: i32,
        affordable: i32,
    },
    #[error(
        "the claim {claim} in this namespace holds data of another McpServer (UID {owner}); it is left untouched. To start with an empty \
         database, delete the PersistentVolumeClaim and the Secret {claim} yourself, or give this McpServer another name"
    )]
    OrphanedData { claim: String, owner: String },
    #[error(
        "the claim {claim} was written by Postgres {found} in {found_directory}, and this operator runs Postgres {} in {}; it is left \
         untouched. Run the operator version that wrote it, or dump and restore the data",
        postgres::MAJOR,
        postgres::PGDATA
    )]
    DataVersion {
        claim: String,
        found: String,
        found_directory: String,
    },
}

impl ValidateError {
    /// Stable word for conditions, Events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Value { .. } | Self::Name { .. } | Self::Bounds { .. } => "InvalidSpec",
            Self::ConnectionBudget { .. } => "ConnectionBudgetTooSmall",
            Self::OrphanedData { .. } => "OrphanedDataFound",
            Self::DataVersion { .. } => "DataVersionMismatch",
        }
    }
}

/// Validates a server against what was observed of it.
///
/// # Errors
/// When it cannot be built; the message says what to do.
pub fn validate(
    resource: &McpServer,
    observed: &Observed,
    installation: &Installation,
) -> Result<ValidatedServer, ValidateError> {
    let spec = &resource.spec;
    let name = resource.name_any();
    let uid = resource.uid().unwrap_or_default();
    validate_name(&name)?;
    validate_quantities(spec)?;
    policy(resource, installation)?;
    let replicas = replicas(spec.replicas, spec.autoscaling.as_ref())?;
    let postgres = match spec.postgres.mode {
        DataTierMode::Disabled => None,
        DataTierMode::Embedded => {
            validate_claim(observed.data_claim.as_ref(), &uid)?;
            Some(EmbeddedPostgres {
                max_connections: spec.postgres.max_connections,
                connections_per_pod: connections_per_pod(spec.postgres.max_connections, replicas.most())?,
                storage: spec.postgres.storage.clone(),
            })
        }
    };
    let (images, updates) = resolve_images(spec.image.as_deref(), observed, &installation.images);
    Ok(ValidatedServer {
        implements_tuning_contract: repository(&images.server) == repository(&installation.images.server),
        namespace: resource.namespace().unwrap_or_default(),
        cluster_domain: installation.cluster_domain.clone(),
        server: spec.server.clone(),
        load_balancer: spec.load_balancer.clone(),
        redis: spec.redis.mode == DataTierMode::Embedded,
        pod: spec.pod.clone(),
        extra_labels: spec.extra_labels.clone(),
        extra_annotations: spec.extra_annotations.clone(),
        name,
        uid,
        images,
        updates,
        postgres,
        replicas,
    })
}

impl Replicas {
    /// The greatest number of pods that there can be without a rollout.
    #[must_use]
    pub fn most(&self) -> i32 {
        match self {
            Self::Fixed(number) | Self::Recommended(number) => *number,
            Self::Scaled { maximum, .. } => *maximum,
        }
    }
}

/// The pod's share of connections: floor((max connections - reserve) / (replicas + surging + terminating)).
///
/// As many pods can be terminating as there can be replicas: in a rollout each new pod that is ready sends an old one
/// away, and that one keeps its connections until it has drained.
///
/// # Errors
/// When the share is below one.
pub fn connections_per_pod(max_connections: i32, replicas: i32) -> Result<i32, ValidateError> {
    let replicas = replicas.max(1);
    let surge = (replicas * SURGE_PERCENT + 99) / 100;
    let pods = replicas + surge + replicas;
    let budget = max_connections - RESERVED_CONNECTIONS;
    let share = budget / pods;
    if share >= 1 {
        return Ok(share);
    }
    let affordable = (1..replicas)
        .rev()
        .find(|n| 2 * n + (n * SURGE_PERCENT + 99) / 100 <= budget)
        .unwrap_or(0);
    Err(ValidateError::ConnectionBudget {
        max_connections,
        replicas,
        surge,
        pods,
        needed: pods + RESERVED_CONNECTIONS,
        affordable,
    })
}

fn validate_name(name: &str) -> Result<(), ValidateError> {
    let usable = name.len() <= MAX_NAME_LENGTH
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if usable {
        Ok(())
    } else {
        Err(ValidateError::Name { name: name.into() })
    }
}

fn validate_quantities(spec: &mcpscale_crds::v1alpha1::McpServerSpec) -> Result<(), ValidateError> {
    let check = |field: &'static str, quantity: &mcpscale_crds::Quantity| {
        quantity
            .value()
            .map(|_| ())
            .map_err(|source| ValidateError::Value { field, source })
    };
    check("postgres.storage.size", &spec.postgres.storage.size)?;
    spec.server
        .resources
        .requests
        .values()
        .try_for_each(|q| check("server.resources.requests", q))?;
    spec.server
        .resources
        .limits
        .values()
        .try_for_each(|q| check("server.resources.limits", q))
}

/// Who sets the replicas.
///
/// # Errors
/// When the bounds exclude each other.
pub(super) fn replicas(fixed: Option<i32>, autoscaling: Option<&Autoscaling>) -> Result<Replicas, ValidateError> {
    let Some(autoscaling) = autoscaling else {
        return Ok(Replicas::Fixed(fixed.unwrap_or(1)));
    };
    let (minimum, maximum) = (autoscaling.min_replicas, autoscaling.max_replicas);
    if minimum > maximum {
        return Err(ValidateError::Bounds { minimum, maximum });
    }
    Ok(match autoscaling.replicas.mode {
        KnobMode::Auto => Replicas::Scaled { minimum, maximum },
        KnobMode::Recommend => Replicas::Recommended(fixed.unwrap_or(minimum)),
        KnobMode::Off => Replicas::Fixed(fixed.unwrap_or(minimum)),
    })
}

/// A claim of another owner, or of another Postgres, is never touched.
fn validate_claim(claim: Option<&DataClaim>, uid: &str) -> Result<(), ValidateError> {
    let Some(claim) = claim else { return Ok(()) };
    if claim.owner_uid.as_deref() != Some(uid) {
        let owner = claim
            .owner_uid
            .clone()
            .unwrap_or_else(|| format!("none: it lacks the label {}", labels::OWNER_UID_KEY));
        return Err(ValidateError::OrphanedData {
            claim: claim.name.clone(),
            owner,
        });
    }
    if claim.postgres_major.as_deref() != Some(postgres::MAJOR) || claim.pgdata.as_deref() != Some(postgres::PGDATA) {
        return Err(ValidateError::DataVersion {
            claim: claim.name.clone(),
            found: claim.postgres_major.clone().unwrap_or_else(|| "unknown".into()),
            found_directory: claim.pgdata.clone().unwrap_or_else(|| "an unknown folder".into()),
        });
    }
    Ok(())
}

/// An image that is set is used. One that is not set stays as it runs, so that an upgrade of the operator rolls
/// nothing; a newer default is reported.
fn resolve_images(declared: Option<&str>, observed: &Observed, defaults: &Images) -> (Images, Vec<String>) {
    let mut updates = Vec::new();
    let mut resolve = |tier: &str, running: Option<&String>, default: &str| match running {
        Some(running) if running != default => {
            updates.push(format!("{tier}: {default}"));
            running.clone()
        }
        _ => default.to_owned(),
    };
    let running = &observed.images;
    let images = Images {
        server: match declared {
            Some(image) => image.to_owned(),
            None => resolve("server", running.server.as_ref(), &defaults.server),
        },
        nginx: resolve("nginx", running.nginx.as_ref(), &defaults.nginx),
        redis: resolve("redis", running.redis.as_ref(), &defaults.redis),
        postgres: resolve("postgres", running.postgres.as_ref(), &defaults.postgres),
    };
    (images, updates)
}

/// An image's name without tag and digest.
fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    match name.rfind(':') {
        Some(colon) if !name.get(colon..).unwrap_or_default().contains('/') => name.get(..colon).unwrap_or(name),
        _ => name,
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
