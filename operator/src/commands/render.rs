//! `mcpscale render`: the objects of an `McpServer`, without a cluster.

use std::{fs, io::Read, path::Path};

use kube::ResourceExt;
use mcpscale_crds::v1alpha1::McpServer;
use serde_json::Value;

use super::print_text;
use crate::{
    cli::RenderArguments,
    controller::{
        dereference::Observed,
        plan::plan,
        validate::{Installation, validate},
    },
    resources::{Component, component_name, postgres},
};

/// Stands for the password, which only a running operator makes.
const PASSWORD_PLACEHOLDER: &str = "made-by-the-operator";

/// Prints every object as YAML, as a new `McpServer` would get them.
pub fn print(arguments: &RenderArguments) -> Result<(), String> {
    let text = read(&arguments.file)?;
    let mut resource: McpServer =
        serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", arguments.file.display()))?;
    resource.metadata.namespace.get_or_insert_with(|| "default".into());
    resource
        .metadata
        .uid
        .get_or_insert_with(|| "00000000-0000-0000-0000-000000000000".into());
    for object in render(&resource, &Installation::from(&arguments.installation))? {
        let yaml = serde_saphyr::to_string(&object).map_err(|error| error.to_string())?;
        print_text(&format!("---\n{}\n", yaml.trim_end()))?;
    }
    Ok(())
}

/// The objects of a new `McpServer`.
///
/// # Errors
/// When it does not validate.
fn render(resource: &McpServer, installation: &Installation) -> Result<Vec<Value>, String> {
    let observed = Observed::default();
    let validated = validate(resource, &observed, installation).map_err(|error| error.to_string())?;
    let plan = plan(&validated, &observed, None);
    let mut objects: Vec<Value> = Vec::new();
    if plan.needs_secret {
        objects.push(postgres::secret(&validated, PASSWORD_PLACEHOLDER).body);
    }
    let deployment = component_name(&resource.name_any(), Component::Server);
    for child in plan.children {
        let mut body = child.body;
        if body["kind"] == "Deployment" && child.name == deployment {
            body["spec"]["replicas"] = plan.replicas.into();
        }
        objects.push(body);
    }
    Ok(objects)
}

fn read(file: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(failed)?;
        return Ok(text);
    }
    fs::read_to_string(file).map_err(failed)
}
