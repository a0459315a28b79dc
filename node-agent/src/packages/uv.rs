//! How uv is found, asked and understood. Pure, but for the look whether the binary is there.

use std::path::{Path, PathBuf};

use openlambda_api::conditions::ConditionReason;
use openlambda_sandbox::ToolEnd;

use super::error::PackageError;

/// Names the binary, if it is not beside ours or in `PATH`.
const VARIABLE: &str = "OPENLAMBDA_UV";
/// Where a tool sees its folder.
const FOLDER: &str = "/packages";
/// The files of a job in its folder.
pub const WANTED: &str = "wanted.txt";
/// Versions that are to be taken for what `WANTED` asks for.
pub const CONSTRAINTS: &str = "constraints.txt";
/// What comes of a resolution.
pub const LOCK: &str = "lock.txt";
/// Certificates to trust.
pub const CERTIFICATES: &str = "ca.pem";
/// uv's cache in the job's folder.
pub const CACHE: &str = "cache";
/// The longest message of uv that is passed on.
const MESSAGE_MAX: usize = 2000;

/// The uv to use: as configured, or beside this binary, or in `PATH`.
pub fn find(configured: Option<&Path>) -> Result<PathBuf, PackageError> {
    let named = configured.map(Path::to_owned).or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    if let Some(path) = named {
        if path.is_file() {
            return Ok(path);
        }
        let message = format!(
            "there is no uv at {} (key \"uv\" or {VARIABLE}): put it there, or name the right path",
            path.display()
        );
        return Err(PackageError::ours(message));
    }
    let beside = std::env::current_exe().ok().map(|binary| binary.with_file_name("uv"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = beside.into_iter().chain(std::env::split_paths(&path).map(|folder| folder.join("uv")));
    places.into_iter().find(|place| place.is_file()).ok_or_else(|| {
        PackageError::ours(format!(
            "uv, which installs packages, is neither beside the worker's binary nor in PATH: run `cargo xtask setup`, or set \
             the key \"uv\" or {VARIABLE} to its path"
        ))
    })
}

/// What uv needs besides its task.
#[derive(Clone, Debug)]
pub struct Common {
    /// The interpreter, inside the base root.
    pub python: PathBuf,
    /// Whether packages may be built from source.
    pub builds: bool,
    /// Which index, which certificates.
    pub index: Vec<(String, String)>,
}

impl Common {
    /// Resolves `WANTED` into `LOCK`, hashes included.
    pub fn resolve(&self, constrained: bool) -> Vec<String> {
        let mut arguments =
            self.begin(&["pip", "compile", "--generate-hashes", "--no-header", "--no-annotate"]);
        arguments.extend(["--output-file".to_owned(), format!("{FOLDER}/{LOCK}")]);
        if constrained {
            arguments.extend(["--constraints".to_owned(), format!("{FOLDER}/{CONSTRAINTS}")]);
        }
        arguments.push(format!("{FOLDER}/{WANTED}"));
        arguments
    }

    /// Installs the one package of `WANTED` into a folder of the job's.
    pub fn install(&self, folder: &str, hashed: bool) -> Vec<String> {
        let mut arguments = self.begin(&["pip", "install", "--no-deps", "--compile-bytecode"]);
        // The cache is the job's and goes with it: what is linked need not be copied.
        arguments.extend(["--link-mode", "hardlink", "--target"].map(str::to_owned));
        arguments.push(format!("{FOLDER}/{folder}"));
        if hashed {
            arguments.push("--require-hashes".to_owned());
        }
        arguments.extend(["--requirements".to_owned(), format!("{FOLDER}/{WANTED}")]);
        arguments
    }

    fn begin(&self, command: &[&str]) -> Vec<String> {
        let mut arguments = vec!["uv".to_owned()];
        arguments.extend(command.iter().map(|&word| word.to_owned()));
        arguments.extend(["--quiet", "--no-config", "--no-progress", "--python"].map(str::to_owned));
        arguments.push(self.python.display().to_string());
        if !self.builds {
            arguments.extend(["--only-binary", ":all:"].map(str::to_owned));
        }
        arguments
    }

    /// The whole environment of uv.
    pub fn environment(&self) -> Vec<(String, String)> {
        let fixed = [
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("HOME", "/tmp"),
            ("LANG", "C.UTF-8"),
            ("NO_COLOR", "1"),
            ("UV_CACHE_DIR", "/packages/cache"),
            ("UV_PYTHON_DOWNLOADS", "never"),
            // An index that is down is to be told within seconds; whoever wants the packages tries again.
            ("UV_HTTP_RETRIES", "1"),
            ("UV_HTTP_CONNECT_TIMEOUT", "5"),
            ("UV_HTTP_TIMEOUT", "30"),
        ];
        let mut all: Vec<_> = fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        all.extend(self.index.iter().cloned());
        all
    }
}

/// Why uv did not do what it was asked for; `what` names that.
pub fn failure(what: &str, end: &ToolEnd) -> PackageError {
    if end.timed_out {
        return PackageError::passing(
            ConditionReason::IndexUnreachable,
            format!("{what}: it did not end in time; the index or the network may be slow"),
        );
    }
    if end.out_of_memory {
        return PackageError::ours(format!("{what}: uv was killed for its memory limit"));
    }
    let text = String::from_utf8_lossy(&end.stderr);
    let text = text.trim();
    let (reason, passing) = judge(text);
    let said = if text.is_empty() { format!("uv ended with {}", end.status) } else { shorten(text) };
    PackageError { reason, message: format!("{what}: {said}"), passing }
}

/// The reason, and whether it may be over without an edit. By uv's words: its exit status does not tell.
fn judge(text: &str) -> (ConditionReason, bool) {
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if has(&["No space left on device", "os error 28", "Disk quota exceeded"]) {
        (ConditionReason::DiskFull, true)
    } else if has(&["Hash mismatch"]) {
        (ConditionReason::HashMismatch, false)
    } else if has(&[
        "no usable wheels",
        "has no wheels",
        "have no wheels",
        "does not satisfy Python",
        "only has wheels",
    ]) {
        (ConditionReason::NoWheel, false)
    } else if has(&["No solution found"]) {
        (ConditionReason::Unsatisfiable, false)
    } else if has(&["Couldn't parse requirement", "Failed to parse"]) {
        (ConditionReason::InvalidRequirements, false)
    } else if has(&[
        "error sending request",
        "Failed to fetch",
        "client error (Connect)",
        "dns error",
        "timed out",
        "tcp connect error",
        "HTTP status",
        "Failed to download",
    ]) {
        (ConditionReason::IndexUnreachable, true)
    } else {
        (ConditionReason::InstallFailed, true)
    }
}

/// One line for a status, not longer than it can be.
fn shorten(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MESSAGE_MAX {
        let mut end = MESSAGE_MAX;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    fn end(stderr: &str) -> ToolEnd {
        ToolEnd {
            status: ExitStatus::from_raw(256),
            stdout: vec![],
            stderr: stderr.into(),
            out_of_memory: false,
            timed_out: false,
        }
    }

    #[test]
    fn each_failure_has_its_reason() {
        use ConditionReason as R;
        for (text, reason, passing) in [
            (
                "error: No solution found when resolving dependencies\n  cause: Because there is no version of requests==99.0 and you require requests==99.0, we can conclude that your requirements are unsatisfiable.",
                R::Unsatisfiable,
                false,
            ),
            (
                "error: No solution found when resolving dependencies\n  cause: Because tensorflow==1.15.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) and you require tensorflow==1.15",
                R::NoWheel,
                false,
            ),
            (
                "error: No solution found\n  cause: Because pycrypto==2.6.1 has no usable wheels",
                R::NoWheel,
                false,
            ),
            ("error: Couldn't parse requirement in `r.txt` at position 0", R::InvalidRequirements, false),
            (
                "error: Failed to fetch: http://127.0.0.1:1/simple/idna/\n  cause: error sending request for url",
                R::IndexUnreachable,
                true,
            ),
            (
                "error: Failed to download `idna==3.10`\n  cause: Hash mismatch for `idna==3.10`",
                R::HashMismatch,
                false,
            ),
            (
                "error: Failed to download `numpy==1.26.4`\n  cause: failed to write to file `x`: No space left on device (os error 28)",
                R::DiskFull,
                true,
            ),
            ("thread 'main' panicked", R::InstallFailed, true),
            ("", R::InstallFailed, true),
        ] {
            let error = failure("resolve a", &end(text));
            assert_eq!((error.reason, error.passing), (reason, passing), "{text}");
            assert!(error.message.starts_with("resolve a: ") && !error.message.contains('\n'), "{error}");
        }
        let long = failure("x", &end(&"ä".repeat(5000)));
        assert!(long.message.len() < MESSAGE_MAX + 20);
        assert_eq!(failure("x", &ToolEnd { timed_out: true, ..end("") }).reason, R::IndexUnreachable);
    }

    #[test]
    fn a_missing_uv_is_said_with_its_remedy() {
        let error = find(Some(Path::new("/nowhere/uv"))).unwrap_err();
        assert!(error.message.contains("/nowhere/uv") && error.message.contains("\"uv\""), "{error}");
    }

    #[test]
    fn wheels_only_unless_builds_are_allowed() {
        let common = |builds| Common { python: "/usr/bin/python3".into(), builds, index: vec![] };
        assert!(common(false).resolve(false).iter().any(|word| word == ":all:"));
        assert!(common(false).install("a-1", true).iter().any(|word| word == "--require-hashes"));
        assert!(!common(true).install("a-1", false).iter().any(|word| word == ":all:"));
    }
}
