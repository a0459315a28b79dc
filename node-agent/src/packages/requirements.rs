//! What a handler asks for: `spec.requirements`, `requirements.txt` and the original's `packages.txt`, read and checked.
//! Pure. The grammar of versions and markers is left to uv, whose message then reaches the user; what is decided here is what a
//! handler may ask for at all: names from the cluster's index, no options, no files, no addresses.

use std::collections::BTreeMap;

use openlambda_api::conditions::ConditionReason;
use sha2::{Digest, Sha256};

use super::error::PackageError;
use super::lock::{Lock, Pin};

/// The file of pip's form in a bundle.
pub const REQUIREMENTS_FILE: &str = "requirements.txt";
/// The original's file in a bundle: `import_name:install_name` a line.
pub const PACKAGES_FILE: &str = "packages.txt";
/// The longest file.
pub const MAX_BYTES: usize = 1 << 20;
/// Most requirements of one handler.
const MAX_LINES: usize = 1000;

/// What a handler asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// One requirement each, without hashes, sorted.
    lines: Vec<String>,
    /// Hashes that a line was given, by line.
    hashes: BTreeMap<String, Vec<String>>,
    /// What is to be installed, if that needs no resolving: every line is pinned and has hashes.
    pub lock: Option<Lock>,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    /// The name as PEP 503 normalizes it.
    name: String,
    /// All but the hashes, with one space at a time.
    text: String,
    /// The version, if it is `==VERSION` and has neither extras nor a marker.
    pin: Option<String>,
    /// `sha256:…`.
    hashes: Vec<String>,
}

impl Requirements {
    /// Of all that a handler has: the spec's list, and its files if they are there. They hold together.
    pub fn read(
        spec: &[String],
        requirements: Option<&str>,
        packages: Option<&str>,
    ) -> Result<Self, PackageError> {
        let mut lines = Vec::new();
        for (index, text) in spec.iter().enumerate() {
            lines.push(parse_line(text, &format!("spec.requirements[{index}]"))?);
        }
        if let Some(text) = requirements {
            for (number, text) in logical_lines(text) {
                lines.push(parse_line(&text, &format!("{REQUIREMENTS_FILE}, line {number}"))?);
            }
        }
        if let Some(text) = packages {
            for (number, text) in logical_lines(text) {
                let place = format!("{PACKAGES_FILE}, line {number}");
                lines.push(parse_line(install_name(&text, &place)?, &place)?);
            }
        }
        Self::of(lines)
    }

    fn of(lines: Vec<Line>) -> Result<Self, PackageError> {
        if lines.len() > MAX_LINES {
            return Err(invalid(format!("{} requirements: at most {MAX_LINES}", lines.len())));
        }
        let lock = lock_of(&lines)?;
        let hashed = lines.iter().filter(|line| !line.hashes.is_empty());
        let hashes = hashed.map(|line| (line.text.clone(), line.hashes.clone())).collect();
        let mut texts: Vec<_> = lines.into_iter().map(|line| line.text).collect();
        texts.sort_unstable();
        texts.dedup();
        Ok(Self { lines: texts, hashes, lock })
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The lines as uv takes them.
    pub fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// SHA-256 of what is asked for, in hex: another order or other white space is the same.
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for line in &self.lines {
            digest.update(line);
            for hash in self.hashes.get(line).into_iter().flatten() {
                digest.update(" ");
                digest.update(hash);
            }
            digest.update("\n");
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A lock, if the lines are one. Hashes on some lines only are an error, as in pip: the others would not be checked.
fn lock_of(lines: &[Line]) -> Result<Option<Lock>, PackageError> {
    if lines.iter().all(|line| line.hashes.is_empty()) {
        return Ok(None);
    }
    let mut pins = Vec::new();
    for line in lines {
        if line.hashes.is_empty() {
            let text = &line.text;
            return Err(invalid(format!(
                "{text:?} has no --hash and others have: give all of them hashes, or none"
            )));
        }
        let Some(version) = &line.pin else {
            let text = &line.text;
            return Err(invalid(format!(
                "{text:?} has a --hash and is not NAME==VERSION, without extras or markers: such a list is taken as a lock, so pin it, \
                 or leave out the hashes"
            )));
        };
        pins.push(Pin { name: line.name.clone(), version: version.clone(), hashes: line.hashes.clone() });
    }
    Lock::new(pins).map(Some).map_err(invalid)
}

/// Reads what uv has resolved: pins, with hashes where the index has them.
pub fn parse_lock(text: &str) -> Result<Lock, String> {
    let mut pins = Vec::new();
    for (number, text) in logical_lines(text) {
        let line = parse_line(&text, &format!("line {number}")).map_err(|error| error.message)?;
        let version = line.pin.ok_or_else(|| format!("line {number}: {:?} is not pinned", line.text))?;
        pins.push(Pin { name: line.name, version, hashes: line.hashes });
    }
    Lock::new(pins)
}

fn invalid(message: impl Into<String>) -> PackageError {
    PackageError::lasting(ConditionReason::InvalidRequirements, message)
}

/// The lines that say something, with their numbers: comments and empty ones left out, continued ones joined.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    for (index, raw) in text.lines().enumerate() {
        let line = without_comment(raw);
        let (line, goes_on) = match line.trim_end().strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        match found.last_mut().filter(|_| continues) {
            Some((_, before)) => {
                before.push(' ');
                before.push_str(line.trim());
            }
            None => found.push((index + 1, line.trim().to_owned())),
        }
        continues = goes_on;
    }
    found.retain(|(_, line)| !line.is_empty());
    found
}

/// A `#` begins a comment at the line's begin or after white space.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, character) in line.char_indices() {
        if character == '#' && before.is_whitespace() {
            return &line[..at];
        }
        before = character;
    }
    line
}

/// The second part of `import_name:install_name`; which modules a package has is known from its wheel.
fn install_name<'a>(text: &'a str, place: &str) -> Result<&'a str, PackageError> {
    let (import, install) = text.split_once(':').unwrap_or((text, text));
    let (import, install) = (import.trim(), install.trim());
    let is_module = text.contains(':').then(|| import.split('.').all(is_identifier));
    if is_module == Some(false) || install.is_empty() {
        return Err(invalid(format!(
            "{place}: {text:?} is not import_name:install_name, such as bs4:beautifulsoup4"
        )));
    }
    Ok(install)
}

fn is_identifier(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|first| first.is_alphabetic() || first == '_')
        && characters.all(|one| one.is_alphanumeric() || one == '_')
}

/// Reads one requirement; `place` says where it stands.
fn parse_line(text: &str, place: &str) -> Result<Line, PackageError> {
    let blame = |what: &str| invalid(format!("{place}: {text:?} {what}"));
    let (text, hashes) = split_hashes(text).map_err(blame)?;
    if text.contains('$') || !text.is_ascii() {
        return Err(blame("has characters that no requirement has"));
    }
    let (head, marker) = match text.split_once(';') {
        Some((head, marker)) => (head.trim(), Some(marker.trim())),
        None => (text.as_str(), None),
    };
    let (name, rest) = split_name(head).map_err(blame)?;
    let (extras, specifier) =
        split_extras(rest).ok_or_else(|| blame("has extras without their closing bracket"))?;
    if !specifier.is_empty() && !specifier.starts_with(['=', '<', '>', '!', '~', '(']) {
        return Err(blame("has no comparison such as == or >= between name and version"));
    }
    let pin = if extras.is_none() && marker.is_none() { pinned(specifier) } else { None };
    let name = normalize(name);
    let extras = extras.map(|extras| format!("[{extras}]")).unwrap_or_default();
    let marker = marker.map(|marker| format!(" ; {marker}")).unwrap_or_default();
    let text = format!("{name}{extras}{specifier}{marker}");
    Ok(Line { name, text, pin, hashes })
}

/// The requirement with one space between words, and its hashes. Other options are errors.
fn split_hashes(text: &str) -> Result<(String, Vec<String>), &'static str> {
    let (mut words, mut hashes) = (Vec::new(), Vec::new());
    for word in text.split_whitespace() {
        match word.strip_prefix("--hash=") {
            Some(hash) => hashes.push(sha256(hash).ok_or("has a --hash that is not sha256: and 64 digits")?),
            None if word.starts_with('-') => return Err(option_remedy(word)),
            None => words.push(word),
        }
    }
    Ok((words.join(" "), hashes))
}

/// The name and what follows it.
fn split_name(head: &str) -> Result<(&str, &str), &'static str> {
    let end = head.find(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c))).unwrap_or(head.len());
    let (name, rest) = (&head[..end], head[end..].trim());
    if rest.starts_with(['@', ':', '/', '+']) || name.starts_with('.') || name.ends_with(".whl") {
        return Err(
            "names an address or a file: packages come from the cluster's index by name; put other code into the bundle",
        );
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if !edge(name.chars().next()) || !edge(name.chars().last()) {
        return Err("does not begin with the name of a package");
    }
    Ok((name, rest))
}

fn option_remedy(word: &str) -> &'static str {
    let name = word.split('=').next().unwrap_or(word);
    match name {
        "-i" | "--index-url" | "--extra-index-url" | "-f" | "--find-links" | "--no-index"
        | "--trusted-host" => {
            "sets an index: the cluster's configuration does that (pip_mirror, spec.packages.indexURL); remove the line"
        }
        "-r" | "--requirement" | "-c" | "--constraint" => "includes another file: put its lines here",
        "-e" | "--editable" => "installs code from a folder: put that into the bundle",
        "--no-binary" | "--only-binary" => {
            "chooses between wheels and sources: the cluster's configuration does that; remove the line"
        }
        _ => "has an option of pip; the only one that is known here is --hash",
    }
}

fn sha256(hash: &str) -> Option<String> {
    let digits = hash.strip_prefix("sha256:")?;
    let right = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    right.then(|| hash.to_ascii_lowercase())
}

/// `[a, b]>=1` as `a,b` and `>=1`.
fn split_extras(rest: &str) -> Option<(Option<String>, &str)> {
    let Some(inside) = rest.strip_prefix('[') else { return Some((None, rest)) };
    let (extras, specifier) = inside.split_once(']')?;
    let extras: Vec<_> = extras.split(',').map(normalize).collect();
    Some((Some(extras.join(",")), specifier.trim()))
}

/// The version of `==VERSION`.
fn pinned(specifier: &str) -> Option<String> {
    let version = specifier.strip_prefix("==")?.trim();
    is_version(version).then(|| version.to_owned())
}

/// Whether it can be a version and the end of a folder's name.
pub fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+!_".contains(&byte))
}

/// PEP 503: lower case, runs of `-`, `_` and `.` as one `-`.
pub fn normalize(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for character in name.trim().chars() {
        match character {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            other => normal.push(other.to_ascii_lowercase()),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Requirements, PackageError> {
        Requirements::read(&[], Some(text), None)
    }

    #[test]
    fn the_three_sources_hold_together() {
        let spec = ["Pandas [perf,  Excel]>=2,<3".to_owned()];
        let read = Requirements::read(
            &spec,
            Some("# none\nrequests>=2.31 # why\n\nnumpy==1.26.4;python_version<'3.13'\n"),
            Some("bs4:beautifulsoup4\nflask\nyaml : PyYAML==6.0\n"),
        );
        let text = "beautifulsoup4\nflask\nnumpy==1.26.4 ; python_version<'3.13'\npandas[perf,excel]>=2,<3\npyyaml==6.0\nrequests>=2.31\n";
        assert_eq!(read.unwrap().text(), text);
        assert!(Requirements::read(&[], Some("\n# x\n"), None).unwrap().is_empty());
    }

    #[test]
    fn the_digest_is_of_what_is_asked_for() {
        let digest = |text| file(text).unwrap().digest();
        assert_eq!(digest("a\nB_b>=1\n"), digest("# x\nb-b >=1\nA"));
        assert_ne!(digest("a"), digest("a==1"));
        let hash = |digit: &str| format!("a==1 --hash=sha256:{}", digit.repeat(64));
        assert_ne!(digest(&hash("0")), digest(&hash("1")));
    }

    #[test]
    fn pins_with_hashes_are_a_lock() {
        let hash = "0f".repeat(32);
        let read = file(&format!("Six==1.16.0 \\\n    --hash=sha256:{hash} \\\n    --hash=sha256:{hash}\nidna==3.10 --hash=sha256:{hash}")).unwrap();
        let lock = read.lock.unwrap();
        assert_eq!(lock.locked(), ["idna==3.10", "six==1.16.0"]);
        assert_eq!(lock.pins()[1].hashes.len(), 2);
        assert!(file("six==1.16.0\nidna==3.10").unwrap().lock.is_none());
        for mixed in
            [format!("six==1.16.0\nidna==3.10 --hash=sha256:{hash}"), format!("six>=1 --hash=sha256:{hash}")]
        {
            assert_eq!(file(&mixed).unwrap_err().reason, ConditionReason::InvalidRequirements, "{mixed}");
        }
        let twice = format!("a==1 --hash=sha256:{hash}\nA==2 --hash=sha256:{hash}");
        assert!(file(&twice).unwrap_err().message.contains("a==1 and a==2"), "{twice}");
    }

    #[test]
    fn what_is_wrong_names_its_place_and_a_remedy() {
        for (text, part) in [
            ("ok\n-r other.txt", "requirements.txt, line 2: \"-r other.txt\" includes another file"),
            ("--index-url https://x/simple", "spec.packages.indexURL"),
            ("--extra-index-url=https://x/simple", "spec.packages.indexURL"),
            ("-e .", "installs code from a folder"),
            ("--pre", "the only one that is known here is --hash"),
            ("a @ https://x/a.whl", "names an address or a file"),
            ("https://x/a.whl", "names an address or a file"),
            ("git+https://x/a", "names an address or a file"),
            ("./a", "names an address or a file"),
            ("../../etc/passwd", "names an address or a file"),
            ("/etc/passwd", "names an address or a file"),
            ("a.whl", "names an address or a file"),
            ("-", "option of pip"),
            ("_a", "name of a package"),
            ("a-", "name of a package"),
            ("a b", "no comparison"),
            ("a[x", "closing bracket"),
            ("a==$VERSION", "characters"),
            ("a==1 --hash=md5:0", "sha256"),
            ("café", "characters"),
        ] {
            let error = file(text).unwrap_err();
            assert!(error.message.contains(part) && !error.passing, "{text}: {error}");
        }
        let wrong = Requirements::read(&["a".into(), "b c".into()], None, None).unwrap_err();
        assert!(wrong.message.starts_with("spec.requirements[1]: \"b c\""), "{wrong}");
        for text in ["1x:y", "a:", ":b", "a b:c"] {
            let wrong = Requirements::read(&[], None, Some(text)).unwrap_err();
            assert!(wrong.message.starts_with("packages.txt, line 1"), "{wrong}");
        }
        assert!(file(&"a\n".repeat(MAX_LINES + 1)).unwrap_err().message.contains("at most 1000"));
    }

    #[test]
    fn what_uv_prints_is_read() {
        let text = "idna==3.10 \\\n    --hash=sha256:12f65c9b470abda6dc35cf8e63cc574b1c52b11df2c86030af0ac09b01b13ea9\nlocal==1.0+cpu\n";
        let lock = parse_lock(text).unwrap();
        assert_eq!(lock.locked(), ["idna==3.10", "local==1.0+cpu"]);
        assert!(parse_lock("idna>=3").unwrap_err().contains("not pinned"));
    }
}
