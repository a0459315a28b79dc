//! `admin setconf`: lays JSON over the template, if the result is a valid one.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use openlambda_config::{WorkerConfig, file, merge};
use serde_json::Value;

use crate::args::Setconf;
use crate::cluster;

pub fn run(args: &Setconf, out: &mut dyn Write) -> Result<()> {
    let cluster = cluster::open(&args.cluster)?;
    let patch: Value = serde_json::from_str(&args.json).with_context(|| {
        format!("{} is no JSON: quote it for the shell, as in '{{\"max_runners\": 1}}'", args.json)
    })?;
    let keys = patch.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>());
    let keys = keys.with_context(|| format!("{patch} is no JSON object: write '{{\"key\": value}}'"))?;
    ensure!(!keys.is_empty(), "the JSON object is empty: nothing to set");

    let _lock = cluster::lock(&cluster)?;
    let path = cluster.template();
    let mut template = file::read(&path)?;
    merge::merge(&mut template, &patch);
    WorkerConfig::check_template(&template, &path).context("not changed, because it would be wrong")?;
    file::write(&path, &template)?;
    let _ = writeln!(out, "set {} in {}", keys.join(", "), path.display());
    let _ = writeln!(out, "workers that are started from now on use it: admin kill, then admin workers");
    Ok(())
}
