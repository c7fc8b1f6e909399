//! `mcpscale crd`.

use super::print_text;

/// Prints the CustomResourceDefinition.
pub fn print() -> Result<(), String> {
    let definition = mcpscale_crds::custom_resource_definition().map_err(|error| error.to_string())?;
    let yaml = serde_saphyr::to_string(&definition).map_err(|error| error.to_string())?;
    let header = "# Made by `make crds` from the types in crds/src. Do not edit.\n---\n";
    print_text(&format!("{header}{}\n", yaml.trim_end()))
}
