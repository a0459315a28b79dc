//! What a server says that somebody else has written: refusals, and TLS with a certificate of its own. Without one in the
//! environment there is nothing to ask; `cargo xtask test` has one (tests/cluster/s3).

use openlambda_config::registry::{Keys, Place, S3Config, Secret};
use openlambda_store::{Store, StoreError};

use crate::support::{foreign, name, variable};

async fn failed(config: S3Config) -> StoreError {
    let store = Store::open(&Place::S3(config)).unwrap();
    let (record, probe) = (store.record(&name("h")).await.unwrap_err(), store.probe().await.unwrap_err());
    // One asks for an object and the other for a list: they must not be told apart by what is wrong.
    assert_eq!(std::mem::discriminant(&record), std::mem::discriminant(&probe), "{record}\n{probe}");
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn its_refusals_are_understood() {
    let Some(config) = foreign("SERVER") else { return };
    let keys = config.keys.clone().unwrap();
    let wrong = Keys { secret: Secret::new("another-secret-key"), ..keys.clone() };
    let error = failed(S3Config { keys: Some(wrong), ..config.clone() }).await;
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    let unknown = Keys { access: "somebody-else".into(), ..keys };
    let error = failed(S3Config { keys: Some(unknown), ..config.clone() }).await;
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    let error = failed(S3Config { bucket: "nowhere".into(), ..config.clone() }).await;
    assert!(matches!(error, StoreError::NoBucket(_)), "{error}");
    Store::open(&Place::S3(config)).unwrap().probe().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_certificate_is_trusted_only_if_it_is_given() {
    let Some(config) = foreign("TLS_SERVER") else { return };
    let error = failed(config.clone()).await;
    assert!(error.is_passing() && error.to_string().to_lowercase().contains("certificate"), "{error}");
    let store =
        Store::open(&Place::S3(S3Config { ca: variable("CA").map(Into::into), ..config.clone() })).unwrap();
    store.probe().await.unwrap();
    assert_eq!(store.record(&name("nobody")).await.unwrap(), None);
    let error = Store::open(&Place::S3(S3Config { ca: Some("/no/such/file".into()), ..config })).unwrap_err();
    assert!(error.to_string().starts_with("/no/such/file"), "{error}");
}
