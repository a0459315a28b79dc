//! The state document of an agent: what it has of each handler. `GET /debug/handlers` at its admin port; the operator
//! makes the status of Handlers from it.

use serde::{Deserialize, Serialize};

/// The path of the document.
pub const STATE_PATH: &str = "/debug/handlers";

/// What an agent has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AgentState {
    /// The handlers that it knows, one entry each.
    pub handlers: Vec<HandlerState>,
    /// Packages that no Zygote of it holds, as they broke one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<Excluded>,
    /// Whether its registry answers; none if it has none, or has not asked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistryState>,
}

/// Whether an agent's registry answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistryState {
    /// Where it is.
    pub place: String,
    /// Why it cannot be used: the name of a [`crate::conditions::ConditionReason`]; empty if it can.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A package that handlers import themselves, whatever the import cache has room for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Excluded {
    /// `name==version`.
    pub package: String,
    /// In a word: `crashes`, `hangs`, `threads`, …
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What an agent has of one handler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandlerState {
    /// The handler's name.
    pub name: String,
    /// The generation of the spec that `state` is about.
    pub generation: i64,
    /// The digest of that revision's code; empty while it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// How far that generation is.
    pub state: Phase,
    /// Why it failed: the name of a [`crate::conditions::ConditionReason`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why it failed, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What its requirements were resolved to, if it has any and that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<Packages>,
    /// What answers calls meanwhile, if that is another revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<Serving>,
}

/// What requirements were resolved to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Packages {
    /// The digest of the requirements.
    pub requirements: String,
    /// `name==version`, one each, by name.
    pub locked: Vec<String>,
}

/// How far a generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It serves.
    Ready,
    /// It cannot serve, and will not without a change.
    Failed,
    /// It is being made ready.
    Pending,
}

/// A revision that answers calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// The generation of its spec.
    pub generation: i64,
    /// The digest of its code.
    pub digest: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_that_an_agent_may_say() {
        let text = r#"{"handlers":[{"name":"a","generation":2,"state":"Failed","reason":"ImportFailed","message":"m"}]}"#;
        let state: AgentState = serde_json::from_str(text).unwrap();
        assert_eq!((state.handlers[0].state, state.handlers[0].serving.as_ref()), (Phase::Failed, None));
        assert_eq!(serde_json::to_string(&state).unwrap(), text);
    }
}
