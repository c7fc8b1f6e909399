//! What the examples and documents show.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use kube::Client;
use mcpscale_tests::installation::repository;
use serde_json::Value;

use super::support::{NAMESPACE, cluster, make_namespace};

/// A declaration that somebody may copy.
struct Declaration {
    /// Where it stands.
    place: String,
    yaml: String,
}

/// What a user loses without it: the first thing that is tried is refused, or a field of it does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_is_accepted_as_it_stands() {
    let cluster = cluster(&[]).await;
    let client = cluster.client();
    let mut wrong = Vec::new();
    for Declaration { place, yaml } in declarations() {
        if let Err(error) = create_strictly(&client, &yaml).await {
            wrong.push(format!("{place}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every file of the examples, and every `McpServer` in a block of the documents.
fn declarations() -> Vec<Declaration> {
    let top = repository();
    let examples: Vec<_> = files(&top.join("examples"), "yaml")
        .into_iter()
        .map(|path| Declaration {
            place: path.display().to_string(),
            yaml: read(&path),
        })
        .collect();
    assert!(!examples.is_empty(), "there is no example");
    let read_me = blocks(&top.join("README.md"));
    assert!(!read_me.is_empty(), "README.md shows no McpServer");
    let documents = files(&top.join("docs"), "md");
    let shown = documents.iter().flat_map(|path| blocks(path));
    examples.into_iter().chain(read_me).chain(shown).collect()
}

/// The `McpServer`s in the YAML blocks of a document.
fn blocks(document: &Path) -> Vec<Declaration> {
    let text = read(document);
    let yaml_blocks = text.split("```yaml\n").skip(1);
    yaml_blocks
        .filter_map(|rest| rest.split("```").next())
        .filter(|block| block.lines().any(|line| line == "kind: McpServer"))
        .map(|block| Declaration {
            place: document.display().to_string(),
            yaml: block.to_owned(),
        })
        .collect()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .expect("the folder is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension() == Some(OsStr::new(extension)))
        .collect();
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a file of the repository")
}

/// Gives the text to the API server as it stands, for a look: a field that is unknown, or stands there twice, is refused.
async fn create_strictly(client: &Client, yaml: &str) -> Result<(), String> {
    let object: Value = serde_saphyr::from_str(yaml).map_err(|error| error.to_string())?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(NAMESPACE);
    if namespace != NAMESPACE {
        make_namespace(client, namespace).await;
    }
    let servers = format!("/apis/mcpscale.dev/v1alpha1/namespaces/{namespace}/mcpservers");
    let path = format!("{servers}?dryRun=All&fieldValidation=Strict");
    let request = http::Request::post(path)
        .header("Content-Type", "application/yaml")
        .header("Accept", "application/json")
        .body(yaml.as_bytes().to_vec())
        .map_err(|error| error.to_string())?;
    let answer = client.request::<Value>(request).await;
    answer.map(drop).map_err(|error| error.to_string())
}
