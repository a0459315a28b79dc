//! Why the registry does not do what was asked.

use std::error::Error as _;
use std::io;
use std::path::{Path, PathBuf};

use object_store::Error;
use openlambda_bundle::Digest;

/// What services say to who may not come in.
const DENIED: [&str; 4] = [
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
    "AccessDenied",
    // versitygw's, with status 404.
    "XAdminUserNotFound",
];

/// Why the registry does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or fails.
    #[error("the registry {place} cannot be used: {why}")]
    Unreachable {
        /// Which.
        place: String,
        /// What happened.
        why: String,
    },
    /// It refuses who asks.
    #[error(
        "the registry {place} refuses the access key or the secret key: give those that it was started with ({why})"
    )]
    Denied {
        /// Which.
        place: String,
        /// What it said.
        why: String,
    },
    /// It has another time than this machine.
    #[error(
        "the registry {place} refuses requests because its clock and this machine's differ too much: set the clocks ({why})"
    )]
    Skewed {
        /// Which.
        place: String,
        /// What it said.
        why: String,
    },
    /// There is no such bucket.
    #[error("the registry {0} does not exist: make the bucket, or correct its name")]
    NoBucket(String),
    /// An object that should be there is not.
    #[error("the registry {place} has no {key}")]
    Missing {
        /// Which.
        place: String,
        /// What it lacks.
        key: String,
    },
    /// It has another object under that key.
    #[error("{key} in the registry has the digest {found}, not {wanted}: upload it again")]
    Mismatch {
        /// The key.
        key: String,
        /// What it should be.
        wanted: Digest,
        /// What it is.
        found: Digest,
    },
    /// It is larger than bundles may be.
    #[error("{0} has more than {most} MiB; make the bundle smaller", most = openlambda_bundle::MAX_ARCHIVE >> 20)]
    TooLarge(String),
    /// The record of a handler cannot be understood.
    #[error("the record of the handler \"{handler}\" in the registry {place} cannot be read: {why}")]
    Record {
        /// Whose.
        handler: String,
        /// In which registry.
        place: String,
        /// Why.
        why: String,
    },
    /// There is no such handler.
    #[error("the registry has no handler \"{0}\": admin list shows those that it has")]
    NoHandler(String),
    /// There is no such revision.
    #[error("{0}")]
    NoRevision(String),
    /// Others changed the record again and again.
    #[error("the record of the handler \"{0}\" kept changing: try again")]
    Contended(String),
    /// A file of this machine cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl StoreError {
    /// A failure of this machine.
    pub fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Whether it may be over without anybody's doing.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Skewed { .. } | Self::Contended(_) | Self::Io { .. })
    }

    /// What a failed request means.
    pub(crate) fn of(place: &str, error: Error) -> Self {
        let (text, place) = (chain(&error), place.to_owned());
        if text.contains("NoSuchBucket") {
            return Self::NoBucket(place);
        }
        if text.contains("RequestTimeTooSkewed") {
            return Self::Skewed { place, why: said(&text) };
        }
        // Of a list the client does not tell a refusal from a failure.
        if DENIED.iter().any(|code| text.contains(&format!("<Code>{code}</Code>"))) {
            return Self::Denied { place, why: said(&text) };
        }
        match error {
            // A 404 with another reason says nothing of the object; without one it is that of a head.
            Error::NotFound { path, .. } if code(&text).is_none_or(|code| code == "NoSuchKey") => {
                Self::Missing { place, key: path }
            }
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Self::Denied { place, why: said(&text) }
            }
            _ => Self::Unreachable { place, why: said(&text) },
        }
    }
}

/// An error with its causes, each once: some repeat what is below them.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// What stands in the service's XML.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once(&format!("</{name}>"))?.0)
}

fn code(text: &str) -> Option<&str> {
    element(text, "Code")
}

/// What the service said, if that is in its XML; else all of it, on one line.
fn said(text: &str) -> String {
    match (code(text), element(text, "Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => text.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a service says in its XML, as the client hands it on.
    fn refused(code: &str) -> Error {
        let text =
            format!("Server returned 403: <Error><Code>{code}</Code><Message>no\nway</Message></Error>");
        Error::PermissionDenied { path: "handlers/h.json".into(), source: text.into() }
    }

    #[test]
    fn what_services_say_is_understood() {
        let of = |error| StoreError::of("s3://b", error);
        let denied = of(refused("SignatureDoesNotMatch"));
        assert!(matches!(denied, StoreError::Denied { .. }) && !denied.is_passing());
        assert!(denied.to_string().ends_with("(SignatureDoesNotMatch: no\nway)"), "{denied}");
        let skewed = of(refused("RequestTimeTooSkewed"));
        assert!(matches!(skewed, StoreError::Skewed { .. }) && skewed.is_passing());
        assert!(skewed.to_string().contains("set the clocks"), "{skewed}");
        assert!(matches!(of(refused("NoSuchBucket")), StoreError::NoBucket(_)));
        let text = "Server returned 403: <Error><Code>InvalidAccessKeyId</Code></Error>";
        let of_a_list = of(Error::Generic { store: "S3", source: text.into() });
        assert!(matches!(of_a_list, StoreError::Denied { .. }), "{of_a_list}");
        let missing = Error::NotFound { path: "a".into(), source: "gone".into() };
        assert!(matches!(of(missing), StoreError::Missing { .. }));
        let text = "<Error><Code>NoSuchAccount</Code></Error>";
        let about_who_asks = of(Error::NotFound { path: "a".into(), source: text.into() });
        assert!(matches!(about_who_asks, StoreError::Unreachable { .. }), "{about_who_asks}");
        let other = of(Error::Generic { store: "S3", source: "connection   refused\n".into() });
        assert!(other.is_passing() && other.to_string().contains("connection refused"), "{other}");
    }
}
