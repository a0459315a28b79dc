//! An S3 server that is not ours, on the host, where pods reach it: `tests/cluster/s3`.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{kubectl, script};

/// It runs until this is dropped.
#[derive(Debug)]
pub struct Bucket {
    child: Child,
    /// Its end is the server's.
    input: Option<ChildStdin>,
    variables: HashMap<String, String>,
}

impl Bucket {
    /// Starts it; its bucket is `registry`.
    pub fn start() -> Result<Self> {
        let server =
            kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"])?;
        let host = server.trim_start_matches("https://").split(':').next().unwrap_or_default().to_owned();
        let mut command = Command::new(script("s3")?);
        command.args(["sh", "-c", "env | grep ^OPENLAMBDA_TEST_S3_; echo; exec cat"]).env("S3_HOST", &host);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot run tests/cluster/s3")?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("no output")?);
        let mut variables = HashMap::new();
        for line in BufReader::new(output).lines() {
            let line = line?;
            let Some((name, value)) = line.split_once('=') else { break };
            variables.insert(name.trim_start_matches("OPENLAMBDA_TEST_S3_").to_owned(), value.to_owned());
        }
        ensure!(variables.contains_key("SERVER"), "tests/cluster/s3 said nothing of a server on {host}");
        Ok(Self { child, input, variables })
    }

    /// What the environment of its command has, without `OPENLAMBDA_TEST_S3_`.
    pub fn variable(&self, name: &str) -> Result<&str> {
        self.variables.get(name).map(String::as_str).with_context(|| format!("no OPENLAMBDA_TEST_S3_{name}"))
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}
