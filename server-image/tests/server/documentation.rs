//! `docs/server.md` against the program itself. `UPDATE_DOCS=1 cargo test -p mcp-server documentation` writes its
//! tables anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;

use clap::{Arg, Command, CommandFactory};
use mcp_server::auth::ScopeRules;
use mcp_server::cli::Cli;
use mcp_server::limits::Rates;
use serde_json::json;

use crate::support::issuer::{Issuer, Signer};
use crate::support::postgres::SHARED;
use crate::support::redis::Redis;
use crate::support::server::{TestServer, file_settings, settings};

/// The text between the marks of `part` is `expected`; writes it there if asked to.
fn compare(part: &str, expected: &str) {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/server.md"));
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {part}: begin -->\n"), format!("<!-- {part}: end -->"));
    let from = text.find(&begin).expect("the mark of the beginning") + begin.len();
    let to = text.find(&end).expect("the mark of the end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{}{expected}{}", &text[..from], &text[to..])).unwrap();
        return;
    }
    let (found, wanted) = (text[from..to].lines(), expected.lines());
    let found: Vec<_> = found.collect();
    let missing: Vec<_> = wanted.clone().filter(|line| !found.contains(line)).collect();
    let wanted: Vec<_> = wanted.collect();
    let stale: Vec<_> = found.iter().filter(|line| !wanted.contains(*line)).collect();
    assert!(
        missing.is_empty() && stale.is_empty() && found == wanted,
        "docs/server.md, {part}: these lines are missing: {missing:#?}\nand these do not hold any more: {stale:#?}\n\
         UPDATE_DOCS=1 cargo test -p mcp-server documentation writes them anew"
    );
}

fn cell(text: &str) -> String {
    let text = text.replace('|', "\\|");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn flag_row(flag: &Arg) -> Option<String> {
    let name = flag.get_long()?;
    let value = flag.get_value_names().filter(|_| flag.get_action().takes_values());
    let value = value.map_or_else(String::new, |names| format!(" {}", names.join(" ")));
    let variable = flag
        .get_env()
        .map_or_else(String::new, |name| format!("`{}`", name.to_string_lossy()));
    let defaults: Vec<_> = flag
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    let shown = flag.get_action().takes_values() && !defaults.is_empty();
    let default = if shown {
        format!("`{}`", defaults.join(","))
    } else {
        String::new()
    };
    let choices: Vec<_> = flag
        .get_possible_values()
        .iter()
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    let choices = if flag.get_action().takes_values() && !choices.is_empty() {
        format!(" One of {}.", choices.join(", "))
    } else {
        String::new()
    };
    let help = flag
        .get_long_help()
        .or(flag.get_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    let help = help.trim_end_matches('.').to_owned() + ".";
    Some(format!(
        "| `--{name}{value}` | {variable} | {default} | {}{choices} |\n",
        cell(&help)
    ))
}

fn flags(command: &Command) -> String {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for flag in command.get_arguments().filter(|flag| flag.get_id() != "help") {
        let heading = flag.get_help_heading().unwrap_or("General").to_owned();
        let Some(row) = flag_row(flag) else { continue };
        match groups.iter_mut().find(|(name, _)| *name == heading) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((heading, vec![row])),
        }
    }
    let mut text = String::new();
    for (heading, rows) in groups {
        write!(
            text,
            "\n**{heading}**\n\n| flag | environment | default | meaning |\n|---|---|---|---|\n{}",
            rows.concat()
        )
        .unwrap();
    }
    text
}

/// A flag that the page does not know, or knows wrongly, is a flag that nobody can use.
#[test]
fn every_flag_is_documented() {
    let mut command = Cli::command();
    command.build();
    let mut text = String::new();
    for subcommand in command
        .get_subcommands()
        .filter(|subcommand| subcommand.get_name() != "help")
    {
        let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
        write!(
            text,
            "\n### `mcp-server {}`\n\n{about}.\n{}",
            subcommand.get_name(),
            flags(subcommand)
        )
        .unwrap();
    }
    compare("flags", &(text + "\n"));
}

/// What one family of metrics says about itself.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            name.clone_into(&mut current);
            help.clone_into(&mut families.entry(current.clone()).or_default().help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            name.clone_into(&mut current);
            kind.clone_into(&mut families.entry(current.clone()).or_default().kind);
        } else if let Some((_, rest)) = line.split_once('{') {
            let labels = rest.split_once('}').unwrap().0;
            let names = labels
                .split(',')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, _)| name);
            let names = names.filter(|name| *name != "le").map(str::to_owned);
            families.get_mut(&current).unwrap().labels.extend(names);
        }
    }
    families
}

fn metric_row(name: &str, family: &Family) -> String {
    let suffix = if family.kind == "counter" { "_total" } else { "" };
    let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
    format!(
        "| `{name}{suffix}` | {} | {} | {} |\n",
        family.kind,
        labels.join(", "),
        cell(&family.help)
    )
}

/// Families that only a container with limits has; the page describes them by hand.
const ONLY_WITH_LIMITS: [&str; 3] = [
    "mcp_cpu_throttled_seconds",
    "mcp_memory_limit_bytes",
    "mcp_memory_used_bytes",
];

const FAMILIAR: [&str; 7] = [
    "mcp_requests",
    "mcp_request_duration_seconds",
    "mcp_active_sessions",
    "mcp_active_agents",
    "mcp_cache_requests",
    "mcp_cache_hit_ratio",
    "mcp_db_pool_size",
];

fn group(name: &str) -> &'static str {
    if name.starts_with("mcp_server_") || name.starts_with("db_client_") {
        "Names of OpenTelemetry"
    } else if FAMILIAR.contains(&name) {
        "Names that guides for MCP servers use"
    } else if name.starts_with("process_") {
        "The process"
    } else {
        "What the operator scales by, and what explains it"
    }
}

/// What a server exposes now.
async fn exposed(server: &TestServer) -> BTreeMap<String, Family> {
    let url = format!("http://{}/metrics", server.server.metrics);
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let kinds = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    let families = families(&text);
    assert_eq!(
        kinds,
        families.len(),
        "each family is exposed once, or no scrape is valid"
    );
    families
}

/// What a server with Postgres, Redis and rate limits exposes.
async fn exposed_by_one_of_many() -> BTreeMap<String, Family> {
    let redis = Redis::start();
    let mut settings = settings(&SHARED.database().await);
    settings.data.redis_url = Some(redis.url.clone());
    settings.limits.rates = Rates::new(["all=1000/s"]).unwrap();
    settings.limits.global = true;
    let server = TestServer::start(settings).await;
    server.client.call("set_memory", json!({"key": "k", "value": 1})).await;
    server.client.call("get_memory", json!({"key": "k"})).await;
    server.client.legacy_session().await;
    exposed(&server).await
}

/// What a server with a SQLite file and an identity provider exposes.
async fn exposed_by_one_alone() -> BTreeMap<String, Family> {
    let issuer = Issuer::start(&[&Signer::new("key")]).await;
    let (mut settings, _folder) = file_settings();
    settings.auth = issuer.settings(ScopeRules::default());
    exposed(&TestServer::start(settings).await).await
}

/// A dashboard is built from this table: each name, type, label and meaning in it must be what a server exposes, and
/// everything that any server exposes must be in it.
#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented() {
    let mut families = exposed_by_one_of_many().await;
    for (name, family) in exposed_by_one_alone().await {
        let all = families.entry(name).or_default();
        all.labels.extend(family.labels);
        (all.kind, all.help) = (family.kind, family.help);
    }
    families.retain(|name, _| !ONLY_WITH_LIMITS.contains(&name.as_str()));
    let mut groups: BTreeMap<&str, String> = BTreeMap::new();
    for (name, family) in families {
        assert!(family.help.len() > 10, "{name} explains itself: {:?}", family.help);
        groups
            .entry(group(&name))
            .or_default()
            .push_str(&metric_row(&name, &family));
    }
    let mut text = String::new();
    for (heading, rows) in groups {
        write!(
            text,
            "\n**{heading}**\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}"
        )
        .unwrap();
    }
    compare("metrics", &(text + "\n"));
}
