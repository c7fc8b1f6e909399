//! Whether the servers that Debian has today are those that the tests need: a stand-in of another version, or without
//! a feature, would show a test's user something that is not so.

use std::{fs, path::Path, process::Command};

use crate::{HarnessError, command::run};

/// The version that a server must have, from inclusive to exclusive, as (major, minor, patch).
struct Expected {
    image: &'static str,
    command: &'static [&'static str],
    from: (u32, u32, u32),
    below: (u32, u32, u32),
}

const EXPECTED: [Expected; 4] = [
    Expected {
        image: "nginx:1.30",
        command: &["/usr/sbin/nginx", "-v"],
        from: (1, 30, 4),
        below: (1, 32, 0),
    },
    Expected {
        image: "valkey/valkey:9",
        command: &["/usr/bin/valkey-server", "--version"],
        from: (9, 0, 0),
        below: (10, 0, 0),
    },
    Expected {
        image: "postgres:18",
        command: &["/usr/lib/postgresql/18/bin/postgres", "--version"],
        from: (18, 0, 0),
        below: (19, 0, 0),
    },
    Expected {
        image: "prom/prometheus:v3.5.0",
        command: &["/bin/prometheus", "--version"],
        from: (3, 0, 0),
        below: (4, 0, 0),
    },
];

/// A configuration with the features of nginx that mcpscale uses and that older or smaller builds do not have.
const NGINX_FEATURES: &str = "
events {}
http {
    resolver 127.0.0.1;
    upstream servers {
        zone servers 64k;
        server server.example.svc.cluster.local:8080 resolve;
        sticky learn create=$upstream_http_mcp_session_id lookup=$http_mcp_session_id zone=sessions:1m;
    }
    server {
        listen 127.0.0.1:8080;
        location / { proxy_pass http://servers; }
    }
}
";

/// Checks the servers in the system at `root`.
pub(super) fn check_servers(root: &Path) -> Result<(), HarnessError> {
    for expected in &EXPECTED {
        check_version(root, expected)?;
    }
    check_nginx(root)
}

fn check_version(root: &Path, expected: &Expected) -> Result<(), HarnessError> {
    let problem = |problem: String| HarnessError::Image {
        image: expected.image.to_owned(),
        problem,
    };
    // nginx says its version on standard error.
    let shell = format!("{} 2>&1", expected.command.join(" "));
    let printed = run(Command::new("chroot").arg(root).args(["/bin/sh", "-c", &shell]))?;
    let version = first_version(&printed).ok_or_else(|| {
        problem(format!(
            "`{}` prints no version: {}",
            expected.command.join(" "),
            printed.trim()
        ))
    })?;
    if version < expected.from || version >= expected.below {
        let show = |(major, minor, patch): (u32, u32, u32)| format!("{major}.{minor}.{patch}");
        return Err(problem(format!(
            "Debian has version {} now, the tests need {} or newer and below {}: see tests/src/images/check.rs",
            show(version),
            show(expected.from),
            show(expected.below)
        )));
    }
    Ok(())
}

fn check_nginx(root: &Path) -> Result<(), HarnessError> {
    let path = root.join("tmp/features.conf");
    fs::write(&path, NGINX_FEATURES).map_err(HarnessError::io("write", &path))?;
    let test = [
        "/usr/sbin/nginx",
        "-t",
        "-q",
        "-c",
        "/tmp/features.conf",
        "-e",
        "stderr",
    ];
    run(Command::new("chroot").arg(root).args(test))
        .map(drop)
        .map_err(|error| HarnessError::Image {
            image: "nginx:1.30".into(),
            problem: format!("Debian's nginx lacks a feature: {error}"),
        })
}

/// The first version number in a text: `18.6`, or `1.30.6`; a part that is not there counts as 0.
fn first_version(text: &str) -> Option<(u32, u32, u32)> {
    let words = text.split(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let version = words
        .map(|word| word.trim_matches('.'))
        .find(|word| word.contains('.'))?;
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    Some((parts.next()?, parts.next()?, parts.next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::first_version;

    /// Lost otherwise: a stand-in of a wrong version would pass for the right one.
    #[test]
    fn the_version_is_read_from_what_each_server_prints() {
        let cases = [
            ("nginx", "nginx version: nginx/1.30.6", Some((1, 30, 6))),
            (
                "valkey",
                "Valkey server v=9.1.2 sha=00000000:0 malloc=jemalloc-5.3.1",
                Some((9, 1, 2)),
            ),
            (
                "postgres",
                "postgres (PostgreSQL) 18.6 (Debian 18.6-3)",
                Some((18, 6, 0)),
            ),
            (
                "prometheus",
                "prometheus, version 3.5.3+ds1 (branch: debian/sid)",
                Some((3, 5, 3)),
            ),
            ("none", "command not found.", None),
        ];
        for (name, printed, expected) in cases {
            assert_eq!(first_version(printed), expected, "{name}");
        }
    }
}
