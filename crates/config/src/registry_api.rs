//! `RegistryApi` in lard's file: whether it takes uploads, from whom, and for which registry.
//!
//! The registry is that of the workers' template, or, where lard has none at hand, what stands under `Registry`.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::registry::{self, Place, SECRET_KEY, Secret};
use crate::section::Section;
use crate::worker::{WorkerConfig, paths};
use crate::{ConfigError, file};

/// The key.
pub const KEY: &str = "RegistryApi";
/// The template beside lard's file, unless it says otherwise.
const TEMPLATE: &str = "template.json";
/// The file for the token beside it, as `admin` names it.
const TOKEN_FILE: &str = "registry_api.token";
/// The longest file that may be a token's.
const TOKEN_MAX: u64 = 4 << 10;
/// What others than the owner may do with a file.
const OTHERS: u32 = 0o077;
/// What a group may do with one that root gives to it, as a kubelet does.
const GIVEN: u32 = 0o040;
const ROOT: u32 = 0;

/// That lard takes uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryApiConfig {
    /// `TokenFile`: who uploads must know what is in it.
    pub token_file: PathBuf,
    /// Where the registry is.
    pub registry: RegistryOf,
}

/// Where it stands which registry uploads go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistryOf {
    /// `Template`: the workers' template, which says it, and its keys.
    Template(PathBuf),
    /// `Registry`: here, with the keys of a worker's file.
    Here(Place),
}

/// Why a token cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("{KEY}.TokenFile: {} cannot be read: {source}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read or write it.
    #[error("{KEY}.TokenFile: {} has mode {mode:o}, so others may use it: chmod 600 {}", file.display(), file.display())]
    Open {
        /// Which.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What is in it is no token.
    #[error("{KEY}.TokenFile: {} must have one line of {} printable characters or more, without blanks", file.display(), SECRET_KEY.0)]
    Weak {
        /// Which.
        file: PathBuf,
    },
}

/// Why the registry that uploads go to is not known.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The template is missing or wrong.
    #[error("{KEY}.Template: {0}")]
    Template(#[from] ConfigError),
    /// The template has no registry.
    #[error(
        "{KEY}.Template: {} names no registry: start one with admin registry, or set the key registry (admin setconf)",
        file.display()
    )]
    None {
        /// Which.
        file: PathBuf,
    },
}

/// Reads the key, if it is there.
pub(crate) fn read(root: &mut Section<'_>, file: &Path) -> Option<RegistryApiConfig> {
    if !root.has(KEY) {
        // It is known all the same.
        root.get(KEY);
        return None;
    }
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let directory = file.parent().unwrap_or(Path::new("/"));
    let mut section = root.section(KEY);
    let token_file = paths::optional(&mut section, "TokenFile", directory).unwrap_or_else(|| {
        section.blame(
            "TokenFile",
            None,
            "is missing: name a file with a token in it, relative to this one or absolute",
        );
        PathBuf::new()
    });
    let template = paths::optional(&mut section, "Template", directory);
    let registry = match section.has("Registry") {
        false => {
            section.get("Registry");
            None
        }
        true => here(&mut section, directory),
    };
    if template.is_some() && registry.is_some() {
        section.blame("Template", None, "and Registry say the same thing: give one of them");
    }
    root.absorb(section.finish());
    let template = || RegistryOf::Template(template.unwrap_or_else(|| directory.join(TEMPLATE)));
    Some(RegistryApiConfig { token_file, registry: registry.map_or_else(template, RegistryOf::Here) })
}

fn here(section: &mut Section<'_>, directory: &Path) -> Option<Place> {
    let mut inner = section.section("Registry");
    let registry = registry::read(&mut inner, directory);
    let problems = inner.finish();
    if registry.is_none() && problems.is_empty() {
        section.blame("Registry", None, "names no registry: set registry in it, such as \"s3://bucket\"");
    }
    section.absorb(problems);
    registry.map(|registry| registry.place)
}

impl RegistryApiConfig {
    /// The key's value, as `admin` writes it.
    pub fn value() -> Value {
        json!({"TokenFile": TOKEN_FILE, "Template": TEMPLATE})
    }

    /// Reads the token. A file that others may read is refused.
    pub fn token(&self) -> Result<Secret, TokenError> {
        let path = &self.token_file;
        let failed = |source| TokenError::Read { file: path.clone(), source };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let mode = metadata.mode() & 0o7777;
        if mode & refused(metadata.uid(), rustix::process::geteuid().as_raw()) != 0 {
            return Err(TokenError::Open { file: path.clone(), mode });
        }
        let mut text = String::new();
        file.take(TOKEN_MAX).read_to_string(&mut text).map_err(failed)?;
        let token = text.trim_end();
        if token.len() < SECRET_KEY.0 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Weak { file: path.clone() });
        }
        Ok(Secret::new(token))
    }

    /// Where the registry is, with its keys, as the workers have it.
    pub fn place(&self) -> Result<Place, PlaceError> {
        let file = match &self.registry {
            RegistryOf::Here(place) => return Ok(place.clone()),
            RegistryOf::Template(file) => file,
        };
        let config = WorkerConfig::of_template(&file::read(file)?, file)?;
        let registry = config.registry.ok_or_else(|| PlaceError::None { file: file.clone() })?;
        Ok(registry.place)
    }
}

/// What the file of a token may not let others do, by whose it is and who reads it.
fn refused(owner: u32, reader: u32) -> u32 {
    if owner == ROOT && reader != ROOT { OTHERS & !GIVEN } else { OTHERS }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{BalancerConfig, ClusterDir};

    fn balancer(value: Value) -> Result<Option<RegistryApiConfig>, String> {
        let config =
            BalancerConfig::from_value(&json!({KEY: value}), Path::new("/c/config/load_balancer.json"));
        config.map(|config| config.registry_api).map_err(|error| error.to_string())
    }

    #[test]
    fn it_is_off_unless_it_is_asked_for() {
        assert_eq!(balancer(Value::Null), Ok(None));
        let config = balancer(RegistryApiConfig::value()).unwrap().unwrap();
        assert_eq!(config.token_file, Path::new("/c/config/registry_api.token"));
        let template = RegistryOf::Template("/c/config/template.json".into());
        assert_eq!(config.registry, template);
        let config = balancer(json!({"TokenFile": "/run/token"})).unwrap().unwrap();
        assert_eq!((&*config.token_file, config.registry), (Path::new("/run/token"), template));
        for (value, part) in [
            (json!({}), "RegistryApi.TokenFile: is missing"),
            (json!(true), "RegistryApi = true: must be an object"),
            (json!({"TokenFile": "t", "Tempalte": "x"}), "do you mean \"Template\"?"),
            (json!({"TokenFile": "t", "Registry": {}}), "RegistryApi.Registry: names no registry"),
            (
                json!({"TokenFile": "t", "Registry": {"registry": "gs://b"}}),
                "Registry.registry = \"gs://b\": must be",
            ),
            (
                json!({"TokenFile": "t", "Registry": {"registry": "s3://abc", "worker_port": 1}}),
                "unknown key",
            ),
            (json!({"TokenFile": "t", "Template": "x", "Registry": {"registry": "/s"}}), "give one of them"),
        ] {
            let error = balancer(value).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_token_is_long_and_its_owner_s_alone() {
        let directory = tempfile::tempdir().unwrap();
        let token_file = directory.path().join("token");
        let registry = RegistryOf::Template("t".into());
        let config = RegistryApiConfig { token_file: token_file.clone(), registry };
        let fails = |config: &RegistryApiConfig| config.token().unwrap_err().to_string();
        assert!(fails(&config).contains("cannot be read"));
        let write = |text: &str, mode| {
            fs::write(&token_file, text).unwrap();
            fs::set_permissions(&token_file, fs::Permissions::from_mode(mode)).unwrap();
        };
        write("0123456789abcdef\n", 0o600);
        assert_eq!(config.token().unwrap().expose(), "0123456789abcdef");
        for mode in [0o640, 0o604, 0o660] {
            write("0123456789abcdef\n", mode);
            let said = fails(&config);
            assert!(said.contains(&format!("mode {mode:o}")) && said.contains("chmod 600"), "{said}");
        }
        for text in ["", "short\n", "0123456789abcdef 0123456789abcdef", "0123456789abcdef\n0123456789abcdef"]
        {
            write(text, 0o600);
            let said = fails(&config);
            assert!(said.contains("16 printable") && !said.contains("0123"), "{said}");
        }
    }

    #[test]
    fn the_template_says_where_the_registry_is() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = ClusterDir::new(directory.path()).unwrap();
        let template = directory.path().join("template.json");
        let registry = RegistryOf::Template(template.clone());
        let config = RegistryApiConfig { token_file: "t".into(), registry };
        assert!(config.place().unwrap_err().to_string().starts_with("RegistryApi.Template: cannot read"));
        let mut value = WorkerConfig::template(&cluster, "host");
        file::write(&template, &value).unwrap();
        assert!(config.place().unwrap_err().to_string().contains("admin registry"));
        value["registry"] = json!("/srv/store");
        file::write(&template, &value).unwrap();
        assert_eq!(config.place().unwrap(), Place::Directory("/srv/store".into()));
    }

    #[test]
    fn without_a_template_it_stands_in_the_file() {
        let registry =
            json!({"registry": "s3://abc/functions", "registry_server": "http://r.functions.svc:9000"});
        let config = balancer(json!({"TokenFile": "t", "Registry": registry})).unwrap().unwrap();
        let place = config.place().unwrap().to_string();
        assert_eq!(place, "s3://abc/functions at http://r.functions.svc:9000");
    }

    #[test]
    fn root_may_give_a_token_to_a_group_but_not_to_everybody() {
        let is_open = |mode: u32, owner, reader| mode & refused(owner, reader) != 0;
        assert!(!is_open(0o440, 0, 65_532) && !is_open(0o600, 0, 0) && !is_open(0o400, 65_532, 65_532));
        for (mode, owner, reader) in [
            (0o444, 0, 65_532),
            (0o460, 0, 65_532),
            (0o440, 0, 0),
            (0o440, 1000, 65_532),
            (0o640, 1000, 1000),
        ] {
            assert!(is_open(mode, owner, reader), "{mode:o} {owner} {reader}");
        }
    }
}
