//! Handlers from a directory: found at their first call, looked at again at later ones, so that an edit is served by
//! the next call.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openlambda_api::name::InvalidName;
use openlambda_api::{HandlerName, Reason};
use openlambda_bundle::tree::{ENTRY_FILE, Stamp, Tree, TreeError};
use parking_lot::Mutex;

use crate::bundles::Staged;
use crate::functions::{Function, Functions, NoFunction};
use crate::packages::{PackageError, PackageSet, Requirements, in_bundle};
use crate::reply::Failure;
use crate::revision::Revision;

/// How often a handler's whole directory is looked at; its entry file is at every call.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A directory with more entries is looked at by a blocking thread, after the call that finds it due.
const SMALL: usize = 64;
/// A call waits so long for packages that are being installed; they are installed all the same. Less than lard gives a call.
const PATIENCE: Duration = Duration::from_secs(25);

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

/// What came of a look at the directory that had changed.
enum Copied {
    /// It has not.
    Same(Arc<Revision>),
    New(Box<Snapshot>),
}

/// A copy of the directory.
struct Snapshot {
    staged: Staged,
    wanted: Result<Requirements, PackageError>,
    entry: Stamp,
    at: Instant,
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
            // Each caller has its own patience, those included that wait for another to stage.
            Look::Stale => match tokio::time::timeout(PATIENCE, stage(functions, &function)).await {
                Ok(Ok(revision)) => Ok((function, revision)),
                Ok(Err(NoFunction::Tree(_, TreeError::Missing(_)))) => Err(forget(functions, &function)),
                Ok(Err(error)) => match place.unchanged() {
                    // It cannot be looked at closely, for want of room on the disk as a rule: no reason to stop what serves.
                    Some(revision) if matches!(&error, NoFunction::Tree(_, tree) if tree.is_ours()) => {
                        tracing::warn!(handler = name, %error, "serves what it did");
                        Ok((function, revision))
                    }
                    _ => Err(error),
                },
                Err(_) => Err(NoFunction::Installing(parse(name)?)),
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

/// Brings the revision up to date; all who want it wait for one copy, and for the packages that it needs.
async fn stage(functions: &Arc<Functions>, function: &Arc<Function>) -> Result<Arc<Revision>, NoFunction> {
    let name = parse(&function.name)?;
    let tree = |error| NoFunction::Tree(name.clone(), error);
    let Some(place) = &function.place else { return Err(tree(TreeError::Missing(PathBuf::new()))) };
    let _turn = place.staging.lock().await;
    if let Look::Fresh(revision) = place.look() {
        return Ok(revision);
    }
    let (functions_too, this) = (Arc::clone(functions), Arc::clone(function));
    let copied = tokio::task::spawn_blocking(move || match &this.place {
        Some(place) => place.copy(&functions_too),
        None => Err(TreeError::Missing(PathBuf::new())),
    });
    let copied =
        copied.await.map_err(|error| tree(TreeError::io(&place.directory, io::Error::other(error))))?;
    let copy = match copied.map_err(tree)? {
        Copied::Same(revision) => return Ok(revision),
        Copied::New(copy) => copy,
    };
    let failed = |error: PackageError| {
        function.fail(Failure::agent(Reason::InstallFailed, error.to_string()));
        NoFunction::Packages(name.clone(), error)
    };
    let wanted = copy.wanted.clone().map_err(failed)?;
    let installed = functions.installer.ensure(name.as_str(), wanted, None).await.map_err(failed)?;
    Ok(place.serve(functions, function, *copy, installed.set))
}

fn parse(name: &str) -> Result<HandlerName, InvalidName> {
    HandlerName::parse(name)
}

impl Place {
    /// Whether there is nothing any more. Blocking.
    pub fn is_gone(&self) -> bool {
        Stamp::of(&self.entry).is_err_and(|error| TreeError::io(&self.entry, error).is_missing())
    }

    /// The revision that serves, if the entry file is still the one that it was made of.
    fn unchanged(&self) -> Option<Arc<Revision>> {
        let entry = Stamp::of(&self.entry).ok()?;
        let looked = self.looked.lock();
        looked.revision.clone().filter(|_| looked.entry == Some(entry))
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
            _ => {
                // Whoever stages it looks again, and must not take this look for one that found nothing.
                looked.at = None;
                Look::Stale
            }
        }
    }

    fn read(&self) -> Result<Tree, TreeError> {
        Tree::read(&self.directory, Path::new(ENTRY_FILE))
    }

    /// Copies what is there, unless it is what serves. Blocking.
    fn copy(&self, functions: &Functions) -> Result<Copied, TreeError> {
        let at = Instant::now();
        // Before the copy: an edit after this shows as a different stamp at the next call.
        let entry = Stamp::of(&self.entry).map_err(|source| TreeError::io(&self.entry, source))?;
        let (old, settled, fingerprint) = {
            let looked = self.looked.lock();
            (looked.revision.clone(), looked.settled, looked.fingerprint)
        };
        // Of an unsettled one only the contents tell whether it is still the same.
        if let Some(old) = old.filter(|_| settled)
            && let Ok(tree) = self.read()
            && tree.fingerprint == fingerprint
        {
            return Ok(Copied::Same(old));
        }
        let staged = functions.bundles.stage(&self.directory)?;
        let wanted = in_bundle(&staged.bundle.path, &[]);
        Ok(Copied::New(Box::new(Snapshot { staged, wanted, entry, at })))
    }

    /// Serves a copy from now on; gives the revision.
    fn serve(
        &self,
        functions: &Functions,
        function: &Arc<Function>,
        copy: Snapshot,
        packages: PackageSet,
    ) -> Arc<Revision> {
        let Snapshot { staged: Staged { bundle, fingerprint, settled, entries }, entry, at, .. } = copy;
        let old = self.looked.lock().revision.clone();
        let revision = match old {
            Some(old) if Arc::ptr_eq(&old.bundle, &bundle) && old.packages == packages => {
                function.hope();
                old
            }
            _ => {
                let revision = functions.revision(function, bundle, functions.defaults.clone(), packages);
                function.install(Some(Arc::clone(&revision)), Vec::new());
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
        found
    }
}
