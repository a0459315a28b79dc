//! Pieces of schema: texts with a form, and rules with messages that a user understands.
//!
//! Whatever a rule says is checked by the API server; `crates/config` reads the texts.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::limits::TIMEOUT_MAX;

const SIZE: &str = r"^[0-9]{1,15}(\\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|k|M|G|T)?$";
const DURATION: &str = r"^([0-9]{1,9}(\\.[0-9]{1,3})?(h|m|s|ms))+$";
const SIZE_MESSAGE: &str = "must be a size such as 64Mi, 512Mi or 4Gi";
const DURATION_MESSAGE: &str = "must be a duration such as 500ms, 30s or 1m30s";

/// The value of `x-kubernetes-validations`: CEL rules, each with its message.
pub(crate) fn rules(list: &[(&str, &str)]) -> Value {
    list.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect()
}

macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident = $schema:path;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The text as the user wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                $schema(generator)
            }
        }
    )*};
}

texts! {
    /// An amount of bytes as a Kubernetes quantity, such as `512Mi`.
    ByteSize = size;
    /// A span of time as Go writes it, such as `1m30s`.
    Span = duration;
    /// The digest of a bundle: `sha256:` and 64 hexadecimal digits.
    Digest = digest;
}

fn text(max: u32, list: &[(&str, &str)]) -> Schema {
    json_schema!({"type": "string", "maxLength": max, "x-kubernetes-validations": rules(list)})
}

fn matches(pattern: &str) -> String {
    format!("self.matches('{pattern}')")
}

/// A size between two others; the form is a rule of its own, so that a malformed one gets one message.
fn size_between(min: &str, max: &str, message: &str) -> Schema {
    let form = matches(SIZE);
    let bounds = format!(
        "!{form} || (quantity(self).compareTo(quantity('{min}')) >= 0 && quantity(self).compareTo(quantity('{max}')) <= 0)"
    );
    text(20, &[(&form, SIZE_MESSAGE), (&bounds, message)])
}

fn duration_between(min: &str, max: &str, message: &str) -> Schema {
    let form = matches(DURATION);
    let bounds =
        format!("!{form} || (duration(self) >= duration('{min}') && duration(self) <= duration('{max}'))");
    text(32, &[(&form, DURATION_MESSAGE), (&bounds, message)])
}

pub(crate) fn size(_: &mut SchemaGenerator) -> Schema {
    text(20, &[(&matches(SIZE), SIZE_MESSAGE)])
}

pub(crate) fn duration(_: &mut SchemaGenerator) -> Schema {
    text(32, &[(&matches(DURATION), DURATION_MESSAGE)])
}

/// The memory of a sandbox.
pub(crate) fn memory(_: &mut SchemaGenerator) -> Schema {
    size_between("16Mi", "1Ti", "must be between 16Mi, below which Python does not start, and 1Ti")
}

/// Memory of all sandboxes of a node.
pub(crate) fn memory_pool(_: &mut SchemaGenerator) -> Schema {
    size_between("256Mi", "64Ti", "must be between 256Mi and 64Ti")
}

/// The volume of a registry.
pub(crate) fn volume(_: &mut SchemaGenerator) -> Schema {
    size_between("64Mi", "64Ti", "must be between 64Mi and 64Ti")
}

/// The longest body of a request or a response.
pub(crate) fn body(_: &mut SchemaGenerator) -> Schema {
    size_between("1", "1Gi", "must be between 1 byte and 1Gi")
}

/// What may be written to scratch directories.
pub(crate) fn scratch(_: &mut SchemaGenerator) -> Schema {
    size_between("4Ki", "1Ti", "must be between 4Ki and 1Ti")
}

/// The time of one call.
pub(crate) fn timeout(_: &mut SchemaGenerator) -> Schema {
    let hours = TIMEOUT_MAX.as_secs() / 3600;
    duration_between("1ms", &format!("{hours}h"), &format!("must be between 1ms and {hours}h"))
}

/// Time that something is kept or waited for.
pub(crate) fn wait(_: &mut SchemaGenerator) -> Schema {
    duration_between("1ms", "720h", "must be between 1ms and 720h")
}

/// Cores: `2`, `"0.5"` or `500m`.
pub(crate) fn cpu(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "maxLength": 12,
        "x-kubernetes-validations": rules(&[(
            "type(self) == int ? (int(self) >= 1 && int(self) <= 1024) : \
             string(self).matches('^([1-9][0-9]{0,6}m|[0-9]{1,4}\\\\.[0-9]{1,3}|[1-9][0-9]{0,3})$')",
            "must be a number of cores such as 1, \"0.5\" or 500m",
        )]),
    })
}

/// Resources of a pod: any name, amounts as Kubernetes has them.
pub(crate) fn amounts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "pattern": "^[0-9]+(\\.[0-9]+)?(m|Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$",
        },
    })
}

/// A number or a percentage.
pub(crate) fn number_or_percent(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-int-or-string": true, "minimum": 0, "pattern": "^[0-9]{1,3}%$"})
}

pub(crate) fn digest(_: &mut SchemaGenerator) -> Schema {
    text(
        71,
        &[(
            "self.matches('^sha256:[0-9a-f]{64}$')",
            "must be sha256: and 64 hexadecimal digits in lower case",
        )],
    )
}

/// `module.function`, also of a module in a package.
pub(crate) fn entrypoint(_: &mut SchemaGenerator) -> Schema {
    text(
        200,
        &[(
            r"self.matches('^[A-Za-z_][A-Za-z0-9_]*(\\.[A-Za-z_][A-Za-z0-9_]*)+$')",
            "must be MODULE.FUNCTION, such as lambda_func.handler",
        )],
    )
}

/// The name of an object that a Kubernetes reference points to.
pub(crate) fn object_name(_: &mut SchemaGenerator) -> Schema {
    text(
        253,
        &[(
            r"self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
            "must be the name of an object: lower case letters, digits, '-' and '.'",
        )],
    )
}

/// A key of a Secret or ConfigMap.
pub(crate) fn data_key(_: &mut SchemaGenerator) -> Schema {
    text(253, &[(r"self.matches('^[-._a-zA-Z0-9]+$')", "must be a key of letters, digits, '-', '_' and '.'")])
}

/// The name of an environment variable.
pub(crate) fn variable(_: &mut SchemaGenerator) -> Schema {
    text(
        256,
        &[(
            r"self.matches('^[A-Za-z_][A-Za-z0-9_.-]*$')",
            "must be a variable's name: letters, digits, '_', '-' and '.', not beginning with a digit",
        )],
    )
}

/// An `http` or `https` URL.
pub(crate) fn url(_: &mut SchemaGenerator) -> Schema {
    text(
        2048,
        &[(
            r"self.matches('^https?://[^/?#@ ]+([/?][^ #]*)?$')",
            "must be an http:// or https:// URL without user, password and fragment",
        )],
    )
}

/// A directory of the node.
pub(crate) fn host_path(_: &mut SchemaGenerator) -> Schema {
    text(
        512,
        &[
            (r"self.matches('^/[^/]')", "must be an absolute path below /"),
            (r"!self.split('/').exists(part, part == '..')", "must not contain .."),
        ],
    )
}

/// A host name of an Ingress; a wildcard in front is allowed.
pub(crate) fn host_name(_: &mut SchemaGenerator) -> Schema {
    text(
        253,
        &[(
            r"self.matches('^(\\*\\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$')",
            "must be a host name without scheme, port and path, such as functions.example.com",
        )],
    )
}

/// Lines of a requirements list.
pub(crate) fn requirements(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 256,
        "x-kubernetes-list-type": "set",
        "items": {
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "x-kubernetes-validations": rules(&[(
                "!self.startsWith('-') && !self.contains('\\n')",
                "must be one requirement such as pandas==2.2.3; options (-r, -e, --index-url) are not taken",
            )]),
        },
    })
}

/// Files by name.
pub(crate) fn files(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 256,
        "additionalProperties": {"type": "string", "maxLength": 1_048_576},
        "x-kubernetes-validations": rules(&[(
            "self.all(name, name != '' && name.size() <= 200 && !name.startsWith('/') && !name.startsWith('../'))",
            "names of files must be relative, at most 200 characters and must not lead out of the handler's folder",
        )]),
    })
}
