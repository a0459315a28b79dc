//! Where handlers come from: `registry` and the keys beside it in a worker's file; and the file of the server that
//! `admin registry` starts, `config/registry.json`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::ClusterDir;
use crate::file;
use crate::problem::ConfigError;
use crate::section::Section;
use crate::sizes::Size;
use crate::values;
use crate::worker::{paths, reachable};

/// The original's bucket.
pub const BUCKET: &str = "registry";
/// The region of a server that has none.
pub const REGION: &str = "us-east-1";
/// The port of the original's registry.
pub const DEFAULT_PORT: u16 = 9000;
/// The shortest access key of a server of ours, and the longest.
pub const ACCESS_KEY: (usize, usize) = (8, 128);
/// The shortest secret key of a server of ours, and the longest.
pub const SECRET_KEY: (usize, usize) = (16, 256);

/// Text that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for who must have it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// A store of bundles and of what handlers consist of.
#[derive(Clone, Debug, PartialEq)]
pub struct RegistryConfig {
    /// Where it is.
    pub place: Place,
    /// `registry_cache_ms`: time between two looks at it.
    pub look_every: Duration,
    /// `registry_cache_size`: what unpacked bundles may take on the worker's disk.
    pub cache: Size,
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory, which several machines may share.
    Directory(PathBuf),
    /// A bucket.
    S3(S3Config),
}

/// A bucket, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Config {
    /// The service's URL; that of AWS for the region if there is none.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// What all keys in it begin with, without slashes around it; may be empty.
    pub prefix: String,
    /// Whether the bucket stands in the path, not in the host name.
    pub path_style: bool,
    /// Certificates to trust besides the usual ones, as a PEM file.
    pub ca: Option<PathBuf>,
    /// Who asks; by the environment if there is none.
    pub keys: Option<Keys>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The access key.
    pub access: String,
    /// The secret key.
    pub secret: Secret,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "{}", directory.display()),
            Self::S3(s3) => {
                let endpoint = s3.endpoint.as_deref().unwrap_or("AWS");
                let slash = if s3.prefix.is_empty() { "" } else { "/" };
                write!(f, "s3://{}{slash}{} at {endpoint}", s3.bucket, s3.prefix)
            }
        }
    }
}

/// What `registry` says, without the keys beside it.
enum Named {
    Local,
    Remote,
    Bucket(String, String),
    Directory(String),
}

fn named(value: &Value) -> Result<Named, String> {
    let text = value.as_str().unwrap_or_default();
    if let Some(rest) = text.strip_prefix("s3://") {
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_bucket = (3..=63).contains(&bucket.len())
            && bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b));
        let prefix = prefix.trim_matches('/');
        let is_prefix = !prefix.split('/').any(|part| part == "..") && prefix.is_ascii();
        return match is_bucket && is_prefix {
            true => Ok(Named::Bucket(bucket.to_owned(), prefix.to_owned())),
            false => Err("must name a bucket, as in \"s3://bucket\" or \"s3://bucket/prefix\"".to_owned()),
        };
    }
    match text {
        "local" => Ok(Named::Local),
        "remote" => Ok(Named::Remote),
        _ => {
            let path = text.strip_prefix("file://").unwrap_or(text);
            let is_path = path.starts_with(['/', '.']) && !path.contains("://");
            is_path.then(|| Named::Directory(path.to_owned())).ok_or_else(|| {
                "must be \"local\" (handlers in registry_dir), \"remote\" (registry_server), \"s3://bucket\", or \
                 the path of a directory, such as \"../store\" or \"file:///srv/store\""
                    .to_owned()
            })
        }
    }
}

/// Reads `registry` and what belongs to it; none means that handlers are in `registry_dir`.
pub(crate) fn read(root: &mut Section<'_>, directory: &Path) -> Option<RegistryConfig> {
    let named = root.optional("registry", named).unwrap_or(Named::Local);
    let server = root.optional("registry_server", values::text).filter(|text| !text.is_empty());
    let endpoint = server.and_then(|text| endpoint(root, &text));
    let keys = keys(root);
    let region = root.read("registry_region", REGION.to_owned(), values::word);
    let path_style = root.read("registry_path_style", endpoint.is_some(), values::boolean);
    let ca = paths::optional(root, "registry_ca", directory);
    let look_every = root.read("registry_cache_ms", 5000, values::whole(100..=3_600_000));
    let cache = root.read("registry_cache_size", Size::from_mib(1024), values::size);
    let is_s3 = matches!(named, Named::Remote | Named::Bucket(..));
    if !is_s3 && (endpoint.is_some() || keys.is_some()) {
        let key = if endpoint.is_some() { "registry_server" } else { "registry_access_key" };
        root.blame(
            key,
            None,
            "is of no use without registry: \"remote\" or \"s3://bucket\": set that, or remove this",
        );
    }
    let (bucket, prefix) = match named {
        Named::Local => return None,
        Named::Directory(path) => {
            let place = Place::Directory(paths::join(directory, &path));
            return Some(RegistryConfig { place, look_every: millis(look_every), cache });
        }
        Named::Remote => {
            if endpoint.is_none() && !root.has("registry_server") {
                root.blame(
                    "registry_server",
                    None,
                    "is missing: set it to the server, such as \"localhost:9000\"",
                );
            }
            (BUCKET.to_owned(), String::new())
        }
        Named::Bucket(bucket, prefix) => (bucket, prefix),
    };
    let place = Place::S3(S3Config { endpoint, region, bucket, prefix, path_style, ca, keys });
    Some(RegistryConfig { place, look_every: millis(look_every), cache })
}

fn millis(number: u32) -> Duration {
    Duration::from_millis(number.into())
}

/// The original's `HOST:PORT`, or a URL.
fn endpoint(root: &mut Section<'_>, text: &str) -> Option<String> {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let good = rest.is_some_and(|rest| {
        let host = rest.trim_end_matches('/');
        !host.is_empty() && !host.contains(['/', '@', ' ', '?'])
    });
    if !good {
        let message = "must be HOST:PORT, or a URL without a path such as \"https://s3.example.com\"";
        root.blame("registry_server", Some(&json!(text)), message);
    }
    good.then(|| url.trim_end_matches('/').to_owned())
}

/// Both keys, or none. Their values stay out of messages.
fn keys(root: &mut Section<'_>) -> Option<Keys> {
    let mut key = |name: &'static str| match root.get(name) {
        None => None,
        Some(Value::String(text)) => Some(text.clone()).filter(|text| !text.is_empty()),
        Some(_) => {
            root.blame(name, None, "must be a string");
            None
        }
    };
    match (key("registry_access_key"), key("registry_secret_key")) {
        (Some(access), Some(secret)) => Some(Keys { access, secret: Secret::new(secret) }),
        (None, None) => None,
        (given, _) => {
            let (there, missing) = match given {
                Some(_) => ("registry_access_key", "registry_secret_key"),
                None => ("registry_secret_key", "registry_access_key"),
            };
            root.blame(missing, None, format!("is missing beside {there}: set both, or neither"));
            None
        }
    }
}

/// The server that `admin registry` starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// `host` and `port`: where it listens.
    pub listen: SocketAddr,
    /// `directory`: where it keeps everything.
    pub directory: PathBuf,
    /// `access_key` and `secret_key`: who may use it; by the environment if there are none.
    pub keys: Option<Keys>,
}

impl ServerConfig {
    /// Reads and checks a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        Self::from_value(&file::read(path)?, path)
    }

    /// Checks a value as if it were read from `path`.
    pub fn from_value(value: &Value, path: &Path) -> Result<Self, ConfigError> {
        let file = std::path::absolute(path)
            .map_err(|source| ConfigError::Read { file: path.to_owned(), source })?;
        let mut root = Section::root(value);
        let host = root.read("host", Ipv4Addr::LOCALHOST.into(), |value| {
            let ip = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
            ip.ok_or_else(|| "must be an IP address, such as \"127.0.0.1\" or \"0.0.0.0\"".to_owned())
        });
        let port = root.read("port", DEFAULT_PORT, values::port);
        let directory = paths::required(&mut root, "directory", file.parent().unwrap_or(Path::new("/")));
        let mut key = |name| root.optional(name, values::text).filter(|text| !text.is_empty());
        let keys = match (key("access_key"), key("secret_key")) {
            (Some(access), Some(secret)) => Some(Keys { access, secret: Secret::new(secret) }),
            (None, None) => None,
            _ => {
                root.blame("access_key", None, "and secret_key belong together: set both, or neither");
                None
            }
        };
        if let Some(keys) = &keys {
            for (name, message) in keys.weaknesses() {
                root.blame(name, None, message);
            }
        }
        let config = Self { listen: SocketAddr::new(host, port), directory, keys };
        ConfigError::unless(path, root.finish(), config)
    }

    /// The file for a cluster's own server.
    pub fn template(cluster: &ClusterDir, host: IpAddr, port: u16, keys: &Keys) -> Value {
        let directory = cluster.store_dir();
        let name = directory.strip_prefix(cluster.root()).map(Path::to_owned).unwrap_or(directory);
        json!({
            "host": host.to_string(),
            "port": port,
            "directory": format!("../{}", name.display()),
            "access_key": keys.access,
            "secret_key": keys.secret.expose(),
        })
    }

    /// The URL under which this machine reaches it.
    pub fn local_url(&self) -> String {
        format!("http://{}", SocketAddr::new(reachable(self.listen.ip()), self.listen.port()))
    }
}

impl Keys {
    /// What makes them unfit for a server of ours, by the key's name.
    pub fn weaknesses(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        let mut check = |name, text: &str, (least, most): (usize, usize), why: &str| {
            let length = text.chars().count();
            if length < least {
                found.push((name, format!("has {length} characters: take {least} or more, {why}")));
            } else if length > most {
                found.push((name, format!("has {length} characters: take at most {most}")));
            } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                found.push((
                    name,
                    "has a character that is no printable ASCII: take letters and digits".to_owned(),
                ));
            }
        };
        check("access_key", &self.access, ACCESS_KEY, "so that it is not hit upon by chance");
        let why = "for whoever sees one signed request can try short ones out at leisure";
        check("secret_key", self.secret.expose(), SECRET_KEY, why);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(extra: Value) -> Result<Option<RegistryConfig>, String> {
        let mut value = json!({"registry_dir": "../registry", "worker_dir": "../w"});
        crate::merge::merge(&mut value, &extra);
        let config = crate::WorkerConfig::from_value(&value, Path::new("/c/config/worker-0.json"));
        config.map(|config| config.registry).map_err(|error| error.to_string())
    }

    fn place(extra: Value) -> String {
        worker(extra).unwrap().unwrap().place.to_string()
    }

    #[test]
    fn places() {
        assert_eq!(worker(json!({"registry": "local"})), Ok(None));
        assert_eq!(worker(json!({})), Ok(None));
        assert_eq!(place(json!({"registry": "../store"})), "/c/store");
        assert_eq!(place(json!({"registry": "file:///srv/store"})), "/srv/store");
        assert_eq!(place(json!({"registry": "s3://b-1/x/y/"})), "s3://b-1/x/y at AWS");
        let server = json!({"registry": "s3://abc", "registry_server": "https://s3.example.com/"});
        assert_eq!(place(server), "s3://abc at https://s3.example.com");
    }

    #[test]
    fn the_original_s_remote() {
        let config = worker(json!({
            "registry": "remote", "registry_server": "localhost:9000", "registry_access_key": "a",
            "registry_secret_key": "s3cr3t", "registry_cache_ms": 200, "registry_cache_size": "1Mi"
        }));
        let config = config.unwrap().unwrap();
        assert!(!format!("{config:?}").contains("s3cr3t"));
        assert_eq!((config.look_every, config.cache), (Duration::from_millis(200), Size::from_mib(1)));
        let Place::S3(s3) = config.place else { panic!("no bucket") };
        assert_eq!((s3.endpoint.as_deref(), s3.path_style), (Some("http://localhost:9000"), true));
        assert_eq!((&*s3.bucket, &*s3.region), ("registry", "us-east-1"));
        assert_eq!(s3.keys.unwrap().secret.expose(), "s3cr3t");
    }

    #[test]
    fn what_is_wrong_is_named_without_secrets() {
        for (extra, part) in [
            (json!({"registry": "cloud"}), "must be \"local\""),
            (json!({"registry": 1}), "must be \"local\""),
            (json!({"registry": "gs://bucket"}), "must be \"local\""),
            (json!({"registry": "s3://X"}), "must name a bucket"),
            (json!({"registry": "s3://abc/../x"}), "must name a bucket"),
            (json!({"registry": "remote"}), "registry_server: is missing"),
            (json!({"registry": "remote", "registry_server": "ftp://x"}), "must be HOST:PORT"),
            (json!({"registry": "remote", "registry_server": "http://u:p@x"}), "must be HOST:PORT"),
            (
                json!({"registry": "remote", "registry_server": "x", "registry_secret_key": "s3cr3t"}),
                "registry_access_key: is missing beside registry_secret_key",
            ),
            (
                json!({"registry_access_key": "a", "registry_secret_key": "s3cr3t"}),
                "is of no use without registry",
            ),
            (json!({"registry_cache_ms": 1}), "from 100 to 3600000"),
        ] {
            let error = worker(extra).unwrap_err();
            assert!(error.contains(part) && !error.contains("s3cr3t"), "{part}: {error}");
        }
    }

    #[test]
    fn the_server_s_file() {
        let cluster = ClusterDir::new("/c").unwrap();
        let keys =
            Keys { access: "access-key".into(), secret: Secret::new("a secret key of us".replace(' ', "-")) };
        let template = ServerConfig::template(&cluster, Ipv4Addr::UNSPECIFIED.into(), 9001, &keys);
        let config = ServerConfig::from_value(&template, Path::new("/c/config/registry.json")).unwrap();
        assert_eq!(
            (config.local_url(), config.directory),
            ("http://127.0.0.1:9001".into(), "/c/store".into())
        );
        assert_eq!(config.keys, Some(keys));
    }

    #[test]
    fn short_keys_are_refused_with_a_reason() {
        let file = |access: &str, secret: &str| {
            let value = json!({"directory": "d", "access_key": access, "secret_key": secret});
            ServerConfig::from_value(&value, Path::new("/c/registry.json")).unwrap_err().to_string()
        };
        let short = file("abc", "12345678");
        assert!(short.contains("access_key: has 3 characters: take 8 or more"), "{short}");
        assert!(short.contains("secret_key: has 8 characters: take 16 or more"), "{short}");
        assert!(!short.contains("12345678"), "{short}");
        assert!(file("long enough", &"x".repeat(16)).contains("printable"));
        assert!(file(&"x".repeat(129), &"x".repeat(16)).contains("at most 128"));
    }
}
