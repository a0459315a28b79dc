//! What a path asks for.

use openlambda_api::HandlerName;
use openlambda_api::name::InvalidName;

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// `/status`.
    Status,
    /// `/runLambda/<handler>[/…]` or `/run/<handler>[/…]`.
    Call(HandlerName),
    /// The same, but what stands for a handler can be none.
    BadName(InvalidName),
    /// Anything else.
    Unknown,
}

/// Reads a path. A handler's name is taken as it stands, not percent-decoded: no valid name needs encoding.
pub fn route(path: &str) -> Route {
    if path == "/status" {
        return Route::Status;
    }
    let rest =
        path.strip_prefix("/runLambda").or_else(|| path.strip_prefix("/run")).and_then(|rest| match rest {
            "" => Some(""),
            _ => rest.strip_prefix('/'),
        });
    let Some(rest) = rest else { return Route::Unknown };
    let name = rest.split('/').next().unwrap_or_default();
    HandlerName::parse(name).map_or_else(Route::BadName, Route::Call)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_prefixes_call_a_handler() {
        for path in ["/run/f", "/runLambda/f", "/run/f/", "/runLambda/f/a/b", "/run/f/../g"] {
            assert_eq!(route(path), Route::Call(HandlerName::parse("f").unwrap()), "{path}");
        }
    }

    #[test]
    fn bad_names_and_other_paths_are_told_apart() {
        for path in ["/run", "/run/", "/runLambda", "/run//f", "/run/../f", "/run/a%00", "/run/%2e%2e/x"] {
            assert!(matches!(route(path), Route::BadName(_)), "{path}");
        }
        for path in ["/", "*", "/runner/f", "/runLambdas/f", "/RUN/f", "/status/", "/metrics"] {
            assert_eq!(route(path), Route::Unknown, "{path}");
        }
        assert_eq!(route("/status"), Route::Status);
    }
}
