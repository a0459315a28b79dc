//! From a revision in the registry to one that can serve: fetch, unpack, install, try.

use std::sync::Arc;

use openlambda_api::HandlerName;
use openlambda_store::Revision as Wanted;
use tokio::sync::Semaphore;

use super::shelf::Shelf;
use crate::functions::{Function, Functions};
use crate::packages::in_bundle;
use crate::revision::Revision;
use crate::trial::Trial;
use crate::trouble::{Trouble, closed};

/// Handlers that are tried at a time, per processor.
const TRIALS_PER_CPU: usize = 4;

/// Records that are read at a time.
const READS: usize = 32;

/// Makes revisions.
pub struct Maker {
    /// Of these.
    pub functions: Arc<Functions>,
    shelf: Shelf,
    trial: Trial,
    trials: Semaphore,
    /// Records that are read at a time: calls of strange names cost one each.
    pub reads: Semaphore,
}

impl Maker {
    /// Makes revisions of these functions.
    pub fn new(functions: Arc<Functions>, shelf: Shelf, trial: Trial) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            functions,
            shelf,
            trial,
            trials: Semaphore::new(cpus * TRIALS_PER_CPU),
            reads: Semaphore::new(READS),
        }
    }

    /// Which revision served last, also before this worker.
    pub fn last(&self, handler: &HandlerName) -> Option<Wanted> {
        self.shelf.archives().last(handler)
    }

    /// Notes which revision serves, for the next start. A small file.
    pub fn note(&self, handler: &HandlerName, wanted: Option<&Wanted>) {
        if let Err(error) = self.shelf.archives().note(handler, wanted) {
            tracing::warn!(handler = handler.as_str(), %error, "cannot note what serves");
        }
    }

    /// A revision that has been tried; the one that serves, if it is the same.
    pub async fn make(&self, function: &Arc<Function>, wanted: &Wanted) -> Result<Arc<Revision>, Trouble> {
        let unpacked = self.shelf.take(&wanted.key, &wanted.digest, None).await?;
        for note in &unpacked.manifest.notes {
            tracing::warn!(handler = &*function.name, revision = wanted.number, "{note}");
        }
        let settings = unpacked.settings(&self.functions.defaults);
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
