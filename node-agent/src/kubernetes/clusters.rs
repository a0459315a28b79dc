//! The `LambdaCluster`s of the namespace, by their metadata: with others beside its own an agent must know which
//! handlers are not its own. See ADR 3.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::Event;
use openlambda_api::LambdaCluster;
use openlambda_policy::belonging::{Choice, Cluster, choose};

/// When an object was made; before all others if nobody says.
pub type Created = Option<Timestamp>;

type Times = BTreeMap<String, Created>;

/// What an agent knows of the clusters of its namespace.
#[derive(Debug)]
pub struct Clusters {
    own: String,
    known: Option<Times>,
    /// Those of a list that is coming in.
    listed: Times,
}

impl Clusters {
    /// Nothing is known yet.
    pub fn new(own: String) -> Self {
        Self { own, known: None, listed: Times::new() }
    }

    /// Takes an event in; whether there are others than before, or they are known only now.
    pub fn take(&mut self, event: Event<PartialObjectMeta<LambdaCluster>>) -> bool {
        let before = self.known.clone();
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => drop(self.listed.insert(object.name_any(), created(&object))),
            Event::InitDone => {
                // An agent ends with its cluster. As long as it is told to serve it does.
                let own = before.as_ref().and_then(|known| known.get(&self.own)).copied().flatten();
                self.listed.entry(self.own.clone()).or_insert(own);
                self.known = Some(std::mem::take(&mut self.listed));
            }
            Event::Apply(object) => {
                self.known.get_or_insert_default().insert(object.name_any(), created(&object));
            }
            Event::Delete(object) if object.name_any() == self.own => {}
            Event::Delete(object) => drop(self.known.get_or_insert_default().remove(&object.name_any())),
        }
        self.known != before
    }

    /// Whether a handler that wants the cluster `named` and was made at `created` is served by this agent's.
    pub fn serves(&self, named: Option<&str>, created: Created) -> bool {
        let known = self.known.iter().flatten();
        let clusters: Vec<_> = known.map(|(name, created)| Cluster { name, created: *created }).collect();
        choose(named, created, &clusters) == Choice::Served(&self.own)
    }
}

fn created(object: &PartialObjectMeta<LambdaCluster>) -> Created {
    object.creation_timestamp().map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(name: &str, minute: u8) -> PartialObjectMeta<LambdaCluster> {
        let time = format!("2026-01-01T00:{minute:02}:00Z");
        serde_json::from_value(json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": {"name": name, "namespace": "n", "creationTimestamp": time},
        }))
        .unwrap()
    }

    fn at(minute: u8) -> Created {
        created(&object("x", minute))
    }

    #[test]
    fn others_count_from_the_end_of_the_list_on() {
        let mut clusters = Clusters::new("demo".into());
        assert!(!clusters.take(Event::Init));
        assert!(!clusters.take(Event::InitApply(object("demo", 1))));
        assert!(!clusters.take(Event::InitApply(object("other", 2))));
        assert!(clusters.take(Event::InitDone));
        assert!(clusters.serves(None, at(1)) && !clusters.serves(None, at(3)));
        assert!(clusters.serves(Some("demo"), at(3)) && !clusters.serves(Some("other"), at(1)));
        // A status or a label.
        assert!(!clusters.take(Event::Apply(object("other", 2))));
        assert!(clusters.take(Event::Delete(object("other", 2))));
        assert!(clusters.serves(None, at(3)));
        assert!(clusters.take(Event::Apply(object("third", 4))));
        assert!(clusters.serves(None, at(3)) && !clusters.serves(None, at(5)));
    }

    #[test]
    fn the_own_cluster_is_there_as_long_as_the_agent() {
        let mut clusters = Clusters::new("demo".into());
        clusters.take(Event::Init);
        assert!(clusters.take(Event::InitDone));
        assert!(clusters.serves(None, at(1)) && clusters.serves(Some("demo"), at(1)));
        clusters.take(Event::Apply(object("demo", 1)));
        assert!(!clusters.take(Event::Delete(object("demo", 1))));
        clusters.take(Event::Apply(object("other", 2)));
        clusters.take(Event::Init);
        clusters.take(Event::InitApply(object("other", 2)));
        assert!(!clusters.take(Event::InitDone), "the same as before: ours and the other");
        assert!(clusters.serves(None, at(1)) && !clusters.serves(None, at(2)));
    }
}
