//! Why a handler cannot be made ready: for its status, and for who calls it meanwhile.

use openlambda_api::conditions::ConditionReason;
use openlambda_api::{Component, Reason};

use crate::reply::Failure;
use crate::tree::TreeError;

/// Why a handler cannot be made ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Trouble {
    /// The reason for the status.
    pub reason: ConditionReason,
    /// What is wrong, where, and what to do.
    pub message: String,
    /// Whether it may be over without an edit, so that it is tried again.
    pub passing: bool,
    /// What callers are told, if that is more than the message.
    failure: Option<Box<Failure>>,
}

impl Trouble {
    /// One that stays until the handler is edited.
    pub fn lasting(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), passing: false, failure: None }
    }

    /// One that may be over by itself.
    pub fn passing(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self { passing: true, ..Self::lasting(reason, message) }
    }

    /// Code that cannot be loaded.
    pub fn code(failure: Failure) -> Self {
        let message = failure.message.clone();
        Self { failure: Some(Box::new(failure)), ..Self::lasting(ConditionReason::ImportFailed, message) }
    }

    /// What callers are told while nothing else serves.
    pub fn failure(&self) -> Failure {
        match &self.failure {
            Some(failure) => Failure { reason: Reason::ImportFailed, ..(**failure).clone() },
            None => {
                let message = format!("the handler is not ready: {self}");
                Failure::new(Component::Agent, Reason::ImportFailed, message)
            }
        }
    }
}

impl From<TreeError> for Trouble {
    fn from(error: TreeError) -> Self {
        if error.is_ours() {
            Self::passing(ConditionReason::AgentFailed, error.to_string())
        } else {
            Self::lasting(ConditionReason::InvalidSource, error.to_string())
        }
    }
}
