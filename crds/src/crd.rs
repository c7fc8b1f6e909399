//! The CustomResourceDefinition, as it is committed and applied.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::v1alpha1::McpServer;

/// The CustomResourceDefinition of `McpServer` as JSON.
///
/// Optional fields are not `nullable`: the API server then drops a `null`, where it would otherwise keep it and CEL's
/// `has()` would say that the field is set.
///
/// # Errors
/// When the definition cannot be written as JSON, which would be an error of this crate.
pub fn custom_resource_definition() -> Result<Value, serde_json::Error> {
    let mut definition = serde_json::to_value::<CustomResourceDefinition>(McpServer::crd())?;
    remove_nullable(&mut definition);
    Ok(definition)
}

fn remove_nullable(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("nullable") == Some(&Value::Bool(true)) {
                fields.remove("nullable");
            }
            fields.values_mut().for_each(remove_nullable);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_nullable),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The API server warns of formats that it does not know, on every apply.
    #[test]
    fn the_schema_uses_only_formats_that_the_api_server_knows() {
        fn formats<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("format").and_then(Value::as_str));
                    fields.values().for_each(|v| formats(v, found));
                }
                Value::Array(items) => items.iter().for_each(|v| formats(v, found)),
                _ => {}
            }
        }
        let definition = custom_resource_definition().unwrap();
        let mut found = Vec::new();
        formats(&definition, &mut found);
        assert!(!found.is_empty());
        for format in found {
            assert!(["int32", "int64", "double", "date-time"].contains(&format), "{format}");
        }
    }

    /// Client-side `kubectl apply` keeps the object in an annotation of at most 262,144 bytes.
    #[test]
    fn the_definition_fits_client_side_apply() {
        let definition = serde_json::to_string(&custom_resource_definition().unwrap()).unwrap();
        assert!(definition.len() < 200_000, "{} bytes", definition.len());
        assert!(!definition.contains("\"nullable\""));
    }

    /// `kubectl explain` of a field without a description tells nothing.
    #[test]
    fn every_field_is_documented() {
        fn undocumented(path: &str, schema: &Value, found: &mut Vec<String>) {
            for (name, property) in schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                let path = format!("{path}.{name}");
                if property.get("description").is_none() {
                    found.push(path.clone());
                }
                undocumented(&path, property, found);
                undocumented(&path, property.get("items").unwrap_or(&Value::Null), found);
            }
        }
        let definition = custom_resource_definition().unwrap();
        let mut found = Vec::new();
        for part in ["spec", "status"] {
            let pointer = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{part}");
            undocumented(part, definition.pointer(&pointer).unwrap(), &mut found);
        }
        assert!(found.is_empty(), "{found:?}");
    }
}
