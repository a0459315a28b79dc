//! Keys of the original that choose between things of which there is only one here, or that mean nothing here.

use serde_json::Value;

use crate::section::Section;
use crate::values;

/// Checks them all. What cannot be served is refused with what there is instead; the rest is accepted.
pub(super) fn check(root: &mut Section<'_>) {
    root.optional("sandbox", sandbox);
    // The original hands this to the container's init, where nothing reads it.
    root.get("sandbox_config");
    root.optional("docker_runtime", values::text);
    root.optional("Skip_pull_existing", values::boolean);
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
