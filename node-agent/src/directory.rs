//! Handlers from a directory: found at their first call, looked at again at later ones, so that an edit is served by
//! the next call.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openlambda_api::HandlerName;
use openlambda_api::name::InvalidName;
use parking_lot::Mutex;

use crate::bundles::Staged;
use crate::functions::{Function, Functions, NoFunction};
use crate::packages::PackageSet;
use crate::revision::Revision;
use crate::tree::{ENTRY_FILE, Stamp, Tree, TreeError};

/// How often a handler's whole directory is looked at; its entry file is at every call.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A directory with more entries is looked at by a blocking thread, after the call that finds it due.
const SMALL: usize = 64;

/// A directory with one directory per handler.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
}

/// A handler's directory.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    entry: PathBuf,
    looked: Mutex<Looked>,
    /// Held by the one who stages it.
    staging: tokio::sync::Mutex<()>,
}

/// What was seen of it.
#[derive(Debug, Default)]
struct Looked {
    revision: Option<Arc<Revision>>,
    entry: Option<Stamp>,
    fingerprint: u64,
    settled: bool,
    entries: usize,
    at: Option<Instant>,
}

/// Whether the revision can be used.
enum Look {
    Fresh(Arc<Revision>),
    /// And the rest of the directory is due for a look, which takes a while.
    Due(Arc<Revision>),
    Stale,
    Missing,
}

impl Directory {
    /// Handlers below `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The handler of this name with the code to serve; `known` if it has been called before.
    pub async fn get(
        &self,
        functions: &Arc<Functions>,
        known: Option<Arc<Function>>,
        name: &str,
    ) -> Result<(Arc<Function>, Arc<Revision>), NoFunction> {
        let function = match known {
            Some(function) => function,
            None => self.discover(functions, name)?,
        };
        let Some(place) = &function.place else { return Err(forget(functions, &function)) };
        match place.look() {
            Look::Fresh(revision) => Ok((function, revision)),
            Look::Due(revision) => {
                let (functions, due) = (Arc::clone(functions), Arc::clone(&function));
                // What it finds, the next call serves.
                tokio::spawn(async move { stage(&functions, &due).await });
                Ok((function, revision))
            }
            Look::Missing => Err(forget(functions, &function)),
            Look::Stale => match stage(functions, &function).await {
                Ok(revision) => Ok((function, revision)),
                Err(TreeError::Missing(_)) => Err(forget(functions, &function)),
                Err(error) => Err(NoFunction::Tree(parse(name)?, error)),
            },
        }
    }

    /// Takes up a handler whose directory is there: so the number of known ones is bounded by what is in the registry.
    fn discover(&self, functions: &Functions, name: &str) -> Result<Arc<Function>, NoFunction> {
        let name = parse(name)?;
        let directory = self.root.join(name.as_str());
        let entry = directory.join(ENTRY_FILE);
        if let Err(error) = Stamp::of(&entry) {
            return Err(match TreeError::io(&entry, error) {
                TreeError::Missing(_) => NoFunction::NotInDirectory(name),
                error => NoFunction::Tree(name, error),
            });
        }
        let staging = tokio::sync::Mutex::new(());
        Ok(functions.declare(&name, Some(Place { directory, entry, looked: Mutex::default(), staging })))
    }
}

fn forget(functions: &Functions, function: &Arc<Function>) -> NoFunction {
    functions.remove(function);
    match HandlerName::parse(&function.name) {
        Ok(name) => NoFunction::NotInDirectory(name),
        Err(error) => NoFunction::Name(error),
    }
}

/// Brings the revision up to date; all who want it wait for one copy.
async fn stage(functions: &Arc<Functions>, function: &Arc<Function>) -> Result<Arc<Revision>, TreeError> {
    let Some(place) = &function.place else { return Err(TreeError::Missing(PathBuf::new())) };
    let _turn = place.staging.lock().await;
    if let Look::Fresh(revision) = place.look() {
        return Ok(revision);
    }
    let (functions, this) = (Arc::clone(functions), Arc::clone(function));
    let staged = tokio::task::spawn_blocking(move || match &this.place {
        Some(place) => place.stage(&functions, &this),
        None => Err(TreeError::Missing(PathBuf::new())),
    });
    staged.await.map_err(|error| TreeError::io(&place.directory, io::Error::other(error)))?
}

fn parse(name: &str) -> Result<HandlerName, InvalidName> {
    HandlerName::parse(name)
}

impl Place {
    /// Whether there is nothing any more. Blocking.
    pub fn is_gone(&self) -> bool {
        Stamp::of(&self.entry).is_err_and(|error| TreeError::io(&self.entry, error).is_missing())
    }

    /// Looks whether the registry has what is served: one system call, and every [`LOOK_EVERY`] some more.
    fn look(&self) -> Look {
        let entry = match Stamp::of(&self.entry) {
            Ok(entry) => entry,
            Err(error) => {
                let missing = TreeError::io(&self.entry, error).is_missing();
                return if missing { Look::Missing } else { Look::Stale };
            }
        };
        let mut looked = self.looked.lock();
        let Some(revision) = looked.revision.clone() else { return Look::Stale };
        if looked.entry != Some(entry) {
            return Look::Stale;
        }
        if looked.at.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return Look::Fresh(revision);
        }
        if !looked.settled {
            return Look::Stale;
        }
        looked.at = Some(Instant::now());
        if looked.entries > SMALL {
            return Look::Due(revision);
        }
        match self.read() {
            Ok(tree) if tree.fingerprint == looked.fingerprint => Look::Fresh(revision),
            _ => Look::Stale,
        }
    }

    fn read(&self) -> Result<Tree, TreeError> {
        Tree::read(&self.directory, Path::new(ENTRY_FILE))
    }

    fn stage(&self, functions: &Functions, function: &Arc<Function>) -> Result<Arc<Revision>, TreeError> {
        let at = Instant::now();
        // Before the copy: an edit after this shows as a different stamp at the next call.
        let entry = Stamp::of(&self.entry).map_err(|source| TreeError::io(&self.entry, source))?;
        let (old, settled, fingerprint) = {
            let looked = self.looked.lock();
            (looked.revision.clone(), looked.settled, looked.fingerprint)
        };
        // Of an unsettled one only the contents tell whether it is still the same.
        if let Some(old) = old.clone().filter(|_| settled)
            && let Ok(tree) = self.read()
            && tree.fingerprint == fingerprint
        {
            return Ok(old);
        }
        let Staged { bundle, fingerprint, settled, entries } = functions.bundles.stage(&self.directory)?;
        let revision = match old {
            Some(old) if Arc::ptr_eq(&old.bundle, &bundle) => old,
            _ => {
                let revision =
                    functions.revision(function, bundle, functions.defaults.clone(), PackageSet::default());
                function.install(Arc::clone(&revision));
                revision
            }
        };
        let found = Arc::clone(&revision);
        *self.looked.lock() = Looked {
            revision: Some(revision),
            entry: Some(entry),
            fingerprint,
            settled,
            entries,
            at: Some(at),
        };
        Ok(found)
    }
}
