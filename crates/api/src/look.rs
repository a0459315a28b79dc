//! What a worker that was told to look at the registry (`POST /registry/<handler>` at its admin port) says of it, and
//! whether that is what was wanted.

use std::time::Duration;

use serde_json::Value;

use crate::name::HandlerName;

/// What every worker is to have.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// A bundle of this digest.
    Serves(&'a str),
    /// Nothing.
    Gone,
}

/// What a worker said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has what it should have.
    Well(String),
    /// It has not.
    Badly(String),
}

impl Said {
    /// Whether it has what it should have.
    pub fn is_well(&self) -> bool {
        matches!(self, Self::Well(_))
    }

    /// The words.
    pub fn text(&self) -> &str {
        match self {
            Self::Well(text) | Self::Badly(text) => text,
        }
    }
}

/// Where a worker is told.
pub fn path(handler: &HandlerName) -> String {
    format!("/registry/{}", handler.as_str())
}

/// Reads an answer that came after a time.
pub fn said(status: u16, body: &[u8], wanted: Wanted<'_>, took: Duration) -> Said {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    match (text("state"), wanted) {
        ("Ready", Wanted::Serves(digest)) if text("digest") == digest => {
            Said::Well(format!("serves it after {} ms", took.as_millis()))
        }
        ("Ready", _) => Said::Badly(format!(
            "serves revision {} ({}) instead: somebody else was faster, or it has another registry",
            answer["revision"],
            text("digest")
        )),
        ("Missing", Wanted::Gone) => Said::Well("has it no more".to_owned()),
        ("Missing", Wanted::Serves(_)) => Said::Badly(
            "finds no such handler: it has another registry; end it and start it again".to_owned(),
        ),
        ("Failed", _) => Said::Badly(format!("keeps what it had: {}: {}", text("reason"), text("message"))),
        _ => Said::Badly(format!(
            "takes its handlers from elsewhere than the registry (status {status}): admin kill, then admin workers"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_say_is_told() {
        let took = Duration::from_millis(41);
        let told = |status, body: &str, wanted| match said(status, body.as_bytes(), wanted, took) {
            Said::Well(text) => format!("well: {text}"),
            Said::Badly(text) => format!("badly: {text}"),
        };
        let ready = r#"{"state": "Ready", "revision": 3, "digest": "sha256:a"}"#;
        assert_eq!(told(200, ready, Wanted::Serves("sha256:a")), "well: serves it after 41 ms");
        assert!(
            told(200, ready, Wanted::Serves("sha256:b")).starts_with("badly: serves revision 3 (sha256:a)")
        );
        let missing = r#"{"state": "Missing"}"#;
        assert_eq!(told(404, missing, Wanted::Gone), "well: has it no more");
        assert!(told(404, missing, Wanted::Serves("x")).starts_with("badly: finds no such handler"));
        let failed = r#"{"state": "Failed", "reason": "ImportFailed", "message": "line 3"}"#;
        assert_eq!(told(200, failed, Wanted::Gone), "badly: keeps what it had: ImportFailed: line 3");
        assert!(told(404, "", Wanted::Gone).contains("from elsewhere"));
    }
}
