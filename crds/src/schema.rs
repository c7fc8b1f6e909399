//! What Kubernetes itself takes as a name, a label or an annotation. The operator hands these values on to the objects
//! that it makes: a bad one is to be the answer to `kubectl apply`, not a failure of the operator afterwards.

use serde_json::{Value, json};

/// Name of an object as most kinds have it: a DNS subdomain. Goes with a `maxLength` of 253.
pub(crate) const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Key in a Secret or ConfigMap. It can become the name of a file, so it is not `.` and does not start with `..`. Goes
/// with a `maxLength` of 253.
pub(crate) const DATA_KEY: &str = r"^([-_a-zA-Z0-9]|\.[-_a-zA-Z0-9])[-._a-zA-Z0-9]*$";

/// Value of a label. Goes with a `maxLength` of 63.
pub(crate) const LABEL_VALUE: &str = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$";

/// Schema of each value of a map of labels.
pub(crate) fn label_value() -> Value {
    json!({"type": "string", "maxLength": 63, "pattern": LABEL_VALUE})
}

/// Schema of each value of a map of annotations.
pub(crate) fn annotation_value() -> Value {
    json!({"type": "string", "maxLength": 4096})
}

/// Rule for a map of labels: its keys are keys of labels. A schema can say nothing about keys, so this is CEL.
pub(crate) fn label_keys(field: &str) -> Value {
    keys(field, "key")
}

/// Rule for a map of annotations: its keys are keys of annotations, which may have upper case letters in their prefix.
pub(crate) fn annotation_keys(field: &str) -> Value {
    keys(field, "key.lowerAscii()")
}

/// The length comes first, so that a key of any length costs nothing.
fn keys(field: &str, key: &str) -> Value {
    json!({
        "rule": format!("self.all(key, size(key) <= 317 && !format.qualifiedName().validate({key}).hasValue())"),
        "message": format!(
            "each key of {field} must be at most 63 letters, digits, '-', '_' and '.', starting and ending with a \
             letter or digit; a DNS name and a slash may precede it"
        ),
    })
}
