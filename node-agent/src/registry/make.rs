//! From a revision in the registry to one that can serve: fetch, unpack, install, try.

use std::sync::Arc;

use openlambda_bundle::Manifest;
use openlambda_store::Revision as Wanted;
use tokio::sync::Semaphore;

use super::shelf::Shelf;
use crate::functions::{Function, Functions};
use crate::packages::in_bundle;
use crate::revision::{Revision, Settings};
use crate::trial::Trial;
use crate::trouble::{Trouble, closed};

/// Handlers that are tried at a time, per processor.
const TRIALS_PER_CPU: usize = 4;

/// Makes revisions.
pub struct Maker {
    /// Of these.
    pub functions: Arc<Functions>,
    shelf: Shelf,
    trial: Trial,
    trials: Semaphore,
}

impl Maker {
    /// Makes revisions of these functions.
    pub fn new(functions: Arc<Functions>, shelf: Shelf, trial: Trial) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { functions, shelf, trial, trials: Semaphore::new(cpus * TRIALS_PER_CPU) }
    }

    /// A revision that has been tried; the one that serves, if it is the same.
    pub async fn make(&self, function: &Arc<Function>, wanted: &Wanted) -> Result<Arc<Revision>, Trouble> {
        let unpacked = self.shelf.take(&wanted.key, &wanted.digest, None).await?;
        for note in &unpacked.manifest.notes {
            tracing::warn!(handler = &*function.name, revision = wanted.number, "{note}");
        }
        let settings = settings(&self.functions.defaults, &unpacked.manifest, &unpacked.entrypoint);
        let bundle = unpacked.bundle;
        let path = bundle.path.clone();
        let requirements =
            tokio::task::spawn_blocking(move || in_bundle(&path, &[])).await.map_err(closed)??;
        let installed = self.functions.installer.ensure(&function.name, requirements, None).await?;
        if let Some(serving) = function.serving()
            && Arc::ptr_eq(&serving.bundle, &bundle)
            && serving.settings == settings
            && serving.packages == installed.set
        {
            return Ok(serving);
        }
        let revision = self.functions.revision(function, bundle, settings, installed.set);
        let _turn = self.trials.acquire().await.map_err(closed)?;
        (self.trial)(Arc::clone(function), Arc::clone(&revision)).await?;
        Ok(revision)
    }
}

/// What holds for a handler: what its bundle says, else the worker's defaults.
fn settings(defaults: &Settings, manifest: &Manifest, entrypoint: &str) -> Settings {
    let mut settings =
        Settings { entrypoint: entrypoint.to_owned(), env: manifest.environment.clone(), ..defaults.clone() };
    let (limits, said) = (&mut settings.limits, &manifest.limits);
    if let Some(mib) = said.mem_mb {
        limits.memory = mib << 20;
    }
    if let Some(percent) = said.cpu_percent {
        // The kernel's smallest quota is a hundredth of a core.
        limits.cpu_millis = Some(percent * 10);
    }
    if let Some(procs) = said.procs {
        limits.pids = procs;
    }
    if let Some(seconds) = said.runtime_sec {
        settings.timeout = std::time::Duration::from_secs(seconds);
    }
    if !manifest.reuse {
        settings.reuse = false;
        settings.runners = 1;
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::tests::defaults;

    #[test]
    fn what_a_bundle_says_holds() {
        let text = "environment: {A: 1}\nlimits: {mem_mb: 64, cpu_percent: 50, procs: 7, runtime_sec: 3}\n\
                    reuse-sandbox: false\n";
        let settings = settings(&defaults(), &Manifest::parse(text).unwrap(), "f.f");
        let limits = settings.limits;
        assert_eq!((limits.memory, limits.cpu_millis, limits.pids), (64 << 20, Some(500), 7));
        assert_eq!((settings.timeout.as_secs(), settings.reuse, settings.runners), (3, false, 1));
        assert_eq!((&*settings.entrypoint, &*settings.env["A"]), ("f.f", "1"));
    }

    #[test]
    fn what_it_does_not_say_is_the_default() {
        let manifest = Manifest::parse("{}").unwrap();
        assert_eq!(settings(&defaults(), &manifest, "lambda_func.handler"), defaults());
    }
}
