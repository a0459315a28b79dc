//! Whether the cluster's registry answers, for the status of the LambdaCluster: it is asked now and then. No handler
//! waits for it, and what serves goes on to serve whatever it says.

use std::sync::Arc;
use std::time::Duration;

use openlambda_api::conditions::ConditionReason;
use openlambda_api::state::RegistryState;
use openlambda_store::{Store, StoreError};

use super::report::Report;

/// Between two looks at one that answers. Each costs a request for a list.
const WELL: Duration = Duration::from_secs(30);
/// Between two looks at one that does not.
const BADLY: Duration = Duration::from_secs(5);
/// An answer takes so long at most, the store's own tries included.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Asks for ever.
pub async fn watch(store: Store, report: Arc<Report>) {
    loop {
        let answer = tokio::time::timeout(ANSWER_WITHIN, store.probe()).await;
        let state = match answer {
            Ok(Ok(())) => state(&store, None, String::new()),
            Ok(Err(error)) => state(&store, Some(reason(&error)), error.to_string()),
            Err(_) => {
                let message =
                    format!("the registry {} does not answer within {ANSWER_WITHIN:?}", store.place());
                state(&store, Some(ConditionReason::RegistryUnreachable), message)
            }
        };
        let pause = if state.reason.is_empty() { WELL } else { BADLY };
        report.registry(state);
        tokio::time::sleep(pause).await;
    }
}

fn state(store: &Store, reason: Option<ConditionReason>, message: String) -> RegistryState {
    let reason = reason.map(|reason| reason.to_string()).unwrap_or_default();
    RegistryState { place: store.place().to_owned(), reason, message }
}

fn reason(error: &StoreError) -> ConditionReason {
    match error {
        StoreError::Denied { .. } => ConditionReason::RegistryDenied,
        StoreError::NoBucket(_) => ConditionReason::BucketNotFound,
        StoreError::Skewed { .. } => ConditionReason::ClockSkewed,
        _ => ConditionReason::RegistryUnreachable,
    }
}

#[cfg(test)]
mod tests {
    use openlambda_config::registry::{Keys, Place, S3Config, Secret};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// An S3 service that answers everything with an error of this code, or, without one, with an empty list.
    async fn service(status: &'static str, code: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                let body = match code {
                    "" => "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>".to_owned(),
                    code => format!("<Error><Code>{code}</Code><Message>no</Message></Error>"),
                };
                let head =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close", body.len());
                let _ = stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await;
            }
        });
        url
    }

    fn store(endpoint: String) -> Store {
        let keys = Keys { access: "access".into(), secret: Secret::new("secret") };
        Store::open(&Place::S3(S3Config {
            endpoint: Some(endpoint),
            region: "us-east-1".into(),
            bucket: "registry".into(),
            prefix: String::new(),
            path_style: true,
            ca: None,
            keys: Some(keys),
        }))
        .unwrap()
    }

    async fn said(endpoint: String) -> RegistryState {
        let report = Arc::new(Report::default());
        let watching = tokio::spawn(watch(store(endpoint), Arc::clone(&report)));
        loop {
            if let Some(state) = report.state().registry {
                watching.abort();
                return state;
            }
            // Between two looks: the watch has a task of its own.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn what_a_registry_says_is_told_apart() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let well = said(service("200 OK", "").await).await;
        assert_eq!(well.reason, "", "{well:?}");
        for (code, reason) in [
            ("SignatureDoesNotMatch", "RegistryDenied"),
            ("InvalidAccessKeyId", "RegistryDenied"),
            ("AccessDenied", "RegistryDenied"),
            ("RequestTimeTooSkewed", "ClockSkewed"),
        ] {
            let state = said(service("403 Forbidden", code).await).await;
            assert_eq!(state.reason, reason, "{state:?}");
            assert!(state.message.contains(code) && state.message.contains(&state.place), "{state:?}");
        }
        let state = said(service("404 Not Found", "NoSuchBucket").await).await;
        assert_eq!(state.reason, "BucketNotFound", "{state:?}");
        let state = said("http://127.0.0.1:1".to_owned()).await;
        assert_eq!(state.reason, "RegistryUnreachable", "{state:?}");
        assert!(state.message.contains("http://127.0.0.1:1"), "{state:?}");
    }
}
