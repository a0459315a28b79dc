//! Why a handler cannot be made ready: for its status, and for who calls it meanwhile.

use std::time::Duration;

use openlambda_api::Reason;
use openlambda_api::conditions::ConditionReason;
use openlambda_bundle::BundleError;
use openlambda_bundle::tree::TreeError;

use crate::packages::PackageError;
use crate::reply::Failure;

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

    /// The same, of a part of the handler.
    pub fn of(self, part: &str) -> Self {
        Self { message: format!("{part}: {}", self.message), ..self }
    }

    /// Whether it says nothing about the handler: it may well be ready on another node.
    pub fn is_about_us(&self) -> bool {
        use ConditionReason::{AgentFailed, DiskFull, FetchFailed, IndexUnreachable, InstallFailed};
        self.passing
            && matches!(self.reason, AgentFailed | DiskFull | FetchFailed | IndexUnreachable | InstallFailed)
    }

    /// What callers are told while nothing else serves.
    pub fn failure(&self) -> Failure {
        let message = || format!("the handler is not ready: {self}");
        match &self.failure {
            Some(failure) => (**failure).clone(),
            None if self.is_about_us() => {
                Failure::agent(Reason::NoCapacity, message()).after(Duration::from_secs(1))
            }
            None => Failure::agent(Reason::ImportFailed, message()),
        }
    }
}

impl From<PackageError> for Trouble {
    fn from(error: PackageError) -> Self {
        let message = format!("the handler is not ready: {error}");
        let mut failure = Failure::agent(Reason::InstallFailed, message);
        if error.passing {
            failure = failure.after(Duration::from_secs(1));
        }
        let PackageError { reason, message, passing } = error;
        Self { reason, message, passing, failure: Some(Box::new(failure)) }
    }
}

/// Of a task or a semaphore that is gone, as at the worker's end.
pub fn closed(error: impl std::fmt::Display) -> Trouble {
    Trouble::passing(ConditionReason::AgentFailed, format!("the agent could not go on: {error}"))
}

impl From<BundleError> for Trouble {
    fn from(error: BundleError) -> Self {
        if error.is_ours() {
            Self::passing(ConditionReason::AgentFailed, error.to_string())
        } else {
            Self::lasting(ConditionReason::InvalidSource, error.to_string())
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
