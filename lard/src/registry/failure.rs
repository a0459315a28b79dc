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

#[cfg(test)]
mod tests {
    use super::*;

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
