//! What a failed request says, for people: the API server's own message, or the chain of causes.

use std::error::Error;

/// What the API server says to who gives a right that he has not.
const ESCALATION: &str = "attempting to grant RBAC permissions not currently held";
/// The only right that the operator's chart gives it when asked.
const REMEDY: &str =
    "; for spec.loadBalancer.registryAPI set rbac.registryAPI in the values of the operator's chart";

/// One line.
pub fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.message.contains(ESCALATION) => {
            status.message.split_whitespace().collect::<Vec<_>>().join(" ") + REMEDY
        }
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => chain(other),
    }
}

/// The error and what caused it.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn the_server_s_message_or_all_causes() {
        let refused =
            kube::Error::Api(Box::new(Status::failure("spec.x: Forbidden", "Invalid").with_code(422)));
        assert_eq!(text(&refused), "spec.x: Forbidden");
        let message =
            format!("roles \"x-lard\" is forbidden: user \"o\" is {ESCALATION}:\n{{Verbs:[\"create\"]}}");
        let escalates = kube::Error::Api(Box::new(Status::failure(&message, "Forbidden").with_code(403)));
        let text_of_it = text(&escalates);
        assert!(text_of_it.contains("rbac.registryAPI") && !text_of_it.contains('\n'), "{text_of_it}");
        let inner = std::io::Error::other("connection refused");
        let outer = kube::Error::Service(Box::new(std::io::Error::other(inner)));
        assert!(text(&outer).ends_with("connection refused"), "{}", text(&outer));
    }
}
