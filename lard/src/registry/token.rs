//! The token that whoever asks must know. Its file is looked at again as lard runs: a token that got about is soon of no use.

use std::time::Duration;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderValue};
use openlambda_config::RegistryApiConfig;
use openlambda_config::registry::Secret;
use openlambda_config::registry_api::TokenError;
use parking_lot::Mutex;
use subtle::ConstantTimeEq as _;
use tokio::task::spawn_blocking;

/// How often the file is looked at.
pub const EVERY: Duration = Duration::from_secs(2);
/// What stands before the token.
const SCHEME: &[u8] = b"Bearer ";

/// A token, or none as long as its file has none.
pub struct Token {
    config: RegistryApiConfig,
    known: Mutex<Result<Secret, String>>,
}

impl Token {
    /// Reads it. Without one lard starts only if it may come later.
    pub fn open(config: RegistryApiConfig, may_come: bool) -> Result<Self, TokenError> {
        let known = match config.token() {
            Err(error) if !may_come => return Err(error),
            read => read.map_err(|error| error.to_string()),
        };
        if let Err(error) = &known {
            tracing::warn!("nobody can use the registry's API: {error}");
        }
        Ok(Self { config, known: Mutex::new(known) })
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.known.lock().is_ok()
    }

    /// Whether the headers have it.
    pub fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let (scheme, given) = given.split_at_checked(SCHEME.len()).unwrap_or_default();
        let known = self.known.lock();
        let is_same = known.as_ref().is_ok_and(|token| bool::from(given.ct_eq(token.expose().as_bytes())));
        scheme.eq_ignore_ascii_case(SCHEME) && is_same
    }

    /// Takes up what the file has now.
    pub async fn look(&self) {
        let config = self.config.clone();
        let Ok(read) = spawn_blocking(move || config.token().map_err(|error| error.to_string())).await else {
            return;
        };
        let mut known = self.known.lock();
        if *known == read {
            return;
        }
        match &read {
            Ok(_) => tracing::info!("the token of the registry's API is another"),
            Err(error) => tracing::warn!("nobody can use the registry's API: {error}"),
        }
        *known = read;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use openlambda_config::registry_api::RegistryOf;

    use super::*;

    #[tokio::test]
    async fn another_token_is_taken_up_and_without_one_nobody_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let token_file = folder.path().join("token");
        let config =
            RegistryApiConfig { token_file: token_file.clone(), registry: RegistryOf::Template("t".into()) };
        assert!(Token::open(config.clone(), false).is_err());
        let token = Token::open(config, true).unwrap();
        let knows = |given: &str| {
            let value = HeaderValue::from_str(given).unwrap();
            token.is_in(&HeaderMap::from_iter([(AUTHORIZATION, value)]))
        };
        assert!(!token.is_there() && !knows("Bearer ") && !knows("Bearer 0123456789abcdef"));
        for text in ["0123456789abcdef", "fedcba9876543210"] {
            fs::write(&token_file, text).unwrap();
            fs::set_permissions(&token_file, fs::Permissions::from_mode(0o600)).unwrap();
            token.look().await;
            assert!(token.is_there() && knows(&format!("Bearer {text}")), "{text}");
        }
        assert!(!knows("Bearer 0123456789abcdef"), "the former one");
        fs::remove_file(&token_file).unwrap();
        token.look().await;
        assert!(!token.is_there() && !knows("Bearer fedcba9876543210"));
    }
}
