//! Where packages come from: the worker's configuration, or else what this machine's pip and uv would use.

use std::fs;
use std::path::{Path, PathBuf};

/// The variables that are uv's own and mean an index or the way there: passed on as they are.
const PASSED_ON: [&str; 13] = [
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_INDEX_STRATEGY",
    "UV_INSECURE_HOST",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
/// pip's variables and keys, and uv's name of the same.
const OF_PIP: [(&str, &str, &str); 3] = [
    ("PIP_INDEX_URL", "index-url", "UV_DEFAULT_INDEX"),
    ("PIP_EXTRA_INDEX_URL", "extra-index-url", "UV_INDEX"),
    ("PIP_TRUSTED_HOST", "trusted-host", "UV_INSECURE_HOST"),
];
/// Certificates of this machine, for tools that bring their own as well as for those that do not.
const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// An index, and how to reach it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// uv's variables.
    pub variables: Vec<(String, String)>,
    /// PEM files of certificates to trust; none: uv's own.
    pub certificates: Vec<PathBuf>,
}

/// What the configuration says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Configured<'a> {
    /// The index's URL.
    pub url: Option<&'a str>,
    /// A PEM file of certificates to trust besides the usual ones.
    pub certificates: Option<&'a Path>,
    /// User and password for the index.
    pub credentials: Option<(&'a str, &'a str)>,
}

impl Index {
    /// `environment` looks a variable up; `pip` is what pip's configuration files say under `[global]`.
    pub fn new(
        configured: Configured<'_>,
        environment: impl Fn(&str) -> Option<String>,
        pip: &[(String, String)],
    ) -> Self {
        let mut variables: Vec<(String, String)> = Vec::new();
        let add = |variables: &mut Vec<(String, String)>, name: &str, value: String| {
            if !value.is_empty() && !variables.iter().any(|(known, _)| known == name) {
                variables.push((name.to_owned(), value));
            }
        };
        if let Some(url) = configured.url {
            add(&mut variables, "UV_DEFAULT_INDEX", with_credentials(url, configured.credentials));
        }
        let of_pip =
            |key: &str| pip.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.clone());
        // An index of the configuration is the only one.
        let indexes = |name: &str| configured.url.is_none() || !name.contains("INDEX");
        for name in PASSED_ON.into_iter().filter(|name| indexes(name)) {
            if let Some(value) = environment(name) {
                add(&mut variables, name, value);
            }
        }
        for (variable, key, name) in OF_PIP.into_iter().filter(|(_, _, name)| indexes(name)) {
            let uv_has_its_own = name == "UV_DEFAULT_INDEX" && environment("UV_INDEX_URL").is_some();
            if let Some(value) = environment(variable).or_else(|| of_pip(key)).filter(|_| !uv_has_its_own) {
                add(&mut variables, name, value);
            }
        }
        let machines =
            ["SSL_CERT_FILE", "PIP_CERT"].into_iter().find_map(&environment).or_else(|| of_pip("cert"));
        let mut certificates: Vec<PathBuf> = machines.map(PathBuf::from).into_iter().collect();
        if let Some(extra) = configured.certificates {
            if certificates.is_empty() {
                certificates.push(SYSTEM_CERTIFICATES.into());
            }
            certificates.push(extra.to_owned());
        }
        Self { variables, certificates }
    }

    /// All certificates in one text; none if there is nothing to trust but uv's own. A missing file of the system is passed
    /// over, any other is an error, as nothing that it is for would work.
    pub fn certificates(&self) -> Result<Option<Vec<u8>>, (PathBuf, std::io::Error)> {
        let mut all = Vec::new();
        for path in &self.certificates {
            match fs::read(path) {
                Ok(text) => {
                    all.extend_from_slice(&text);
                    all.push(b'\n');
                }
                Err(error)
                    if error.kind() == std::io::ErrorKind::NotFound
                        && path == Path::new(SYSTEM_CERTIFICATES) => {}
                Err(error) => return Err((path.clone(), error)),
            }
        }
        Ok((!all.is_empty()).then_some(all))
    }
}

/// `https://user:password@host/…`, unless the URL has a user already.
fn with_credentials(url: &str, credentials: Option<(&str, &str)>) -> String {
    let (Some((user, password)), Some((scheme, rest))) = (credentials, url.split_once("://")) else {
        return url.to_owned();
    };
    if rest.split('/').next().is_some_and(|host| host.contains('@')) {
        return url.to_owned();
    }
    format!("{scheme}://{}:{}@{rest}", escape(user), escape(password))
}

/// Percent-encodes all but what every part of a URL may have.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// The keys under `[global]` of pip's configuration files of this machine and user, the later file the stronger.
pub fn pip_settings() -> Vec<(String, String)> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let files = ["/etc/pip.conf".into(), home.join(".pip/pip.conf"), home.join(".config/pip/pip.conf")];
    let named = std::env::var_os("PIP_CONFIG_FILE").map(PathBuf::from);
    let texts = files.into_iter().chain(named).filter_map(|path| fs::read_to_string(path).ok());
    texts.flat_map(|text| global_keys(&text)).collect()
}

fn global_keys(text: &str) -> Vec<(String, String)> {
    let (mut global, mut keys) = (false, Vec::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            global = line == "[global]";
        } else if let Some((key, value)) =
            line.split_once(['=', ':']).filter(|_| global && !line.starts_with(['#', ';']))
        {
            keys.push((key.trim().replace('_', "-"), value.trim().to_owned()));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_machines_pip_is_believed() {
        let pip = global_keys(
            "[install]\nno-deps = yes\n[global]\n# index-url = http://x\nindex_url = http://a/simple\ncert: /ca.pem\n",
        );
        let index =
            Index::new(Configured::default(), environment(&[("PIP_EXTRA_INDEX_URL", "http://b")]), &pip);
        assert_eq!(
            index.variables,
            pairs(&[("UV_DEFAULT_INDEX", "http://a/simple"), ("UV_INDEX", "http://b")])
        );
        assert_eq!(index.certificates, [PathBuf::from("/ca.pem")]);
        let own = environment(&[
            ("UV_INDEX_URL", "http://uv"),
            ("PIP_INDEX_URL", "http://pip"),
            ("HTTPS_PROXY", "p"),
        ]);
        let index = Index::new(Configured::default(), own, &[]);
        assert_eq!(index.variables, pairs(&[("UV_INDEX_URL", "http://uv"), ("HTTPS_PROXY", "p")]));
        assert_eq!(Index::new(Configured::default(), environment(&[]), &[]), Index::default());
    }

    #[test]
    fn an_index_of_the_configuration_is_the_only_one() {
        let configured = Configured {
            url: Some("https://index.example.com/simple"),
            certificates: Some(Path::new("/extra.pem")),
            credentials: Some(("me", "p@ss/ä")),
        };
        let others = environment(&[
            ("UV_EXTRA_INDEX_URL", "http://b"),
            ("UV_INDEX_URL", "http://c"),
            ("NO_PROXY", "x"),
        ]);
        let index = Index::new(configured, others, &pairs(&[("index-url", "http://a")]));
        let url = "https://me:p%40ss%2F%C3%A4@index.example.com/simple";
        assert_eq!(index.variables, pairs(&[("UV_DEFAULT_INDEX", url), ("NO_PROXY", "x")]));
        assert_eq!(index.certificates, [SYSTEM_CERTIFICATES, "/extra.pem"].map(PathBuf::from));
        assert_eq!(with_credentials("https://u@h/", Some(("a", "b"))), "https://u@h/");
    }

    #[test]
    fn certificates_that_are_named_must_be_there() {
        let work = tempfile::tempdir().unwrap();
        let file = work.path().join("ca.pem");
        fs::write(&file, "PEM").unwrap();
        let index = |certificates: &[&Path]| Index {
            variables: vec![],
            certificates: certificates.iter().map(|&path| path.to_owned()).collect(),
        };
        assert_eq!(index(&[&file]).certificates().unwrap().unwrap(), b"PEM\n");
        assert_eq!(index(&[]).certificates().unwrap(), None);
        assert_eq!(
            index(&[&work.path().join("none")]).certificates().unwrap_err().0,
            work.path().join("none")
        );
    }
}
