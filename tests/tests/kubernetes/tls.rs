//! An Ingress that ends TLS, with a certificate of one's own.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use openlambda_tests::kubernetes::{self, Outcome, Release, attempt};
use openlambda_tests::until;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::shared::HELLO;

const HOST: &str = "secure.example.com";
const SECRET: &str = "functions-tls";

/// A certificate for [`HOST`] that nobody else vouches for, and its key.
struct Certificate {
    folder: TempDir,
}

impl Certificate {
    fn new() -> Result<Self> {
        let new = Self { folder: tempfile::tempdir()? };
        let (key, certificate) = (new.key(), new.certificate());
        let (subject, names) = (format!("/CN={HOST}"), format!("subjectAltName=DNS:{HOST}"));
        let curve = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let files = ["-keyout", text(&key), "-out", text(&certificate)];
        let what = ["-days", "2", "-subj", &subject, "-addext", &names];
        let made = attempt("openssl", &[&curve[..], &files, &what].concat(), "")?;
        ensure!(made.success, "openssl: {}", made.text);
        Ok(new)
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("tls.key")
    }

    fn certificate(&self) -> PathBuf {
        self.folder.path().join("tls.crt")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// A call through the Ingress of a client that trusts this certificate alone.
fn call(trusted: &Path, event: &Value) -> Result<Outcome> {
    let there = format!("{HOST}:443:{}", kubernetes::secure_ingress()?);
    let quiet = ["--silent", "--show-error", "--fail", "--max-time", "20"];
    let to = ["--cacert", text(trusted), "--connect-to", &there];
    let (url, event) = (format!("https://{HOST}/run/hello"), event.to_string());
    attempt("curl", &[&quiet[..], &to, &["--data", &event, &url]].concat(), "")
}

#[test]
fn https_answers_with_the_certificate_of_the_secret() -> Result<()> {
    let spec = json!({"ingress": {"className": "traefik", "host": HOST, "tls": {"secretName": SECRET}}});
    let release = Release::install_with("with-tls", &spec)?;
    release.deploy("hello", HELLO)?;
    let certificate = Certificate::new()?;
    // Traefik has one of its own for hosts without a Secret, which this client does not trust.
    let refused = call(&certificate.certificate(), &json!({"name": "nobody"}))?;
    ensure!(!refused.success && refused.text.contains("certificate"), "{}", refused.text);

    let (crt, key) = (certificate.certificate(), certificate.key());
    let files = [format!("--cert={}", text(&crt)), format!("--key={}", text(&key))];
    release.namespace.kubectl(&["create", "secret", "tls", SECRET, &files[0], &files[1]])?;
    let mut last = String::new();
    let answered = until("an answer over HTTPS", || {
        let answer = call(&crt, &json!({"name": "TLS"}))?;
        last = answer.text;
        Ok(answer.success.then_some(()))
    });
    answered.with_context(|| last.clone())?;
    ensure!(last == "\"Hello, TLS!\"", "{last}");
    // Another certificate for the same host is another one.
    let other = Certificate::new()?;
    ensure!(!call(&other.certificate(), &json!({"name": "x"}))?.success, "any certificate is good enough");

    release.namespace.wait_ready("handler/hello")?;
    let url = release.namespace.get("handler/hello")?["status"]["url"].take();
    ensure!(url == format!("https://{HOST}/run/hello"), "{url}");
    let ready = release.namespace.condition("lambdacluster/demo", "IngressReady")?;
    ensure!(ready["status"] == "True", "{ready}");
    Ok(())
}
