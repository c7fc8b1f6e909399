//! What agents may do.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One thing an agent may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Read sessions, messages it may see, and its memory.
    Read,
    /// Create sessions, add messages, set its memory.
    Write,
    /// See what is for administrators only, and the server's own figures.
    Admin,
    /// Kept for clients that ask for it; opens nothing beyond the others.
    Debug,
}

/// What an agent may do, in a fixed order.
pub type Permissions = BTreeSet<Permission>;

impl Permission {
    /// As callers write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
            Self::Debug => "debug",
        }
    }

    /// What agents of a type may have at most.
    #[must_use]
    pub fn of_type(agent_type: &str) -> Permissions {
        match agent_type {
            "admin" | "system" => [Self::Read, Self::Write, Self::Admin, Self::Debug].into(),
            "test" => [Self::Read, Self::Write, Self::Debug].into(),
            "generic" => [Self::Read].into(),
            _ => [Self::Read, Self::Write].into(),
        }
    }

    /// What a caller with these scopes may do: the permissions that they name, as `admin` or `mcp:admin`. A caller
    /// whose scopes name none may read and write: what it may call at all was decided before.
    #[must_use]
    pub fn of_scopes(scopes: &BTreeSet<String>) -> Permissions {
        let all = [Self::Read, Self::Write, Self::Admin, Self::Debug];
        let is_named = |permission: &Self| {
            scopes
                .iter()
                .any(|scope| scope.strip_prefix("mcp:").unwrap_or(scope) == permission.as_str())
        };
        let held: Permissions = all.into_iter().filter(is_named).collect();
        if held.is_empty() {
            [Self::Read, Self::Write].into()
        } else {
            held
        }
    }
}

/// Permissions for a sentence.
pub(super) fn list(permissions: &Permissions) -> String {
    let names: Vec<&str> = permissions.iter().map(|permission| permission.as_str()).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type that has more than it should opens the whole server to whoever claims it.
    #[test]
    fn types_have_what_the_documentation_says() {
        for (agent_type, expected) in [
            ("claude", "read, write"),
            ("gemini", "read, write"),
            ("admin", "read, write, admin, debug"),
            ("system", "read, write, admin, debug"),
            ("test", "read, write, debug"),
            ("generic", "read"),
            ("something else", "read, write"),
            ("Admin", "read, write"),
        ] {
            assert_eq!(list(&Permission::of_type(agent_type)), expected, "{agent_type}");
        }
    }

    /// A scope that only looks like a permission must not become one.
    #[test]
    fn scopes_name_permissions_exactly() {
        for (scopes, expected) in [
            (&[][..], "read, write"),
            (&["openid", "profile"], "read, write"),
            (&["read"], "read"),
            (&["mcp:admin", "read"], "read, admin"),
            (&["billing:admin", "administrator", "Admin"], "read, write"),
        ] {
            let held = scopes.iter().map(|scope| (*scope).to_owned()).collect();
            assert_eq!(list(&Permission::of_scopes(&held)), expected, "{scopes:?}");
        }
    }
}
