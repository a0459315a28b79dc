//! Why packages cannot be had.

use openlambda_api::conditions::ConditionReason;

/// Why the packages of a handler cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct PackageError {
    /// The reason for the handler's status.
    pub reason: ConditionReason,
    /// What is wrong and what to do.
    pub message: String,
    /// Whether it may be over without an edit.
    pub passing: bool,
}

impl PackageError {
    /// One that stays until the handler is edited, or the index is.
    pub fn lasting(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), passing: false }
    }

    /// One that may be over by itself.
    pub fn passing(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self { passing: true, ..Self::lasting(reason, message) }
    }

    /// A failure of this node that has no name of its own.
    pub fn ours(message: impl Into<String>) -> Self {
        Self::passing(ConditionReason::InstallFailed, message)
    }

    /// A file operation that failed; a full disk has its own reason.
    pub fn io(step: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let message = format!("{step} {}: {error}", path.display());
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Self::passing(ConditionReason::DiskFull, message)
            }
            _ => Self::ours(message),
        }
    }
}
