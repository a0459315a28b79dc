//! The body of every error that is OpenLambda's own: `{component, reason, message, requestId}`.
//!
//! A handler's own error uses the same shape with component `function`, plus `errorType` and `traceback`.

use serde::{Deserialize, Serialize};

/// The part that gives the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// lard.
    Balancer,
    /// The node-agent.
    Agent,
    /// The sandbox around the handler.
    Sandbox,
    /// The handler's own code.
    Function,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $status:literal $text:literal;)*) => {
        /// Why a call failed: a closed set, so that it may label metrics. The status belongs to the reason.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* #[serde(rename = $text)] $name,)* }
        impl Reason {
            /// All reasons, for tables and tests.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];
            /// The HTTP status that goes with the reason.
            pub const fn status(self) -> u16 { match self { $(Reason::$name => $status,)* } }
            /// The reason as it stands in the body and in metric labels.
            pub const fn as_str(self) -> &'static str { match self { $(Reason::$name => $text,)* } }
        }
    };
}

reasons! {
    /// The body is no JSON.
    BadEvent 400 "bad_event";
    /// The path names no valid handler.
    BadName 400 "bad_name";
    /// A header or the request itself is malformed.
    BadRequest 400 "bad_request";
    /// What was uploaded is no bundle that could serve.
    BadBundle 400 "bad_bundle";
    /// Who asks has not said who it is, or may not.
    Unauthorized 401 "unauthorized";
    /// No such handler.
    HandlerNotFound 404 "handler_not_found";
    /// No such path.
    NotFound 404 "not_found";
    /// The verb is not allowed on this path.
    MethodNotAllowed 405 "method_not_allowed";
    /// The client did not send its request in time.
    RequestTimeout 408 "request_timeout";
    /// What is there stands in the way: it is somebody else's, or of another kind.
    Conflict 409 "conflict";
    /// The body is over the limit.
    PayloadTooLarge 413 "payload_too_large";
    /// The handler's concurrency or queue is full.
    ConcurrencyExceeded 429 "concurrency_exceeded";
    /// The handler raised, or gave back what is no JSON.
    FunctionError 500 "function_error";
    /// The handler's code cannot be loaded.
    ImportFailed 500 "import_failed";
    /// The handler's packages cannot be installed; the message begins with the reason.
    InstallFailed 500 "install_failed";
    /// The handler's process ended during the call, or broke its protocol.
    FunctionCrashed 500 "function_crashed";
    /// The handler was killed for its memory limit.
    OutOfMemory 500 "out_of_memory";
    /// The handler's answer is over the limit.
    ResponseTooLarge 500 "response_too_large";
    /// The agent itself failed.
    Internal 500 "internal";
    /// The agent went away during the call.
    AgentUnreachable 502 "agent_unreachable";
    /// The registry answers, and not with what was asked for: it refuses the keys, or lacks what it should have.
    RegistryRefused 502 "registry_refused";
    /// The Kubernetes API server refuses.
    ApiServerRefused 502 "api_server_refused";
    /// The registry is away.
    RegistryUnavailable 503 "registry_unavailable";
    /// The Kubernetes API server is away.
    ApiServerUnavailable 503 "api_server_unavailable";
    /// No agent, or no memory on the node.
    NoCapacity 503 "no_capacity";
    /// The agent is shutting down; another may be tried.
    Draining 503 "draining";
    /// The handler ran over its time limit, or waited too long in a queue.
    FunctionTimeout 504 "function_timeout";
}

/// An error as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// Who answers.
    pub component: Component,
    /// Why.
    pub reason: Reason,
    /// What happened, to which thing, and what to do about it.
    pub message: String,
    /// The call's id; empty only where none could be given.
    pub request_id: String,
    /// The type of the handler's exception.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    /// The handler's traceback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
}

impl ErrorBody {
    /// An error of OpenLambda's own.
    pub fn new(
        component: Component,
        reason: Reason,
        message: impl Into<String>,
        request_id: impl Into<String>,
    ) -> Self {
        Self {
            component,
            reason,
            message: message.into(),
            request_id: request_id.into(),
            error_type: None,
            traceback: None,
        }
    }

    /// The body's bytes, with a newline at the end for terminals.
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_is_camel_case_and_round_trips() {
        let body = ErrorBody::new(Component::Agent, Reason::HandlerNotFound, "no handler \"x\"", "r1");
        let text = String::from_utf8(body.to_json()).unwrap();
        assert_eq!(
            text,
            "{\"component\":\"agent\",\"reason\":\"handler_not_found\",\"message\":\"no handler \\\"x\\\"\",\"requestId\":\"r1\"}\n"
        );
        assert_eq!(serde_json::from_str::<ErrorBody>(&text).unwrap(), body);
    }

    #[test]
    fn reasons_are_distinct_and_have_error_statuses() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().all(|r| (400..600).contains(&r.status())));
    }
}
