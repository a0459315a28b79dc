//! The custom resource definitions, as they are committed in `crds/` and installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, ValidationRule,
};
use kube_core::CustomResourceExt as _;

use crate::{Handler, LambdaCluster};

/// All definitions with the names of their files.
pub fn all() -> Vec<(&'static str, CustomResourceDefinition)> {
    let cluster = with_name_rule(
        LambdaCluster::crd(),
        "self.metadata.name.size() <= 48 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "the name of a LambdaCluster must be at most 48 lower case letters, digits and '-', and begin with a letter",
    );
    let handler = with_name_rule(
        Handler::crd(),
        "self.metadata.name.size() <= 63",
        "the name of a Handler must be at most 63 characters",
    );
    vec![("lambdaclusters.yaml", cluster), ("handlers.yaml", handler)]
}

/// Adds a rule to the object itself, which is the only place that sees the name. The derive macro could do it only
/// with a client library behind it.
fn with_name_rule(mut crd: CustomResourceDefinition, rule: &str, message: &str) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        if let Some(schema) = schema {
            let rule = ValidationRule {
                rule: rule.to_owned(),
                message: Some(message.to_owned()),
                ..ValidationRule::default()
            };
            schema.x_kubernetes_validations.get_or_insert_default().push(rule);
        }
    }
    crd
}
