//! Keys that nobody reads, each with the nearest key that somebody does.

use crate::problem::Problem;

/// Below this likeness (0 to 1) a suggestion would only confuse.
const ALIKE: f64 = 0.75;

/// The nearest of `known` to `key`, if any is near. Case does not count.
///
/// ```
/// use openlambda_config::unknown::nearest;
/// assert_eq!(nearest("handler_cach_size", &["handler_cache_size", "worker_dir"]), Some("handler_cache_size"));
/// assert_eq!(nearest("colour", &["worker_dir"]), None);
/// ```
pub fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let key = key.to_lowercase();
    let likeness = |other: &str| {
        let other = other.to_lowercase();
        // Jaro-Winkler alone favours a common beginning too much ("worker_dir" for "worker_x").
        f64::midpoint(
            strsim::jaro_winkler(&key, &other),
            strsim::normalized_damerau_levenshtein(&key, &other),
        )
    };
    let best = known.iter().map(|k| (likeness(k), *k)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= ALIKE).then_some(best.1)
}

/// The problem of a key at `path` that is not among `known`.
pub(crate) fn problem(path: String, key: &str, known: &[&str]) -> Problem {
    let message = match nearest(key, known) {
        Some(near) => format!("unknown key; do you mean {near:?}?"),
        None => format!("unknown key; remove it. Known here: {}", known.join(", ")),
    };
    Problem::new(path, None, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_their_key() {
        let known =
            ["worker_port", "worker_dir", "import_cache_size", "handler_cache_size", "SOCK_base_path"];
        let near = |key| nearest(key, &known);
        assert_eq!(near("workerport"), Some("worker_port"));
        assert_eq!(near("Worker_Port"), Some("worker_port"));
        assert_eq!(near("sock_base_path"), Some("SOCK_base_path"));
        assert_eq!(near("imprt_cache_size"), Some("import_cache_size"));
        assert_eq!(near("zebra"), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
