//! JSON schemas as kubeconform reads them, from what Kubernetes publishes of its API and from definitions of custom
//! resources. Pure.
//!
//! They are stricter than those that others publish: a field that the API does not know is an error, and so is null where
//! the API does not say that it may be. They know nothing of rules in CEL; an API server does.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// The file that all others refer to.
const DEFINITIONS: &str = "definitions.json";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// Published as text; the API takes numbers, too.
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

/// Schemas by the names of their files.
pub type Schemas = BTreeMap<String, Value>;

/// Those of Kubernetes' own kinds, from its `api/openapi-spec/swagger.json`.
pub fn of_kubernetes(mut swagger: Value) -> Result<Schemas> {
    let Value::Object(mut definitions) = swagger["definitions"].take() else {
        anyhow::bail!("the description of Kubernetes' API has no definitions");
    };
    let mut schemas = Schemas::new();
    for (name, definition) in &mut definitions {
        close(definition);
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let text = |key: &str| kind[key].as_str().unwrap_or_default();
            schemas.insert(file(text("group"), text("version"), text("kind")), reference(name));
        }
    }
    if let Some(quantity) = definitions.get_mut(QUANTITY) {
        quantity["type"] = json!(["string", "number"]);
    }
    schemas.insert(DEFINITIONS.to_owned(), json!({ "definitions": definitions }));
    Ok(schemas)
}

/// Those of the kind that a `CustomResourceDefinition` defines, one for each version. They need those of Kubernetes
/// beside them.
pub fn of_definition(definition: &Value) -> Result<Schemas> {
    let spec = &definition["spec"];
    let text = |value: &Value, what: &str| {
        value.as_str().map(str::to_owned).with_context(|| format!("a definition without its {what}"))
    };
    let (group, kind) = (text(&spec["group"], "group")?, text(&spec["names"]["kind"], "kind")?);
    let versions = spec["versions"].as_array().context("a definition without versions")?;
    versions
        .iter()
        .map(|version| {
            let mut schema = version["schema"]["openAPIV3Schema"].clone();
            let fields = schema["properties"].as_object_mut().context("a version without a schema")?;
            for name in ["apiVersion", "kind"] {
                fields.insert(name.to_owned(), json!({"type": "string"}));
            }
            fields.insert("metadata".to_owned(), reference(META));
            close(&mut schema);
            Ok((file(&group, &text(&version["name"], "version")?, &kind), schema))
        })
        .collect()
}

/// As kubeconform calls it with the template `{{.ResourceKind}}{{.KindSuffix}}.json`: of the group, the first part only.
fn file(group: &str, version: &str, kind: &str) -> String {
    let group = group.split('.').next().filter(|first| !first.is_empty());
    let parts = [Some(kind), group, Some(version)];
    parts.into_iter().flatten().collect::<Vec<_>>().join("-").to_lowercase() + ".json"
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{DEFINITIONS}#/definitions/{name}") })
}

/// Says in JSON schema's own words what Kubernetes says in others, and closes objects whose fields are listed.
fn close(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    if fields.get("format").is_some_and(|format| format == "int-or-string") {
        fields.remove("format");
        fields.insert("type".to_owned(), json!(["string", "integer"]));
    }
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(close);
        let open = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
        if !open && !fields.contains_key("additionalProperties") {
            fields.insert("additionalProperties".to_owned(), Value::Bool(false));
        }
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = fields.get_mut(inner) {
            close(inner);
        }
    }
    if fields.get("nullable") == Some(&Value::Bool(true)) {
        take_null(fields);
    }
}

/// Null is allowed as well.
fn take_null(fields: &mut Map<String, Value>) {
    if let Some(kind) = fields.get_mut("type") {
        let mut kinds = kind.as_array().cloned().unwrap_or_else(|| vec![kind.clone()]);
        kinds.push(json!("null"));
        *kind = Value::Array(kinds);
    }
    if let Some(Value::Array(values)) = fields.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_refer_to_closed_definitions() {
        let swagger = json!({"definitions": {
            "io.k8s.api.apps.v1.Deployment": {
                "type": "object",
                "properties": {"spec": {"$ref": "#/definitions/Spec"}},
                "x-kubernetes-group-version-kind": [{"group": "apps", "kind": "Deployment", "version": "v1"}],
            },
            "Pod": {"x-kubernetes-group-version-kind": [{"group": "", "kind": "Pod", "version": "v1"}]},
            "Role": {"x-kubernetes-group-version-kind":
                [{"group": "rbac.authorization.k8s.io", "kind": "Role", "version": "v1"}]},
            "Port": {"type": "string", "format": "int-or-string"},
            QUANTITY: {"type": "string"},
            "Labels": {"type": "object", "additionalProperties": {"type": "string"}},
        }});
        let schemas = of_kubernetes(swagger).unwrap();
        assert_eq!(
            schemas.keys().collect::<Vec<_>>(),
            ["definitions.json", "deployment-apps-v1.json", "pod-v1.json", "role-rbac-v1.json"]
        );
        let target = "definitions.json#/definitions/io.k8s.api.apps.v1.Deployment";
        assert_eq!(schemas["deployment-apps-v1.json"], json!({ "$ref": target }));
        let all = &schemas["definitions.json"]["definitions"];
        assert_eq!(all["io.k8s.api.apps.v1.Deployment"]["additionalProperties"], false);
        assert_eq!(all["Labels"]["additionalProperties"], json!({"type": "string"}));
        assert_eq!(all["Port"], json!({"type": ["string", "integer"]}));
        assert_eq!(all[QUANTITY]["type"], json!(["string", "number"]));
    }

    #[test]
    fn a_custom_resource_has_its_metadata_and_nulls_where_they_may_be() {
        let definition = json!({"spec": {
            "group": "openlambda.dev",
            "names": {"kind": "Handler"},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {
                    "reuse": {"type": "string", "enum": ["Always"], "nullable": true},
                    "list": {"type": "array", "items": {"type": "object", "properties": {}}},
                    "any": {"type": "object", "properties": {}, "x-kubernetes-preserve-unknown-fields": true},
                }},
            }}}}],
        }});
        let schemas = of_definition(&definition).unwrap();
        let schema = &schemas["handler-openlambda-v1.json"];
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(schema["properties"]["metadata"], reference(META));
        let spec = &schema["properties"]["spec"]["properties"];
        assert_eq!(spec["reuse"]["type"], json!(["string", "null"]));
        assert_eq!(spec["reuse"]["enum"], json!(["Always", null]));
        assert_eq!(spec["list"]["items"]["additionalProperties"], false);
        assert!(spec["any"]["additionalProperties"].is_null());
    }

    #[test]
    fn what_is_no_definition_is_refused() {
        assert!(of_definition(&json!({"spec": {"group": "x"}})).is_err());
        assert!(of_kubernetes(json!({})).is_err());
    }
}
