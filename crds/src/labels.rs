//! Labels, annotations and field managers: the strings by which objects of an `McpServer` are known.

/// Value of `app.kubernetes.io/name` on every object.
pub const NAME: &str = "mcpserver";
/// Value of `app.kubernetes.io/part-of` and `app.kubernetes.io/managed-by` on every object.
pub const MANAGER: &str = "mcpscale";

/// Label key: what the object is a part of the picture of.
pub const NAME_KEY: &str = "app.kubernetes.io/name";
/// Label key: the name of the `McpServer`.
pub const INSTANCE_KEY: &str = "app.kubernetes.io/instance";
/// Label key: the tier, one of `server`, `nginx`, `redis`, `postgres`.
pub const COMPONENT_KEY: &str = "app.kubernetes.io/component";
/// Label key: the larger whole.
pub const PART_OF_KEY: &str = "app.kubernetes.io/part-of";
/// Label key: who manages the object.
pub const MANAGED_BY_KEY: &str = "app.kubernetes.io/managed-by";

/// Label key on data-bearing objects: the UID of the `McpServer` whose data it is. Data carries no ownerReference, so
/// that deleting the `McpServer` does not delete it.
pub const OWNER_UID_KEY: &str = "mcpscale.dev/owner-uid";
/// Annotation key on the data volume claim: the major version of Postgres that wrote it.
pub const POSTGRES_MAJOR_KEY: &str = "mcpscale.dev/postgres-major";
/// Annotation key on the data volume claim: the data directory inside the volume.
pub const POSTGRES_PGDATA_KEY: &str = "mcpscale.dev/postgres-pgdata";

/// Field manager of everything the operator applies, but for replicas.
pub const FIELD_MANAGER: &str = "mcpscale";
/// Field manager of `spec.replicas`, apart so that an apply of the rest can never reset it.
pub const REPLICAS_FIELD_MANAGER: &str = "mcpscale-replicas";
