//! Step 3: from a validated server and the scaler's decision to every child object, complete. No client, no clock.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};

use super::{
    dereference::Observed,
    validate::{Replicas, ValidatedServer},
};
use crate::resources::{self, Child, Component, nginx, postgres, redis, server};

/// Everything that should exist.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The children, in the order in which they are applied.
    pub children: Vec<Child>,
    /// Whether a Secret with a new password is needed if there is none. It is not a child: it is written once, never
    /// read, and never compared.
    pub needs_secret: bool,
    /// Number of server pods. Not in the Deployment among the children: it has a field manager of its own.
    pub replicas: i32,
    /// Whether content-named ConfigMaps that are no longer wanted must stay for now: pods of the old generation that
    /// start again in a rollout still mount them.
    pub keep_old_configuration: bool,
}

/// Plans a server. `desired` is the scaler's last decision, if it made one.
#[must_use]
pub fn plan(validated: &ValidatedServer, observed: &Observed, desired: Option<i32>) -> Plan {
    let replicas = replicas(validated, observed, desired);
    let mut children = vec![resources::service_account(validated)];
    if let Some(embedded) = &validated.postgres {
        children.extend(postgres::build(validated, embedded));
    }
    if validated.redis {
        children.extend(redis::build(validated));
    }
    children.extend(server::build(validated));
    children.extend(nginx::build(validated));
    children.push(nginx::client_service(validated));
    if replicas >= 2 {
        children.push(resources::disruption_budget(validated, Component::Server));
    }
    // The kinds are declared in the order in which pods need them: accounts, data and configuration come before workloads.
    children.sort_by_key(|child| child.kind);
    Plan { children, needs_secret: validated.postgres.is_some(), replicas, keep_old_configuration: rolling(observed) }
}

/// Without a decision (a new operator, no metrics) a running server keeps what it has and a new one starts small.
fn replicas(validated: &ValidatedServer, observed: &Observed, desired: Option<i32>) -> i32 {
    match validated.replicas {
        Replicas::Fixed(number) | Replicas::Recommended(number) => number,
        Replicas::Scaled { minimum, maximum } => {
            let current = observed.server.as_ref().and_then(|d| d.spec.as_ref()).and_then(|spec| spec.replicas);
            desired.or(current).unwrap_or(minimum).clamp(minimum, maximum)
        }
    }
}

fn rolling(observed: &Observed) -> bool {
    let deployments = [&observed.server, &observed.nginx, &observed.redis];
    deployments.into_iter().flatten().any(|deployment| !rolled_out(deployment))
        || observed.postgres.as_ref().is_some_and(|set| !stateful_set_rolled_out(set))
}

/// Whether every pod of a Deployment is of its newest template, and no older one is left.
#[must_use]
pub fn rolled_out(deployment: &Deployment) -> bool {
    deployment.status.as_ref().is_some_and(|status| {
        status.observed_generation >= deployment.metadata.generation
            && status.updated_replicas.unwrap_or(0) == status.replicas.unwrap_or(0)
    })
}

fn stateful_set_rolled_out(set: &StatefulSet) -> bool {
    set.status.as_ref().is_some_and(|status| {
        status.observed_generation >= set.metadata.generation && status.update_revision == status.current_revision
    })
}
