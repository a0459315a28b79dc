//! `RegistryApi` in lard's file: whether it takes uploads, from whom, and for which registry.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::registry::{Place, SECRET_KEY, Secret};
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

/// That lard takes uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryApiConfig {
    /// `TokenFile`: who uploads must know what is in it.
    pub token_file: PathBuf,
    /// `Template`: the workers' template, which says where the registry is, and its keys.
    pub template: PathBuf,
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
    root.absorb(section.finish());
    Some(RegistryApiConfig { token_file, template: template.unwrap_or_else(|| directory.join(TEMPLATE)) })
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
        let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
        if mode & OTHERS != 0 {
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
        let template = file::read(&self.template)?;
        let config = WorkerConfig::of_template(&template, &self.template)?;
        let registry = config.registry.ok_or_else(|| PlaceError::None { file: self.template.clone() })?;
        Ok(registry.place)
    }
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
        assert_eq!(config.template, Path::new("/c/config/template.json"));
        let config = balancer(json!({"TokenFile": "/run/token"})).unwrap().unwrap();
        assert_eq!(
            (&*config.token_file, config.template),
            (Path::new("/run/token"), "/c/config/template.json".into())
        );
        for (value, part) in [
            (json!({}), "RegistryApi.TokenFile: is missing"),
            (json!(true), "RegistryApi = true: must be an object"),
            (json!({"TokenFile": "t", "Tempalte": "x"}), "do you mean \"Template\"?"),
        ] {
            let error = balancer(value).unwrap_err();
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn a_token_is_long_and_its_owner_s_alone() {
        let directory = tempfile::tempdir().unwrap();
        let token_file = directory.path().join("token");
        let config = RegistryApiConfig { token_file: token_file.clone(), template: "t".into() };
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
        let config = RegistryApiConfig { token_file: "t".into(), template: template.clone() };
        assert!(config.place().unwrap_err().to_string().starts_with("RegistryApi.Template: cannot read"));
        let mut value = WorkerConfig::template(&cluster, "host");
        file::write(&template, &value).unwrap();
        assert!(config.place().unwrap_err().to_string().contains("admin registry"));
        value["registry"] = json!("/srv/store");
        file::write(&template, &value).unwrap();
        assert_eq!(config.place().unwrap(), Place::Directory("/srv/store".into()));
    }
}
