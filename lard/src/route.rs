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
    /// `/registry`, or something below it.
    Registry(Resource),
    /// Anything else.
    Unknown,
}

/// What of the registry a path names.
#[derive(Debug, PartialEq, Eq)]
pub enum Resource {
    /// `/registry/`: all handlers.
    All,
    /// `/registry/<handler>`.
    Handler(HandlerName),
    /// `/registry/<handler>/config`.
    Config(HandlerName),
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
    let Some(rest) = rest else { return registry(path) };
    let name = rest.split('/').next().unwrap_or_default();
    HandlerName::parse(name).map_or_else(Route::BadName, Route::Call)
}

fn registry(path: &str) -> Route {
    let Some(rest) = path.strip_prefix("/registry") else { return Route::Unknown };
    let (name, resource): (_, fn(HandlerName) -> Resource) = match rest {
        "" | "/" => return Route::Registry(Resource::All),
        _ => {
            let Some(rest) = rest.strip_prefix('/') else { return Route::Unknown };
            match rest.split_once('/') {
                None => (rest, Resource::Handler),
                Some((name, "config")) => (name, Resource::Config),
                Some(_) => return Route::Unknown,
            }
        }
    };
    HandlerName::parse(name).map_or_else(Route::BadName, |name| Route::Registry(resource(name)))
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

    #[test]
    fn the_registry_is_a_list_and_what_is_in_it() {
        let name = || HandlerName::parse("f").unwrap();
        for path in ["/registry", "/registry/"] {
            assert_eq!(route(path), Route::Registry(Resource::All), "{path}");
        }
        assert_eq!(route("/registry/f"), Route::Registry(Resource::Handler(name())));
        assert_eq!(route("/registry/f/config"), Route::Registry(Resource::Config(name())));
        for path in ["/registry/..", "/registry//config", "/registry/../config", "/registry/%2e"] {
            assert!(matches!(route(path), Route::BadName(_)), "{path}");
        }
        for path in ["/registryx", "/registry/f/", "/registry/f/config/", "/registry/f/code"] {
            assert_eq!(route(path), Route::Unknown, "{path}");
        }
        // A handler of that name is called like any other.
        assert!(matches!(route("/run/registry"), Route::Call(_)));
    }
}
