//! The load balancer in front of the server pods.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{annotation_keys, annotation_value};

/// The load balancer.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadBalancer {
    /// `Nginx`: nginx pods between the Service and the server pods. `None`: the Service leads straight to them.
    #[serde(default)]
    pub mode: LoadBalancerMode,
    /// Number of nginx pods.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 20))]
    pub replicas: i32,
    /// The Service that clients use.
    #[serde(default)]
    pub service: ServiceSettings,
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            mode: LoadBalancerMode::default(),
            replicas: two(),
            service: ServiceSettings::default(),
        }
    }
}

fn two() -> i32 {
    2
}

/// What stands between the Service and the server pods.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadBalancerMode {
    /// nginx.
    #[default]
    Nginx,
    /// Nothing.
    None,
}

/// The Service that clients use.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSettings {
    /// Type of the Service.
    #[serde(default, rename = "type")]
    pub kind: ServiceKind,
    /// Annotations of the Service, as cloud load balancers want them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend(
        "maxProperties" = 32,
        "additionalProperties" = annotation_value(),
        "x-kubernetes-validations" = [annotation_keys("loadBalancer.service.annotations")]
    ))]
    pub annotations: BTreeMap<String, String>,
}

/// Type of a Service.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceKind {
    /// Reachable inside the cluster.
    #[default]
    ClusterIP,
    /// Reachable on a port of every node.
    NodePort,
    /// Reachable by an address of the cloud.
    LoadBalancer,
}

impl ServiceKind {
    /// The word that Kubernetes uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}
