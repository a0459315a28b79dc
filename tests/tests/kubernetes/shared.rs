//! The release that tests share which disturb nothing. It stays until the cluster goes.

use std::sync::OnceLock;

use anyhow::{Result, anyhow};
use openlambda_tests::kubernetes::Release;
use serde_json::json;

/// The code of the smallest Handler.
pub const HELLO: &str = "def handler(event):\n    return \"Hello, %s!\" % event[\"name\"]\n";
/// The host of the shared release's Ingress.
pub const HOST: &str = "functions.example.com";

static SHARED: OnceLock<std::result::Result<Release, String>> = OnceLock::new();

/// It, installed by the first that asks.
pub fn release() -> Result<&'static Release> {
    let spec = json!({"ingress": {"className": "traefik", "host": HOST}});
    let release = SHARED.get_or_init(|| Release::install_with("shared", &spec).map_err(|e| format!("{e:#}")));
    release.as_ref().map_err(|error| anyhow!("the shared release: {error}"))
}

/// The code of a handler that answers with a constant.
pub fn constant(answer: &str) -> String {
    format!("def handler(event):\n    return {answer:?}\n")
}
