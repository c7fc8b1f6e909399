//! Cluster harness of mcpscale: real Kubernetes for tests, on one machine, from sources that are pinned.
//!
//! | mode | what runs | needs | type |
//! |---|---|---|---|
//! | API | etcd, kube-apiserver | Go | [`ApiCluster`] |
//! | node | a node with real pods, Services, volumes and DNS, in a network namespace | Go, root, some Debian packages | [`run_in_cluster`] |
//! | current | the cluster that the user's kubeconfig names | a cluster with the images | [`run_in_cluster`], `CLUSTER=current` |
//!
//! **No mode enforces `NetworkPolicy`.** A test here can show that a policy is accepted and says what it should;
//! whether traffic is kept out it cannot show.

mod access;
pub mod api;
mod audit;
mod cluster;
mod collect;
mod command;
mod control_plane;
mod endpoint;
mod error;
pub mod files;
pub mod images;
pub mod installation;
pub mod node;
mod pki;
pub mod process;
pub mod tools;
mod wait;

pub use api::ApiCluster;
pub use audit::AuditEvent;
pub use cluster::{Cluster, TestResult, run_in_cluster};
pub use endpoint::Endpoint;
pub use error::HarnessError;
pub use wait::eventually;
