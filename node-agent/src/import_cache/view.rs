//! The tree for those who look.

use std::collections::HashMap;

use openlambda_api::state::Excluded;
use openlambda_policy::import_cache::{NodeId, NodeState};
use serde_json::{Value, json};

use super::{ImportCache, Mark};

impl ImportCache {
    /// The packages that are in no Zygote.
    pub fn excluded(&self) -> Vec<Excluded> {
        let state = self.state.lock();
        let told = |(folder, mark): (&String, &Mark)| {
            // A version has no hyphen.
            let (name, version) = folder.rsplit_once('-')?;
            Some(Excluded {
                package: format!("{name}=={version}"),
                reason: mark.reason.clone(),
                message: mark.message.clone(),
            })
        };
        state.marked.iter().filter_map(told).collect()
    }

    /// Everything there is to see, as JSON.
    pub fn view(&self) -> Value {
        let state = self.state.lock();
        let views = state.policy.view();
        let own: HashMap<NodeId, &[u32]> =
            views.iter().map(|view| (view.id, view.packages.as_slice())).collect();
        let nodes: Vec<_> = views
            .iter()
            .map(|view| {
                let inherited = own.get(&view.parent).copied().unwrap_or_default();
                let added =
                    view.packages.iter().filter(|id| view.id == view.parent || !inherited.contains(id));
                let added: Vec<_> = added.map(|id| state.names.folder(*id)).collect();
                let live = state.live.get(&view.id);
                json!({
                    "id": view.id,
                    "parent": (view.id != view.parent).then_some(view.parent),
                    "packages": added,
                    "state": match (view.state, live) {
                        (NodeState::Creating, _) => "creating",
                        (NodeState::Ready, Some(_)) => "ready",
                        (NodeState::Ready, None) => "down",
                    },
                    "memory_bytes": view.bytes,
                    "import_ms": view.micros as f64 / 1000.0,
                    "forks": view.hits,
                    "processes": live.map_or(0, |node| node.zygotes.len()),
                    "spares": live.map_or(0, |node| node.spares.len()),
                })
            })
            .collect();
        let costs: Vec<_> = own.values().flat_map(|ids| ids.iter().copied()).collect();
        let costs: std::collections::BTreeMap<_, _> = costs
            .into_iter()
            .filter_map(|id| {
                let cost = state.policy.cost(id)?;
                let value = json!({"import_ms": cost.micros as f64 / 1000.0, "memory_bytes": cost.bytes});
                Some((state.names.folder(id), value))
            })
            .collect();
        json!({
            "budget_bytes": self.budget,
            "memory_bytes": state.policy.bytes(),
            "nodes": nodes,
            "costs": costs,
            "excluded": state.marked,
        })
    }
}
