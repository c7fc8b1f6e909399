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
    // The kinds are declared in the order in which pods need them: accounts, data and configuration come before
    // workloads.
    children.sort_by_key(|child| child.kind);
    Plan {
        children,
        needs_secret: validated.postgres.is_some(),
        replicas,
        keep_old_configuration: rolling(observed),
    }
}

/// Without a decision (a new operator, no metrics) a running server keeps what it has and a new one starts small.
fn replicas(validated: &ValidatedServer, observed: &Observed, desired: Option<i32>) -> i32 {
    match validated.replicas {
        Replicas::Fixed(number) | Replicas::Recommended(number) => number,
        Replicas::Scaled { minimum, maximum } => desired
            .or(observed.replicas())
            .unwrap_or(minimum)
            .clamp(minimum, maximum),
    }
}

/// Whether pods of any part are on their way from one template to the next.
#[must_use]
pub fn rolling(observed: &Observed) -> bool {
    let deployments = [&observed.server, &observed.nginx, &observed.redis];
    deployments
        .into_iter()
        .flatten()
        .any(|deployment| !rolled_out(deployment))
        || observed
            .postgres
            .as_ref()
            .is_some_and(|set| !stateful_set_rolled_out(set))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::{controller::test_support::validated, resources::ChildKind};

    fn deployment(replicas: i32) -> Arc<Deployment> {
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"generation": 1}, "spec": {"replicas": replicas, "selector": {}, "template": {}}}),
            )
            .unwrap(),
        )
    }

    /// What a user loses without it: an upgrade of the operator that changes a pod template by one byte rolls every
    /// pod. When this fails, the change rolls all servers of all users: be sure that it must, and say so in the
    /// changelog.
    #[test]
    fn the_objects_are_pinned_byte_for_byte() {
        let cases = [
            ("default", "{}"),
            (
                "everything_set",
                "{image: 'example/server:1', autoscaling: {minReplicas: 2, maxReplicas: 5}, \
                 server: {args: [serve], env: [{name: A, value: b}, {name: S, valueFrom: {secretKeyRef: {name: s, key: k}}}], \
                 envFrom: [{prefix: P_, configMapRef: {name: m}}], sessions: Local, protocolMode: Legacy}, \
                 loadBalancer: {replicas: 1, service: {type: LoadBalancer, annotations: {cloud: yes-please}}}, \
                 postgres: {storage: {size: 5Gi, storageClassName: fast}}, \
                 pod: {nodeSelector: {disk: ssd}, tolerations: [{key: t, operator: Exists}], imagePullSecrets: [{name: pull}], priorityClassName: high}, \
                 extraLabels: {team: a}, extraAnnotations: {note: b}}",
            ),
            (
                "nothing_but_the_server",
                "{loadBalancer: {mode: None}, redis: {mode: Disabled}, postgres: {mode: Disabled}}",
            ),
        ];
        for (name, spec) in cases {
            let plan = plan(&validated(spec), &Observed::default(), None);
            let bodies: Vec<_> = plan.children.iter().map(|child| &child.body).collect();
            insta::assert_json_snapshot!(name, bodies);
        }
    }

    /// What a user loses without it: a restarted operator, or one without metrics, throws pods away.
    #[test]
    fn without_a_decision_nothing_is_scaled() {
        let scaled = validated("{autoscaling: {minReplicas: 2, maxReplicas: 6}}");
        let running = |replicas| Observed {
            server: Some(deployment(replicas)),
            ..Observed::default()
        };
        let cases = [
            ("a new server starts small", Observed::default(), None, 2),
            ("a running one keeps what it has", running(5), None, 5),
            ("a decision is followed", running(5), Some(3), 3),
            ("but not below the bounds", running(5), Some(1), 2),
            ("nor above them", running(9), None, 6),
        ];
        for (name, observed, desired, expected) in cases {
            assert_eq!(plan(&scaled, &observed, desired).replicas, expected, "{name}");
        }
        for (name, spec) in [
            ("fixed", "{replicas: 3}"),
            (
                "only recommended",
                "{replicas: 3, autoscaling: {maxReplicas: 9, replicas: {mode: Recommend}}}",
            ),
            (
                "off",
                "{replicas: 3, autoscaling: {maxReplicas: 9, replicas: {mode: Off}}}",
            ),
        ] {
            for desired in [None, Some(7)] {
                assert_eq!(
                    plan(&validated(spec), &running(1), desired).replicas,
                    3,
                    "{name}: {desired:?}"
                );
            }
        }
    }

    /// What a user loses without it: the operator resets replicas to 1 with an apply that leaves them out.
    #[test]
    fn the_deployment_never_carries_replicas() {
        let plan = plan(&validated("{replicas: 3}"), &Observed::default(), None);
        let server = plan
            .children
            .iter()
            .find(|c| c.kind == ChildKind::Deployment && c.name == "context-server")
            .unwrap();
        assert!(server.body["spec"].get("replicas").is_none());
    }

    /// What a user loses without it: pods that a namespace with Pod Security `restricted` does not let in.
    #[test]
    fn every_container_is_restricted() {
        let plan = plan(&validated("{}"), &Observed::default(), None);
        let mut containers = 0;
        for child in plan
            .children
            .iter()
            .filter(|c| matches!(c.kind, ChildKind::Deployment | ChildKind::StatefulSet))
        {
            let pod = &child.body["spec"]["template"]["spec"];
            assert_eq!(pod["automountServiceAccountToken"], false, "{}", child.name);
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{}", child.name);
            assert_eq!(
                pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
                "{}",
                child.name
            );
            for list in ["initContainers", "containers"] {
                for container in pod[list].as_array().into_iter().flatten() {
                    containers += 1;
                    let expected = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
                    assert_eq!(
                        container["securityContext"], expected,
                        "{} {}",
                        child.name, container["name"]
                    );
                    assert!(
                        container["resources"]["limits"]["memory"].is_string(),
                        "{} {}",
                        child.name,
                        container["name"]
                    );
                }
            }
        }
        assert_eq!(
            containers, 6,
            "server, nginx and its preparation, Valkey, Postgres and its preparation"
        );
    }

    #[test]
    fn old_configuration_stays_while_pods_of_the_old_generation_may_start() {
        let observed = Observed {
            nginx: Some(deployment(2)),
            ..Observed::default()
        };
        assert!(
            plan(&validated("{}"), &observed, None).keep_old_configuration,
            "no status yet"
        );
        assert!(!plan(&validated("{}"), &Observed::default(), None).keep_old_configuration);
    }
}
