//! A `Handler` whose code is uploaded: what is written to have it serve a bundle of the registry, and what its status then
//! says of that. Whoever uploads agrees with the others here.

use serde_json::{Value, json};

use crate::conditions::{self, ConditionType};
use crate::handler::{Counts, HandlerStatus};
use crate::labels::{GROUP, VERSION};
use crate::source::BundleSource;

/// Whether a Handler is one of this `LambdaCluster`'s, as far as its spec says.
pub fn is_of(named: Option<&str>, cluster: &str) -> bool {
    named.is_none_or(|named| named == cluster)
}

/// Where a bundle is: keys of the registry begin with the namespace, below which each has its own.
pub fn source(namespace: &str, key: &str, digest: &str) -> BundleSource {
    BundleSource { key: format!("{namespace}/{key}"), digest: digest.into() }
}

/// The key of a bundle below its namespace; none if it lies elsewhere.
pub fn key<'a>(namespace: &str, source: &'a BundleSource) -> Option<&'a str> {
    source.key.strip_prefix(namespace)?.strip_prefix('/')
}

/// A new Handler with this bundle.
pub fn object(name: &str, cluster: &str, bundle: &BundleSource) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "Handler", "metadata": {"name": name},
        "spec": {"cluster": cluster, "source": {"bundle": bundle}},
    })
}

/// What is merged over one that is there: the source is this bundle, and nothing else that it was; and all calls go to it.
pub fn edit(bundle: &BundleSource) -> Value {
    let source = json!({"bundle": bundle, "inline": null, "files": null, "configMap": null, "http": null});
    json!({"spec": {"source": source, "traffic": null}})
}

/// What came of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether every agent that should serve it does.
    pub serves: bool,
    /// The agents.
    pub agents: Counts,
    /// The same for people, with the reason if it does not serve.
    pub message: String,
}

/// What a status says of a generation, once it says something final.
pub fn told(status: Option<&HandlerStatus>, generation: i64) -> Option<Told> {
    let status = status?;
    if status.observed_generation? < generation {
        return None;
    }
    let is = |kind| conditions::is_true(&status.conditions, kind);
    let ready = conditions::find(&status.conditions, ConditionType::Ready)?;
    if ready.status == "True" {
        return Some(say(status, true, None));
    }
    let failed = status.conditions.iter().find(|one| one.status == "False" && one.type_ != ready.type_);
    let failed = failed.unwrap_or(ready);
    let why = format!("{}: {}", failed.reason, failed.message);
    is(ConditionType::Stalled).then(|| say(status, false, Some(&why)))
}

/// What a status says that is not final.
pub fn so_far(status: Option<&HandlerStatus>) -> Told {
    let nothing = HandlerStatus::default();
    let status = status.unwrap_or(&nothing);
    let ready = conditions::find(&status.conditions, ConditionType::Ready);
    let why = ready.filter(|ready| ready.status != "True");
    let why = why.map(|ready| format!("{}: {}", ready.reason, ready.message));
    say(status, false, why.as_deref())
}

fn say(status: &HandlerStatus, serves: bool, why: Option<&str>) -> Told {
    let agents = status.agents.clone().unwrap_or_else(|| Counts::new(0, 0));
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    Told { serves, message: format!("{} agents serve it{why}", agents.summary), agents }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(generation: i64, conditions: &[(&str, &str)]) -> HandlerStatus {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status)| {
                json!({
                    "type": kind, "status": status, "reason": "R", "message": kind,
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                })
            })
            .collect();
        serde_json::from_value(json!({
            "observedGeneration": generation, "conditions": conditions,
            "agents": {"desired": 3, "ready": 2, "summary": "2/3"},
        }))
        .unwrap()
    }

    fn of(conditions: &[(&str, &str)]) -> Option<(bool, String)> {
        told(Some(&status(2, conditions)), 2).map(|told| (told.serves, told.message))
    }

    #[test]
    fn only_what_is_final_is_told() {
        assert_eq!(told(None, 2), None);
        assert_eq!(told(Some(&status(1, &[("Ready", "True")])), 2), None, "an older generation");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("Ready", "True")]), Some((true, "2/3 agents serve it".to_owned())));
        assert_eq!(of(&[("Ready", "False"), ("SourceResolved", "False")]), None, "under way");
        let failed = of(&[("Ready", "False"), ("CodeLoads", "False"), ("Stalled", "True")]);
        assert_eq!(failed, Some((false, "2/3 agents serve it: R: CodeLoads".to_owned())));
        let stalled = of(&[("Ready", "False"), ("Stalled", "True")]);
        assert_eq!(stalled, Some((false, "2/3 agents serve it: R: Ready".to_owned())));
    }

    #[test]
    fn what_is_not_final_is_said_as_far_as_it_is() {
        assert_eq!(so_far(None).message, "0/0 agents serve it");
        let told = so_far(Some(&status(2, &[("Ready", "False")])));
        assert_eq!((told.serves, told.message.as_str()), (false, "2/3 agents serve it: R: Ready"));
        // That of an older generation.
        assert!(!so_far(Some(&status(1, &[("Ready", "True")]))).serves);
    }

    #[test]
    fn keys_are_below_the_namespace() {
        let bundle = source("functions", "bundles/h/x.tar.gz", "sha256:0");
        assert_eq!(bundle.key, "functions/bundles/h/x.tar.gz");
        assert_eq!(key("functions", &bundle), Some("bundles/h/x.tar.gz"));
        assert_eq!((key("function", &bundle), key("other", &bundle)), (None, None));
    }

    #[test]
    fn a_bundle_takes_the_place_of_whatever_was_there() {
        let bundle = source("n", "k", "sha256:0");
        let made: crate::Handler = serde_json::from_value(object("h", "demo", &bundle)).unwrap();
        assert_eq!(
            (made.spec.cluster.as_deref(), &made.spec.source.bundle),
            (Some("demo"), &Some(bundle.clone()))
        );
        // Each form of a source but the bundle is taken out.
        let all = serde_json::to_value(crate::source::Source {
            inline: Some("x".into()),
            files: Some([("f".to_owned(), "x".to_owned())].into()),
            config_map: Some(crate::source::ConfigMapSource { name: "c".into() }),
            http: Some(crate::source::HttpSource { url: "u".into(), digest: "d".into() }),
            bundle: None,
        });
        let all = all.unwrap();
        let edit = edit(&bundle)["spec"].clone();
        assert!(edit.get("traffic").is_some_and(Value::is_null), "{edit}");
        let edit = &edit["source"];
        assert!(
            all.as_object().unwrap().keys().all(|form| edit.get(form).is_some_and(Value::is_null)),
            "{edit}"
        );
        assert!(is_of(None, "demo") && is_of(Some("demo"), "demo") && !is_of(Some("other"), "demo"));
    }
}
