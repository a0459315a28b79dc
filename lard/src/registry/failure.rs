//! Which answer a failure gets.

use openlambda_api::Reason;
use openlambda_bundle::BundleError;
use openlambda_config::registry_api::{PlaceError, TokenError};
use openlambda_store::StoreError;

use crate::reply::Failure;

/// Why lard cannot take uploads.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It is not known where the registry is.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The registry cannot be opened.
    #[error("RegistryApi: {0}")]
    Store(#[from] StoreError),
}

/// Of a bundle: the client's fault, or this machine's.
pub fn of_bundle(error: &BundleError) -> Failure {
    if error.is_ours() {
        return Failure::new(Reason::Internal, format!("lard cannot keep what was sent: {error}"));
    }
    Failure::new(Reason::BadBundle, format!("the upload is refused: {error}"))
}

/// Of the registry.
pub fn of_store(error: &StoreError) -> Failure {
    let reason = match error {
        StoreError::Unreachable { .. } | StoreError::Skewed { .. } | StoreError::Contended(_) => {
            Reason::RegistryUnavailable
        }
        StoreError::NoHandler(_) => Reason::HandlerNotFound,
        StoreError::TooLarge(_) => Reason::PayloadTooLarge,
        StoreError::Io { .. } => Reason::Internal,
        _ => Reason::RegistryRefused,
    };
    Failure::new(reason, error.to_string())
}

/// Of the Kubernetes API server.
pub fn of_api(error: &kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if status.code == 429 || status.code >= 500 => {
            let message = format!("the Kubernetes API server does not do it now: {}", status.message);
            Failure::new(Reason::ApiServerUnavailable, message)
        }
        kube::Error::Api(status) => {
            let message = format!("the Kubernetes API server refuses: {}", status.message);
            Failure::new(Reason::ApiServerRefused, message)
        }
        kube::Error::SerdeError(error) => {
            Failure::new(Reason::ApiServerRefused, format!("the Handler cannot be read: {error}"))
        }
        other => {
            let message = format!("the Kubernetes API server does not answer: {other}");
            Failure::new(Reason::ApiServerUnavailable, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_server_that_is_away_and_one_that_refuses_are_told_apart() {
        let said = |code| {
            let status = kube::core::Status::failure("because", "Why").with_code(code).boxed();
            let failure = of_api(&kube::Error::Api(status));
            assert!(failure.message.contains("because"), "{}", failure.message);
            (failure.reason.status(), failure.retry_after.is_some())
        };
        for code in [429, 500, 503, 504] {
            assert_eq!(said(code), (503, true), "{code}");
        }
        for code in [400, 403, 422] {
            assert_eq!(said(code), (502, false), "{code}");
        }
        let away = of_api(&kube::Error::Service("connection refused".into()));
        assert_eq!((away.reason.status(), away.retry_after.is_some()), (503, true));
    }

    #[test]
    fn a_registry_that_is_away_and_one_that_refuses_are_told_apart() {
        let (place, why) = ("s3://b".to_owned(), "no".to_owned());
        let away = of_store(&StoreError::Unreachable { place: place.clone(), why: why.clone() });
        assert_eq!((away.reason.status(), away.retry_after.is_some()), (503, true));
        assert_eq!(of_store(&StoreError::Denied { place, why }).reason.status(), 502);
        assert_eq!(of_store(&StoreError::NoBucket("b".into())).reason.status(), 502);
        assert_eq!(of_bundle(&BundleError::Invalid("is empty".into())).reason.status(), 400);
        let full = BundleError::io(std::path::Path::new("/tmp/x"), std::io::ErrorKind::StorageFull.into());
        assert_eq!(of_bundle(&full).reason.status(), 500);
    }
}
