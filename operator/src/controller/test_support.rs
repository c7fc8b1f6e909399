//! What unit tests of the pure steps share: servers from YAML, through the real validation.

use mcpscale_crds::v1alpha1::McpServer;

use super::{
    dereference::Observed,
    validate::{Images, Installation, ValidatedServer, validate},
};

/// The installation of the tests.
pub fn installation() -> Installation {
    Installation {
        images: Images {
            server: "mcpscale/mcp-server:0.1.0".into(),
            nginx: "nginx:1.30".into(),
            redis: "valkey/valkey:9".into(),
            postgres: "postgres:18".into(),
        },
        cluster_domain: "cluster.local".into(),
        scrape_interval_seconds: 5,
    }
}

/// A server with the given fields of its spec.
pub fn server(spec: &str) -> McpServer {
    let mut server: McpServer = serde_saphyr::from_str(&format!(
        "{{apiVersion: mcpscale.dev/v1alpha1, kind: McpServer, metadata: {{name: context, namespace: agents, uid: u-1, generation: 3}}, spec: {spec}}}"
    ))
    .unwrap();
    server.status = None;
    server
}

/// The same, validated.
pub fn validated(spec: &str) -> ValidatedServer {
    validate(&server(spec), &Observed::default(), &installation()).unwrap()
}
