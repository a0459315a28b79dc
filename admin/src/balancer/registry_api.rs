//! `--registry-api`: the key in lard's file, and the token.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use openlambda_config::registry_api::KEY;
use openlambda_config::{BalancerConfig, RegistryApiConfig};
use serde_json::Value;
use uuid::Uuid;

/// Adds the key to lard's configuration; what stands there stays.
pub fn enable(value: &mut Value) {
    if value[KEY].is_null() {
        value[KEY] = RegistryApiConfig::value();
    }
}

/// What lard needs to start with the key: a token, which is made if there is none, and a registry.
pub fn prepare(config: &RegistryApiConfig) -> Result<()> {
    config.place()?;
    make_token(&config.token_file)?;
    config.token()?;
    Ok(())
}

/// Makes a token, 244 random bits, unless there is one.
fn make_token(path: &Path) -> Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = match made {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        other => other.with_context(|| format!("cannot make {}", path.display()))?,
    };
    let part = || Uuid::new_v4().simple();
    let written = writeln!(file, "{}{}", part(), part()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half of one would be taken for one the next time.
        let _ = std::fs::remove_file(path);
    }
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// How it is used.
pub fn describe(
    balancer: &BalancerConfig,
    config: &RegistryApiConfig,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (url, token) = (balancer.local_url(), config.token_file.display());
    writeln!(out, "it takes uploads for the registry, with the token in {token}:")?;
    writeln!(
        out,
        "  curl -H \"Authorization: Bearer $(cat {token})\" --data-binary @hello.tar.gz {url}/registry/hello"
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        make_token(&path).unwrap();
        let first = fs::read_to_string(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(first.trim().len(), 64);
        make_token(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), first);
        make_token(&directory.path().join("other")).unwrap();
        assert_ne!(fs::read_to_string(directory.path().join("other")).unwrap(), first);
    }

    #[test]
    fn the_key_of_somebody_else_stays() {
        let mut value = json!({"Port": 1});
        enable(&mut value);
        assert_eq!(value, json!({"Port": 1, KEY: RegistryApiConfig::value()}));
        let mut own = json!({KEY: {"TokenFile": "/run/token"}});
        enable(&mut own);
        assert_eq!(own, json!({KEY: {"TokenFile": "/run/token"}}));
    }
}
