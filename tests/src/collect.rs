//! What a person needs to understand a failed test, in one folder: objects, Events, logs of pods and components.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    HarnessError,
    access::Access,
    command::run,
    files::{self, make_folder},
};

/// How many lines of each log are kept.
const LOG_LINES: &str = "--tail=5000";

/// Writes all there is to know about a cluster into a new folder and returns its path.
///
/// With `namespaces` empty it is the whole cluster, else only what lives in them: a cluster that the user has may hold
/// things that are none of the tests' business. Secrets are left out. What cannot be had is said in the folder, not
/// treated as an error: this runs when something is broken already.
///
/// # Errors
/// When the folder cannot be made.
pub(crate) fn collect(
    access: &Access,
    namespaces: &[String],
    component_logs: Option<&Path>,
    name: &str,
) -> Result<PathBuf, HarnessError> {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%S%.3f");
    let safe: String = name
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .collect();
    let folder = files::cache()?.join("failures").join(format!("{time}-{safe}"));
    make_folder(&folder)?;
    let scopes: Vec<Vec<&str>> = if namespaces.is_empty() {
        vec![vec!["--all-namespaces"]]
    } else {
        namespaces
            .iter()
            .map(|namespace| vec!["--namespace", namespace.as_str()])
            .collect()
    };
    for scope in &scopes {
        collect_scope(access, scope, &folder);
    }
    if let Some(logs) = component_logs {
        copy_files(logs, &folder.join("components"));
    }
    Ok(folder)
}

fn collect_scope(access: &Access, scope: &[&str], folder: &Path) {
    let name = scope.last().map_or("", |last| last.trim_start_matches("--"));
    let all_namespaces = scope.len() == 1;
    let kinds = kinds(access, all_namespaces);
    write_output(
        access,
        &[&["get", &kinds, "--output=yaml"], scope].concat(),
        &folder.join(format!("{name}-objects.yaml")),
    );
    write_output(
        access,
        &[&["describe", "pods"], scope].concat(),
        &folder.join(format!("{name}-pods.txt")),
    );
    let events = [
        "get",
        "events",
        "--sort-by=.metadata.creationTimestamp",
        "--output=wide",
    ];
    write_output(
        access,
        &[&events, scope].concat(),
        &folder.join(format!("{name}-events.txt")),
    );
    pod_logs(
        access,
        &[&["get", "pods", "--output=json"], scope].concat(),
        &folder.join("pods"),
    );
}

/// The kinds worth looking at, as one word for kubectl.
fn kinds(access: &Access, all_namespaces: bool) -> String {
    let namespaced = if all_namespaces { "" } else { "--namespaced" };
    let arguments: Vec<&str> = ["api-resources", "--verbs=list", "--output=name", namespaced]
        .into_iter()
        .filter(|word| !word.is_empty())
        .collect();
    let listed = access
        .kubectl(&arguments)
        .and_then(|mut command| run(&mut command))
        .unwrap_or_default();
    let uninteresting = ["secrets", "events", "events.events.k8s.io", "componentstatuses"];
    listed
        .lines()
        .filter(|kind| !uninteresting.contains(kind))
        .collect::<Vec<_>>()
        .join(",")
}

/// Writes the log of each container, and that of its run before if there was one.
fn pod_logs(access: &Access, list_pods: &[&str], folder: &Path) {
    let listed = access
        .kubectl(list_pods)
        .and_then(|mut command| run(&mut command))
        .unwrap_or_default();
    let pods: Value = serde_json::from_str(&listed).unwrap_or_default();
    for pod in pods["items"].as_array().into_iter().flatten() {
        let (Some(namespace), Some(name)) = (pod["metadata"]["namespace"].as_str(), pod["metadata"]["name"].as_str())
        else {
            continue;
        };
        let statuses = ["initContainerStatuses", "containerStatuses"];
        let containers = statuses
            .iter()
            .filter_map(|list| pod["status"][list].as_array())
            .flatten();
        for container in containers {
            let container_name = container["name"].as_str().unwrap_or_default();
            let file = |suffix: &str| folder.join(format!("{namespace}-{name}-{container_name}{suffix}.log"));
            let logs = [
                "logs",
                "--namespace",
                namespace,
                name,
                "--container",
                container_name,
                LOG_LINES,
            ];
            write_output(access, &logs, &file(""));
            if container["restartCount"].as_u64().unwrap_or_default() > 0 {
                write_output(access, &[&logs[..], &["--previous"]].concat(), &file("-previous"));
            }
        }
    }
}

/// Writes what kubectl prints into `path`, or why it printed nothing.
fn write_output(access: &Access, arguments: &[&str], path: &Path) {
    let limited = [arguments, &["--request-timeout=20s"]].concat();
    let content = match access.kubectl(&limited).and_then(|mut command| run(&mut command)) {
        Ok(output) => output,
        Err(error) => format!("{error}\n"),
    };
    let written = path
        .parent()
        .map_or(Ok(()), make_folder)
        .and_then(|()| files::write_whole(path, content));
    if let Err(error) = written {
        eprintln!("{error}");
    }
}

fn copy_files(from: &Path, to: &Path) {
    if make_folder(to).is_err() {
        return;
    }
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        if let Err(error) = fs::copy(entry.path(), to.join(entry.file_name())) {
            eprintln!("cannot keep {}: {error}", entry.path().display());
        }
    }
}
