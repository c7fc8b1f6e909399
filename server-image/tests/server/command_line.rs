//! The binary as a person or a container engine starts it: flags, environment, file, exit codes, messages.

use std::path::Path;
use std::process::{Command, Output};

use clap::{Arg, CommandFactory};
use mcp_server::cli::Cli;

use crate::support::postgres::SHARED;

/// The binary without any setting of this test's own environment.
fn binary(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-server"));
    command.args(arguments).current_dir(folder).env_clear();
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    binary(folder, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Somebody who overrides one setting for a try must get it, whatever the file says.
#[test]
fn flag_wins_over_environment_wins_over_file_wins_over_default() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("mcp.yaml"),
        "# what this replica may use\npool-max: 7\nconcurrency: 5\nlog-format: json\nallowed-hosts: [a, b:8]\n\
         redis-url: redis://:hidden@cache\n",
    )
    .unwrap();
    let output = binary(
        folder.path(),
        &["serve", "--check", "--config", "mcp.yaml", "--concurrency", "9"],
    )
    .env("MCP_POOL_MAX", "8")
    .env("MCP_CONCURRENCY", "6")
    .output()
    .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let lines = text(&output.stdout);
    for line in [
        "pool-max: 8  # MCP_POOL_MAX",
        "concurrency: 9  # flag",
        "log-format: json  # mcp.yaml",
        "allowed-hosts: a,b:8  # mcp.yaml",
        "redis-url: (not shown)  # mcp.yaml",
        "listen: 127.0.0.1:8080  # default",
        "queue-max: null  # default",
    ] {
        assert!(
            lines.lines().any(|found| found == line),
            "{line} is missing in\n{lines}"
        );
    }
    assert!(!lines.contains("hidden"));

    let by_variable = binary(folder.path(), &["serve", "--check"])
        .env("MCP_CONFIG", "mcp.yaml")
        .output()
        .unwrap();
    assert!(text(&by_variable.stdout).contains("pool-max: 7  # mcp.yaml"));
}

/// A mistake must be named at the start, with where it is and what is allowed, and never with a password.
#[test]
fn mistakes_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mcp.yaml");
    for (name, content, expected) in [
        (
            "unknown key",
            "pool-maximum: 7",
            &["mcp.yaml: pool-maximum: there is no such setting", "pool-max,"][..],
        ),
        (
            "an order",
            "check: true",
            &["mcp.yaml: check: there is no such setting"],
        ),
        (
            "bad choice",
            "fixtures: all",
            &["mcp.yaml: fixtures: invalid value 'all'", "[possible values: none, "],
        ),
        (
            "bad address",
            "listen: here",
            &["mcp.yaml: listen: invalid value 'here'"],
        ),
        (
            "bad number",
            "session-idle-seconds: 0",
            &["mcp.yaml: session-idle-seconds: invalid value '0'", "1.."],
        ),
        ("no value", "path:", &["mcp.yaml: path: has no value"]),
        ("object", "path: {a: b}", &["mcp.yaml: path: must be a plain value"]),
        (
            "list",
            "path: [/a, /b]",
            &["mcp.yaml: path: takes one value, not a list"],
        ),
        ("no object", "- path", &["mcp.yaml is not a YAML file"]),
        ("twice", "path: /a\npath: /b", &["mcp.yaml is not a YAML file", "path"]),
        (
            "bad database",
            "database-url: mysql://u:hidden@h",
            &["--database-url", "sqlite: or postgres://"],
        ),
        (
            "damaged",
            "database-url: 'postgres://u:hidden@h\npath: /a",
            &["mcp.yaml is not a YAML file"],
        ),
        ("bad figure", "pool-max: 0", &["--pool-max", "must be 1 to "]),
        ("bad Redis", "redis-url: http://:hidden@h", &["--redis-url"]),
        (
            "no Redis",
            "rate-limits: all=9/s\nrate-limit-scope: global",
            &["--rate-limit-scope", "--redis-url"],
        ),
        ("no such file", "auth: api-key\napi-keys-file: nowhere", &["nowhere"]),
        ("short key", "request-state-key: hidden", &["--request-state-key"]),
    ] {
        std::fs::write(&path, content).unwrap();
        let output = run(folder.path(), &["serve", "--check", "--config", "mcp.yaml"]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {message}");
        assert!(!message.contains("hidden"), "{name}: {message}");
        for part in expected {
            assert!(message.contains(part), "{name}: {part:?} is not in {message}");
        }
    }
    assert!(!folder.path().join("mcp.db").exists(), "a check writes nothing");
    let missing = run(folder.path(), &["serve", "--config", "nowhere.yaml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("cannot read the configuration file nowhere.yaml"));
}

/// A wrong environment must not be blamed on the file, nor a wrong file hide behind it.
#[test]
fn each_source_answers_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mcp.yaml"), "concurrency: 5").unwrap();
    let output = binary(folder.path(), &["serve", "--check", "--config", "mcp.yaml"])
        .env("MCP_POOL_MAX", "many")
        .output()
        .unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        message.contains("--pool-max") && !message.contains("mcp.yaml"),
        "{message}"
    );
}

/// A Job that migrates before a roll-out relies on the exit code; repeating it must be harmless.
#[tokio::test(flavor = "multi_thread")]
async fn migrate_is_idempotent_and_says_what_it_did() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["sqlite:./data.db".to_owned(), SHARED.database().await] {
        let migrate = |flags: &[&str]| {
            let output = run(folder.path(), &[&["migrate", "--database-url", &url], flags].concat());
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        let (code, pending, _) = migrate(&["--dry-run"]);
        assert_eq!(code, Some(3), "{url}: steps are pending");
        assert!(
            pending.contains("shared_context_1_sessions_messages_memory"),
            "{pending}"
        );
        assert_eq!(migrate(&["--list"]).0, Some(3), "a dry run changes nothing");
        let (code, done, error) = migrate(&[]);
        assert_eq!(code, Some(0), "{error}");
        assert!(
            done.contains("the schema is up to date after") && done.contains("mcp_1_sessions"),
            "{done}"
        );
        let (code, again, _) = migrate(&[]);
        assert_eq!(code, Some(0));
        assert!(again.contains("up to date already"), "{again}");
        assert_eq!(migrate(&["--dry-run"]).0, Some(0));
    }
}

/// N pods start at once: each migrates, one does it, all succeed.
#[tokio::test(flavor = "multi_thread")]
async fn many_may_migrate_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let url = SHARED.database().await;
    let all: Vec<_> = (0..4)
        .map(|_| {
            binary(folder.path(), &["migrate", "--database-url", &url])
                .spawn()
                .unwrap()
        })
        .collect();
    for mut one in all {
        assert!(one.wait().unwrap().success());
    }
}

/// Without a database there is a message and a failure, not a wait for ever, and no password.
#[test]
fn migrate_fails_when_the_database_stays_away() {
    let folder = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("postgres://u:hidden@{closed}/d");
    let output = run(
        folder.path(),
        &["migrate", "--database-url", &url, "--wait-seconds", "1"],
    );
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("cannot connect to the database") && !message.contains("hidden"),
        "{message}"
    );
}

/// Each flag of a help text, with the heading that it stands under.
fn flags_with_headings(help: &str) -> Vec<(&str, &str)> {
    let mut heading = "";
    let mut flags = Vec::new();
    for line in help.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            heading = name;
        } else if let Some(flag) = line.strip_prefix("      --") {
            flags.push((flag.split(' ').next().unwrap(), heading));
        }
    }
    flags
}

/// Help that does not say what belongs together is a wall of text, and a flag under another subject's heading is not
/// found.
#[test]
fn help_groups_the_flags() {
    let folder = tempfile::tempdir().unwrap();
    let help = text(&run(folder.path(), &["serve", "--help"]).stdout);
    let found = flags_with_headings(&help);
    // The headings of docs/server.md, each with a flag that belongs there.
    let headings = [
        ("Network", "listen"),
        ("Transport", "tls-cert"),
        ("Authentication", "auth"),
        ("Rate limits", "rate-limits"),
        ("Data", "database-url"),
        ("Capacity", "concurrency"),
        ("Cache", "cache-l1-bytes"),
        ("Shared context", "max-sessions-per-agent"),
        ("Operation", "drain-seconds"),
        ("Logs and traces", "log-format"),
    ];
    for (heading, flag) in headings {
        assert!(
            found.contains(&(flag, heading)),
            "--{flag} is not under {heading} in\n{help}"
        );
    }
    for (flag, heading) in &found {
        let is_of_a_subject = headings.iter().any(|(name, _)| name == heading);
        // They say where settings come from.
        let is_general = ["config", "check"].contains(flag);
        assert!(is_of_a_subject != is_general, "--{flag} is under {heading} in\n{help}");
    }
    let command = Cli::command();
    let serve = command.find_subcommand("serve").unwrap();
    let mut all: Vec<_> = serve.get_arguments().filter_map(Arg::get_long).collect();
    let mut shown: Vec<_> = found.iter().map(|(flag, _)| *flag).collect();
    all.sort_unstable();
    shown.sort_unstable();
    assert_eq!(shown, all, "help shows every flag, and each once");
}

/// A command that help does not name is one that nobody finds.
#[test]
fn help_names_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    let help = text(&run(folder.path(), &["--help"]).stdout);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.map_while(|line| line.strip_prefix("  ")?.split(' ').next());
    assert_eq!(
        commands.collect::<Vec<_>>(),
        ["serve", "migrate", "report", "stdio", "healthcheck", "api-key", "help"],
        "{help}"
    );
}
