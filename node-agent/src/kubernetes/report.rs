//! What the agent has of each handler, for whoever asks at the admin port.

use std::collections::BTreeMap;

use openlambda_api::state::{Packages, RegistryState, Serving};
use openlambda_api::{AgentState, HandlerState, Phase};
use parking_lot::Mutex;

use crate::bundles::Bundle;
use crate::packages::Record;
use crate::trouble::Trouble;

/// The state document.
#[derive(Debug, Default)]
pub struct Report {
    handlers: Mutex<BTreeMap<String, HandlerState>>,
    registry: Mutex<Option<RegistryState>>,
}

impl Report {
    /// The document as it is now.
    pub fn state(&self) -> AgentState {
        AgentState {
            handlers: self.handlers.lock().values().cloned().collect(),
            excluded: Vec::new(),
            registry: self.registry.lock().clone(),
        }
    }

    /// Whether the registry answers.
    pub fn registry(&self, state: RegistryState) {
        *self.registry.lock() = Some(state);
    }

    /// A generation is being made ready.
    pub fn pending(&self, name: &str, generation: i64, serving: Option<Serving>) {
        self.put(HandlerState { serving, ..state(name, generation, Phase::Pending) });
    }

    /// A generation serves. Without a bundle: all calls go to former revisions.
    pub fn ready(&self, name: &str, generation: i64, bundle: Option<&Bundle>, packages: Option<&Record>) {
        let packages = packages.map(|record| Packages {
            requirements: record.requirements.clone(),
            locked: record.locked.clone(),
        });
        let digest = bundle.map(digest).unwrap_or_default();
        self.put(HandlerState { digest, packages, ..state(name, generation, Phase::Ready) });
    }

    /// A generation cannot serve.
    pub fn failed(&self, name: &str, generation: i64, trouble: &Trouble, serving: Option<Serving>) {
        self.put(HandlerState {
            reason: trouble.reason.to_string(),
            message: trouble.message.clone(),
            serving,
            ..state(name, generation, Phase::Failed)
        });
    }

    /// There is no such handler any more.
    pub fn remove(&self, name: &str) {
        self.handlers.lock().remove(name);
    }

    fn put(&self, state: HandlerState) {
        self.handlers.lock().insert(state.name.clone(), state);
    }
}

/// The digest of a bundle as it stands in documents.
pub fn digest(bundle: &Bundle) -> String {
    format!("sha256:{}", bundle.digest)
}

fn state(name: &str, generation: i64, state: Phase) -> HandlerState {
    HandlerState {
        name: name.to_owned(),
        generation,
        digest: String::new(),
        state,
        reason: String::new(),
        message: String::new(),
        packages: None,
        serving: None,
    }
}
