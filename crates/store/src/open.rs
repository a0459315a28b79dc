//! Opens a registry: the client of a bucket, or a directory.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};
use openlambda_config::registry::S3Config;

use crate::error::StoreError;

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for one request, which may carry a whole bundle.
const REQUEST: Duration = Duration::from_secs(120);
/// A request that failed is tried again so often, and for so long, at most.
const RETRIES: (usize, Duration) = (3, Duration::from_secs(10));
/// The access key, if the configuration has none.
const ACCESS_KEY: &str = "OPENLAMBDA_REGISTRY_ACCESS_KEY";
/// The secret key, likewise.
const SECRET_KEY: &str = "OPENLAMBDA_REGISTRY_SECRET_KEY";

/// The client of a bucket.
pub fn bucket(config: &S3Config, place: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let failed = |error| StoreError::of(place, error);
    // From the environment first, for the credentials: what is said here overrules the rest.
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(&config.bucket)
        .with_region(&config.region)
        .with_virtual_hosted_style_request(!config.path_style)
        .with_retry(retry())
        .with_client_options(options(config)?);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint).with_allow_http(endpoint.starts_with("http://"));
    }
    let own = (std::env::var(ACCESS_KEY).ok(), std::env::var(SECRET_KEY).ok());
    let keys = match (&config.keys, own) {
        (Some(keys), _) => Some((keys.access.clone(), keys.secret.expose().to_owned())),
        (None, (Some(access), Some(secret))) => Some((access, secret)),
        _ => None,
    };
    if let Some((access, secret)) = keys {
        // A session's token of the environment belongs to its keys, not to these.
        builder = builder.with_access_key_id(access).with_secret_access_key(secret);
        builder = builder.with_config(AmazonS3ConfigKey::Token, "");
    }
    let client = builder.build().map_err(failed)?;
    match config.prefix.is_empty() {
        true => Ok(Arc::new(client)),
        false => Ok(Arc::new(PrefixStore::new(client, config.prefix.as_str()))),
    }
}

fn options(config: &S3Config) -> Result<ClientOptions, StoreError> {
    let mut options = ClientOptions::new().with_connect_timeout(CONNECT).with_timeout(REQUEST);
    options = options.with_allow_http(config.endpoint.as_ref().is_some_and(|url| url.starts_with("http://")));
    if let Some(file) = &config.ca {
        let pem = fs::read(file).map_err(|error| StoreError::io(file, error))?;
        let wrong =
            |error| StoreError::io(file, std::io::Error::other(format!("no certificates in PEM: {error}")));
        for certificate in Certificate::from_pem_bundle(&pem).map_err(wrong)? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

fn retry() -> RetryConfig {
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 2.0,
    };
    RetryConfig { backoff, max_retries: RETRIES.0, retry_timeout: RETRIES.1 }
}

/// A directory, which is made if it is not there.
pub fn directory(path: &Path, place: &str) -> Result<Arc<dyn ObjectStore>, StoreError> {
    fs::create_dir_all(path).map_err(|error| StoreError::io(path, error))?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| StoreError::of(place, error))?;
    Ok(Arc::new(store.with_automatic_cleanup(true).with_fsync(true)))
}
