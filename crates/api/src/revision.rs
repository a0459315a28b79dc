//! Revisions of a handler that are kept: a spec without what it says of revisions, as a `ControllerRevision` that the
//! handler owns. The operator makes them once an agent serves the spec, agents read those that get calls.

use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::HandlerSpec;
use crate::handler::{DEFAULT_HISTORY, PackagesStatus};

/// Label: the handler's name.
pub const HANDLER: &str = "openlambda.dev/handler";
/// Label: the digest of the spec, see [`digest`].
pub const TEMPLATE: &str = "openlambda.dev/template";
/// Annotation: the latest generation of the handler with this spec.
pub const GENERATION: &str = "openlambda.dev/generation";
/// Annotation: the digest of the code that it served.
pub const CODE: &str = "openlambda.dev/code";
/// Annotation: what its requirements were resolved to, a [`PackagesStatus`] in JSON.
pub const PACKAGES: &str = "openlambda.dev/packages";

/// The name of the revision that a generation of a handler is, unless its spec was one before.
pub fn name(handler: &str, generation: i64) -> String {
    format!("{handler}-{generation}")
}

/// What of a spec makes a revision: neither the cluster nor what it says of revisions.
pub fn template(spec: &HandlerSpec) -> HandlerSpec {
    HandlerSpec {
        cluster: None,
        traffic: Vec::new(),
        revision_history_limit: DEFAULT_HISTORY,
        ..spec.clone()
    }
}

/// Tells specs apart that are different revisions: 128 bits of a SHA-256.
pub fn digest(spec: &HandlerSpec) -> String {
    // Fields come in the order of the type, so the text is the same each time. A spec has nothing that JSON has not.
    let text = serde_json::to_value(template(spec)).map(|value| value.to_string()).unwrap_or_default();
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Why a `ControllerRevision` is not the kept revision that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum NotKept {
    /// It is of something else.
    #[error("ControllerRevision {0} is not of this Handler")]
    Another(String),
    /// It cannot be read.
    #[error("ControllerRevision {0} has no spec that can be read: {1}")]
    Unreadable(String, serde_json::Error),
}

/// A revision that is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its spec.
    pub spec: HandlerSpec,
    /// What its requirements were resolved to.
    pub packages: Option<PackagesStatus>,
}

impl Kept {
    /// What an object keeps, if it is a revision of the handler with this uid.
    pub fn read(object: ControllerRevision, handler_uid: &str) -> Result<Self, NotKept> {
        let name = object.metadata.name.unwrap_or_default();
        let owners = object.metadata.owner_references.unwrap_or_default();
        if !owners.iter().any(|owner| owner.uid == handler_uid && owner.controller == Some(true)) {
            return Err(NotKept::Another(name));
        }
        let data = object.data.map_or(Value::Null, |data| data.0);
        let spec = serde_json::from_value(data).map_err(|error| NotKept::Unreadable(name, error))?;
        let annotations = object.metadata.annotations.unwrap_or_default();
        let packages = annotations.get(PACKAGES).and_then(|text| serde_json::from_str(text).ok());
        Ok(Self { spec, packages })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(more: Value) -> HandlerSpec {
        let mut spec = json!({"source": {"inline": "1"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn only_what_runs_makes_a_revision() {
        let plain = digest(&spec(json!({})));
        for same in [
            json!({"traffic": [{"revision": "h-1", "percent": 100}]}),
            json!({"revisionHistoryLimit": 3}),
            json!({"cluster": "demo"}),
            json!({"entrypoint": "lambda_func.handler"}),
        ] {
            assert_eq!(digest(&spec(same.clone())), plain, "{same}");
        }
        for other in [
            json!({"source": {"inline": "2"}}),
            json!({"env": [{"name": "A", "value": "1"}]}),
            json!({"limits": {"memory": "64Mi"}}),
            json!({"idempotent": true}),
        ] {
            assert_ne!(digest(&spec(other.clone())), plain, "{other}");
        }
    }

    #[test]
    fn what_belongs_to_others_is_not_read() {
        let object = |uid: &str, data: Value| {
            serde_json::from_value::<ControllerRevision>(json!({
                "metadata": {
                    "name": "h-1",
                    "annotations": {PACKAGES: r#"{"requirements": "d", "locked": ["a==1"]}"#},
                    "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "h", "uid": uid, "controller": true}],
                },
                "data": data, "revision": 1,
            }))
            .unwrap()
        };
        let kept = Kept::read(object("u", json!({"source": {"inline": "1"}})), "u").unwrap();
        assert_eq!(kept.spec, spec(json!({})));
        assert_eq!(kept.packages.unwrap().locked, ["a==1"]);
        let other = Kept::read(object("u", json!({})), "v").unwrap_err();
        assert_eq!(other.to_string(), "ControllerRevision h-1 is not of this Handler");
        let bad = Kept::read(object("u", json!({"spec": {}})), "u").unwrap_err();
        assert!(bad.to_string().contains("missing field `source`"), "{bad}");
    }
}
