//! Sets up `tracing`: what is logged and in which form. Called once, by a binary's `main`.

use std::env::VarError;

use tracing_subscriber::EnvFilter;

/// Selects what is logged, in `tracing`'s filter syntax: `debug`, `info,openlambda_sandbox=trace`.
pub const LOG_VARIABLE: &str = "OPENLAMBDA_LOG";
/// Selects the form: `json`, or `compact` (the default).
pub const FORMAT_VARIABLE: &str = "OPENLAMBDA_LOG_FORMAT";

const DEFAULT_FILTER: &str = "info";

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// A variable is set to what it cannot be.
    #[error("{variable}={value:?} is not understood: {why}")]
    Variable {
        /// The variable's name.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        why: String,
    },
    /// Logging was set up before in this process.
    #[error("logging is already set up")]
    Twice,
}

/// Sends this process's events to standard output, as the two variables ask.
pub fn init() -> Result<(), LoggingError> {
    let filter = filter(read(LOG_VARIABLE)?.as_deref())?;
    let json = is_json(read(FORMAT_VARIABLE)?.as_deref())?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    let done = if json {
        builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
    } else {
        builder.compact().with_ansi(false).try_init()
    };
    done.map_err(|_| LoggingError::Twice)
}

fn read(variable: &'static str) -> Result<Option<String>, LoggingError> {
    match std::env::var(variable) {
        Ok(value) => Ok(Some(value).filter(|v| !v.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(value)) => Err(LoggingError::Variable {
            variable,
            value: value.to_string_lossy().into_owned(),
            why: "it is not UTF-8".into(),
        }),
    }
}

fn filter(value: Option<&str>) -> Result<EnvFilter, LoggingError> {
    let text = value.unwrap_or(DEFAULT_FILTER);
    EnvFilter::try_new(text).map_err(|error| LoggingError::Variable {
        variable: LOG_VARIABLE,
        value: text.into(),
        why: format!("{error}; give a level (error, warn, info, debug, trace) or target=level pairs"),
    })
}

fn is_json(value: Option<&str>) -> Result<bool, LoggingError> {
    match value {
        None | Some("compact") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(LoggingError::Variable {
            variable: FORMAT_VARIABLE,
            value: other.into(),
            why: "give json or compact".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_formats_are_checked() {
        assert_eq!(filter(None).unwrap().to_string(), "info");
        assert_eq!(filter(Some("warn,a=debug")).unwrap().to_string(), "a=debug,warn");
        let message = filter(Some("a=loud")).unwrap_err().to_string();
        assert!(message.starts_with("OPENLAMBDA_LOG=\"a=loud\" is not understood"), "{message}");
        assert!(is_json(Some("json")).unwrap());
        assert!(!is_json(Some("compact")).unwrap());
        assert!(is_json(Some("yaml")).unwrap_err().to_string().contains("give json or compact"));
    }

    #[test]
    fn the_second_set_up_is_an_error() {
        assert!(init().is_ok());
        assert!(matches!(init(), Err(LoggingError::Twice)));
    }
}
