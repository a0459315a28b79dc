//! Keys of the original that choose between things of which there is only one here, or that mean nothing here.

use serde_json::Value;

use crate::section::Section;
use crate::values;

/// Checks them all. What cannot be served is refused with what there is instead; the rest is accepted.
pub(super) fn check(root: &mut Section<'_>) {
    root.optional("registry", registry);
    root.optional("sandbox", sandbox);
    for key in ["registry_server", "registry_access_key", "registry_secret_key"] {
        remote_only(root, key);
    }
    // The original hands this to the container's init, where nothing reads it.
    root.get("sandbox_config");
    root.optional("docker_runtime", values::text);
    root.optional("Skip_pull_existing", values::boolean);
}

fn registry(value: &Value) -> Result<(), String> {
    match value.as_str() {
        Some("local") => Ok(()),
        Some("remote") => {
            Err("there is no remote registry yet: use \"local\", and put handlers into registry_dir \
                               as <handler>/lambda_func.py"
                .to_owned())
        }
        _ => Err("must be \"local\"".to_owned()),
    }
}

fn sandbox(value: &Value) -> Result<(), String> {
    match value.as_str() {
        Some("sock") => Ok(()),
        Some("docker") => {
            Err("there are no Docker sandboxes here, only \"sock\", which needs no Docker: run \
                               admin setconf '{\"sandbox\": \"sock\", \"SOCK_base_path\": \"host\"}'"
                .to_owned())
        }
        _ => Err("must be \"sock\"".to_owned()),
    }
}

/// A key of the remote registry: only empty until there is one. The value stays out of the message: it may be a secret.
fn remote_only(root: &mut Section<'_>, key: &'static str) {
    let empty = root.get(key).is_none_or(|value| value.as_str() == Some(""));
    if !empty {
        root.blame(key, None, "there is no remote registry yet: remove the key, or set it to \"\"");
    }
}
