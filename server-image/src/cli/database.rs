//! Which database: all that `migrate` needs to know, and the first of what `serve` needs.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::database::{DatabaseTarget, InvalidTarget, Pooler};

#[derive(Debug, Args)]
#[command(next_help_heading = "Data")]
#[group(skip)]
pub(super) struct Flags {
    /// sqlite:PATH or postgres://… [default: Postgres from PGHOST, PGPORT, PGUSER, PGPASSWORD and PGDATABASE if
    /// PGHOST is set, else sqlite:./mcp.db; with stdio mcpscale/mcp.db in the user's data folder, ~/.local/share].
    #[arg(long, env = "MCP_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Option<String>,
    /// What stands between the server and Postgres; transaction: a pooler in transaction mode.
    #[arg(long, env = "MCP_DATABASE_POOLER", default_value = "none")]
    pub(super) database_pooler: Pooler,
}

/// The SQLite file where nothing says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DefaultFile {
    /// In the working folder, where whoever types the command finds it.
    Here,
    /// In the user's data folder: desktop applications start their programs anywhere, also where nothing can be written.
    OfUser,
}

impl DefaultFile {
    fn path(self, variable: impl Fn(&str) -> Option<String>) -> PathBuf {
        let folder = |name| {
            variable(name)
                .filter(|folder| Path::new(folder).is_absolute())
                .map(PathBuf::from)
        };
        let data = || folder("XDG_DATA_HOME").or_else(|| Some(folder("HOME")?.join(".local/share")));
        match self {
            Self::OfUser => data().map(|data| data.join("mcpscale/mcp.db")),
            Self::Here => None,
        }
        .unwrap_or_else(|| "./mcp.db".into())
    }
}

impl Flags {
    pub(super) fn target(
        &self,
        default: DefaultFile,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<DatabaseTarget, InvalidTarget> {
        DatabaseTarget::resolve(self.database_url.as_deref(), default.path(&variable), variable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A desktop application that starts the server in a folder of its own would find its data nowhere next time.
    #[test]
    fn without_a_setting_the_data_has_its_place() {
        for (name, default, variables, expected) in [
            ("serve", DefaultFile::Here, &[("HOME", "/home/ann")][..], "./mcp.db"),
            (
                "stdio",
                DefaultFile::OfUser,
                &[("HOME", "/home/ann")],
                "/home/ann/.local/share/mcpscale/mcp.db",
            ),
            (
                "stdio, with a data folder",
                DefaultFile::OfUser,
                &[("HOME", "/home/ann"), ("XDG_DATA_HOME", "/data")],
                "/data/mcpscale/mcp.db",
            ),
            (
                "stdio, with a data folder that is none",
                DefaultFile::OfUser,
                &[("HOME", "/home/ann"), ("XDG_DATA_HOME", "")],
                "/home/ann/.local/share/mcpscale/mcp.db",
            ),
            ("stdio, without a home", DefaultFile::OfUser, &[], "./mcp.db"),
        ] {
            let lookup = |wanted: &str| {
                let found = variables.iter().find(|(name, _)| *name == wanted);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(default.path(lookup), Path::new(expected), "{name}");
        }
    }
}
