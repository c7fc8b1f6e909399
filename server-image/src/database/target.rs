//! Which database to use: from a URL, from the usual `PG…` variables, or the SQLite default.

use std::path::PathBuf;
use std::str::FromStr;

use tokio_postgres::config::SslMode;

/// Where the data is.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseTarget {
    /// A Postgres server.
    Postgres(Box<tokio_postgres::Config>),
    /// A SQLite file.
    Sqlite(PathBuf),
}

/// A database that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTarget {
    /// Neither of the two schemes.
    #[error("--database-url (MCP_DATABASE_URL) must start with sqlite: or postgres://")]
    Scheme,
    /// A SQLite URL without a file.
    #[error("--database-url sqlite: needs a path, such as sqlite:./mcp.db")]
    EmptyPath,
    /// Something that SQLite takes for no file. Each of the server's connections would have a database of its own.
    #[error("--database-url sqlite:{0} is not a file; it needs a path, such as sqlite:./mcp.db")]
    NoFile(String),
    /// A Postgres URL that does not parse. The URL is not repeated: it may hold a password.
    #[error("--database-url (MCP_DATABASE_URL) is not a valid Postgres URL: {0}")]
    Postgres(tokio_postgres::Error),
    /// `PGPORT` is no port.
    #[error("PGPORT must be a number from 1 to 65535, not {0:?}")]
    Port(String),
    /// Encryption is asked for, and this server has none towards its database.
    #[error(
        "sslmode=require (PGSSLMODE) is not supported: this server speaks to Postgres without TLS; use prefer or disable"
    )]
    Tls,
}

impl DatabaseTarget {
    /// `url` if there is one; else Postgres from `PGHOST` and its companions if `PGHOST` is set; else the SQLite file
    /// `default_file`. `variable` looks up an environment variable.
    ///
    /// # Errors
    /// [`InvalidTarget`] when what is set makes no sense.
    pub fn resolve(
        url: Option<&str>,
        default_file: PathBuf,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, InvalidTarget> {
        if let Some(url) = url {
            let target = url.parse()?;
            // What the URL itself says of it counts, as it does for every client of Postgres.
            let is_open = matches!(target, Self::Postgres(_)) && !url.contains("sslmode=");
            return if is_open && wants_tls(&variable) {
                Err(InvalidTarget::Tls)
            } else {
                Ok(target)
            };
        }
        match variable("PGHOST").filter(|host| !host.is_empty()) {
            Some(host) => from_variables(&host, variable),
            None => Ok(Self::Sqlite(default_file)),
        }
    }
}

/// Whether the environment asks for encryption, and for no connection without it.
fn wants_tls(variable: &impl Fn(&str) -> Option<String>) -> bool {
    variable("PGSSLMODE").is_some_and(|mode| !["", "disable", "allow", "prefer"].contains(&mode.as_str()))
}

fn from_variables(host: &str, variable: impl Fn(&str) -> Option<String>) -> Result<DatabaseTarget, InvalidTarget> {
    let mut config = tokio_postgres::Config::new();
    config.host(host);
    if let Some(port) = variable("PGPORT") {
        config.port(
            port.parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or(InvalidTarget::Port(port))?,
        );
    }
    if wants_tls(&variable) {
        return Err(InvalidTarget::Tls);
    }
    if let Some(user) = variable("PGUSER") {
        config.user(user);
    }
    if let Some(password) = variable("PGPASSWORD") {
        config.password(password);
    }
    if let Some(name) = variable("PGDATABASE") {
        config.dbname(name);
    }
    Ok(DatabaseTarget::Postgres(Box::new(config)))
}

impl FromStr for DatabaseTarget {
    type Err = InvalidTarget;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            return match path {
                "" => Err(InvalidTarget::EmptyPath),
                _ if path.starts_with(':') || path.starts_with("file:") => Err(InvalidTarget::NoFile(path.to_owned())),
                _ => Ok(Self::Sqlite(path.into())),
            };
        }
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(InvalidTarget::Scheme);
        }
        let config = tokio_postgres::Config::from_str(url).map_err(InvalidTarget::Postgres)?;
        if config.get_ssl_mode() == SslMode::Require {
            return Err(InvalidTarget::Tls);
        }
        Ok(Self::Postgres(Box::new(config)))
    }
}

/// Says where, never with which password.
impl std::fmt::Display for DatabaseTarget {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => write!(formatter, "SQLite file {}", path.display()),
            Self::Postgres(config) => write!(
                formatter,
                "Postgres database {} at {:?} port {:?}",
                config.get_dbname().or(config.get_user()).unwrap_or("(default)"),
                config.get_hosts(),
                config.get_ports(),
            ),
        }
    }
}

impl std::fmt::Debug for DatabaseTarget {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(url: Option<&str>, variables: &[(&str, &str)]) -> String {
        let lookup = |name: &str| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        DatabaseTarget::resolve(url, "./mcp.db".into(), lookup)
            .map_or_else(|error| error.to_string(), |target| target.to_string())
    }

    /// Data must go where the person or the operator said, and a mistake must be named, without showing a password.
    #[test]
    fn chooses_the_database_that_was_asked_for() {
        let cluster = [
            ("PGHOST", "db"),
            ("PGPORT", "6432"),
            ("PGUSER", "u"),
            ("PGPASSWORD", "secret"),
            ("PGDATABASE", "d"),
        ];
        for (name, url, variables, expected) in [
            ("nothing set", None, &[][..], "SQLite file ./mcp.db"),
            ("empty PGHOST", None, &[("PGHOST", "")][..], "SQLite file ./mcp.db"),
            ("a file", Some("sqlite:/data/x.db"), &[][..], "SQLite file /data/x.db"),
            (
                "variables",
                None,
                &cluster[..],
                "Postgres database d at [Tcp(\"db\")] port [6432]",
            ),
            (
                "URL wins",
                Some("postgres://u:secret@h:1/e"),
                &cluster[..],
                "Postgres database e at [Tcp(\"h\")] port [1]",
            ),
            (
                "bad port",
                None,
                &[("PGHOST", "db"), ("PGPORT", "x")][..],
                "PGPORT must be a number from 1 to 65535, not \"x\"",
            ),
            (
                "no path",
                Some("sqlite:"),
                &[][..],
                "--database-url sqlite: needs a path, such as sqlite:./mcp.db",
            ),
            (
                "memory",
                Some("sqlite::memory:"),
                &[][..],
                "--database-url sqlite::memory: is not a file; it needs a path, such as sqlite:./mcp.db",
            ),
            (
                "a URI",
                Some("sqlite:file:x?mode=memory"),
                &[][..],
                "--database-url sqlite:file:x?mode=memory is not a file; it needs a path, such as sqlite:./mcp.db",
            ),
            (
                "other",
                Some("mysql://h"),
                &[][..],
                "--database-url (MCP_DATABASE_URL) must start with sqlite: or postgres://",
            ),
        ] {
            assert_eq!(resolve(url, variables), expected, "{name}");
        }
        assert!(resolve(Some("postgres://u@h/d?sslmode=require"), &[]).contains("without TLS"));
        let strict = [("PGHOST", "db"), ("PGSSLMODE", "verify-full")];
        assert!(resolve(None, &strict).contains("without TLS"));
        assert!(resolve(Some("postgres://u@h/d"), &strict).contains("without TLS"));
        assert!(resolve(Some("postgres://u@h/d?sslmode=disable"), &strict).starts_with("Postgres database"));
        assert!(resolve(Some("sqlite:x.db"), &strict).starts_with("SQLite file"));
        assert!(resolve(None, &[("PGHOST", "db"), ("PGSSLMODE", "prefer")]).starts_with("Postgres database"));
        assert!(!resolve(Some("postgres://u:secret@h:notaport/d"), &[]).contains("secret"));
    }
}
