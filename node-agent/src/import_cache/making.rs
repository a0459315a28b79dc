//! How a node of the import cache is made: forked from its parent, told what to import, listened to meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openlambda_policy::import_cache::{Cost, Failure, NodeId, PackageId, ROOT, Ready};
use openlambda_sandbox::{BranchError, Limits, Zygote};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;

use super::{ImportCache, Node, State, mark};
use crate::packages::Package;

/// Another process of a node may take so long to come.
const COPY: Duration = Duration::from_secs(10);
/// Processes and threads of a Zygote.
const PIDS: u32 = 64;
/// Names in all records of one Zygote.
const MAX_NAMES: usize = 10_000;

/// A record of a Zygote that imports; see `importer.py`. It may lie.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Record {
    begin: Option<String>,
    end: Option<String>,
    us: u64,
    bytes: u64,
    misses: Vec<String>,
    modules: Vec<String>,
    bad: Option<String>,
    reason: Option<String>,
    message: String,
}

/// What is to be imported.
struct Job {
    parent: Zygote,
    /// All packages of the node, sorted.
    packages: Vec<PackageId>,
    /// Those that are to be imported: on the disk as long as this lives.
    _held: Vec<Arc<Package>>,
    text: Vec<u8>,
}

/// What was heard of it.
struct Progress {
    at: Instant,
    importing: Option<String>,
    costs: Vec<(String, Cost)>,
    misses: Vec<String>,
    modules: Vec<String>,
    bad: Option<(Option<String>, String, String)>,
}

impl Progress {
    fn hear(&mut self, record: &[u8]) {
        let Ok(record) = serde_json::from_slice::<Record>(record) else { return };
        if let Some(folder) = record.begin {
            (self.importing, self.at) = (Some(folder), Instant::now());
        } else if let Some(folder) = record.end {
            // It cannot have taken longer than since it began.
            let most = u64::try_from(self.at.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.costs.push((folder, Cost { micros: record.us.min(most), bytes: record.bytes }));
            (self.importing, self.at) = (None, Instant::now());
        } else if let Some(reason) = record.reason {
            self.bad = Some((record.bad, reason, record.message));
        }
        let room = MAX_NAMES.saturating_sub(self.misses.len() + self.modules.len());
        self.misses.extend(record.misses.into_iter().take(room));
        let room = MAX_NAMES.saturating_sub(self.misses.len() + self.modules.len());
        self.modules.extend(record.modules.into_iter().take(room));
    }

    /// Which package is to blame, why, and how to say it. None: no package is known to be.
    fn blame(
        self,
        error: Option<&BranchError>,
        patience: Duration,
    ) -> Option<(String, &'static str, String)> {
        if let Some((folder, reason, message)) = self.bad {
            let reason = match reason.as_str() {
                "threads" => "threads",
                "files" => "files",
                _ => "raises",
            };
            return Some((folder?, reason, message));
        }
        let folder = self.importing?;
        match error {
            None => {
                let limit = patience.as_secs_f64();
                Some((folder, "hangs", format!("importing it did not end within {limit} s (import_timeout)")))
            }
            Some(BranchError::Ended(exit)) if exit.oom_killed => {
                Some((folder, "memory", "importing it needs more memory than the import cache has".into()))
            }
            // A signal that no program raises by itself: the kernel's or the operator's doing.
            Some(BranchError::Ended(exit)) if exit.is_kill() || exit.failure.is_some() => None,
            Some(BranchError::Ended(exit)) => {
                Some((folder, "crashes", format!("when it is imported, the process {exit}")))
            }
            Some(_) => None,
        }
    }
}

impl ImportCache {
    /// Makes a node as planned, and says what came of it.
    pub(super) async fn make(self: Arc<Self>, node: NodeId, parent: NodeId, packages: Vec<PackageId>) {
        let job = self.state.lock().job(parent, &packages);
        let Some(job) = job else { return self.fail(node, Failure::Other) };
        let progress = Progress {
            at: Instant::now(),
            importing: None,
            costs: Vec::new(),
            misses: Vec::new(),
            modules: Vec::new(),
            bad: None,
        };
        let began = Instant::now();
        let limits = Limits { memory: self.budget, pids: PIDS, ..Limits::default() };
        let heard = Mutex::new(progress);
        let branch = job.parent.branch(&limits, &job.text, |record| heard.lock().hear(record));
        let made = tokio::select! {
            made = branch => Some(made),
            () = hanging(&heard, self.limits.patience) => None,
        };
        let progress = heard.into_inner();
        match made {
            Some(Ok(zygote)) => {
                tracing::info!(node, packages = packages.len(), took = ?began.elapsed(), "a Zygote is up");
                self.adopt(node, zygote, job, progress);
            }
            Some(Err(error)) => self.blame(node, Some(&error), progress),
            None => self.blame(node, None, progress),
        }
        self.changed.notify_one();
    }

    fn adopt(self: &Arc<Self>, node: NodeId, zygote: Zygote, job: Job, progress: Progress) {
        let bytes = zygote.memory_bytes().unwrap_or(0);
        let mut state = self.state.lock();
        let State { policy, names, live, .. } = &mut *state;
        let costs = progress.costs.into_iter().filter_map(|(folder, cost)| {
            Some((names.find(&folder)?, Cost { bytes: cost.bytes.min(bytes), ..cost }))
        });
        let costs = costs.collect();
        let (wanted, found) = (progress.misses.len() + progress.modules.len(), |ids: &[u32]| ids.len());
        let misses: Vec<_> = progress.misses.iter().filter_map(|name| names.module(name)).collect();
        let modules: Vec<_> = progress.modules.iter().filter_map(|name| names.module(name)).collect();
        if found(&misses) + found(&modules) < wanted {
            // Without all names it cannot be told for whom it is safe.
            policy.failed(node, Failure::Other, self.now());
            return drop(state);
        }
        policy.ready(node, Ready { costs, bytes, misses, modules }, self.now());
        live.insert(node, Node::new(zygote.clone(), job.packages));
        self.count(&state);
        drop(state);
        let this = Arc::clone(self);
        tokio::spawn(async move { this.watch(node, zygote).await });
    }

    /// Waits for the end of a node's process.
    async fn watch(self: Arc<Self>, node: NodeId, zygote: Zygote) {
        // The handle would keep it alive.
        let exited = zygote.exit_watch();
        drop(zygote);
        exited.await;
        let mut state = self.state.lock();
        let Some(entry) = state.live.get(&node) else { return };
        if entry.zygotes.first().is_some_and(|first| !first.has_ended()) {
            return;
        }
        let entry = state.live.remove(&node);
        state.policy.ended(node, self.now());
        self.count(&state);
        drop(state);
        drop(entry);
        self.metrics.zygote_restarts.inc();
        tracing::warn!(node, "a Zygote of the import cache has ended");
        self.changed.notify_one();
    }

    fn fail(&self, node: NodeId, failure: Failure) {
        self.state.lock().policy.failed(node, failure, self.now());
    }

    /// A node has not come to be, for this reason.
    fn blame(&self, node: NodeId, error: Option<&BranchError>, mut progress: Progress) {
        let mut state = self.state.lock();
        let State { policy, names, marked, .. } = &mut *state;
        let misses =
            std::mem::take(&mut progress.misses).iter().filter_map(|name| names.module(name)).collect();
        let blamed = progress.blame(error, self.limits.patience);
        let blamed =
            blamed.and_then(|(folder, reason, message)| Some((names.find(&folder)?, reason, message)));
        let Some((package, reason, message)) = blamed else {
            policy.failed(node, Failure::Other, self.now());
            self.metrics.zygote_failed("other");
            let error = error.map_or_else(|| "it did not become ready in time".into(), ToString::to_string);
            return tracing::warn!(
                node,
                error,
                "a Zygote of the import cache did not start; it is tried again"
            );
        };
        if policy.failed(node, Failure::Package { package, misses }, self.now()) {
            mark(policy, names, marked, package, reason, &message);
            self.metrics.zygote_failed(reason);
        } else {
            let package = names.folder(package);
            tracing::info!(
                node,
                package,
                message,
                "what handlers have in common does not do without the rest"
            );
        }
    }

    /// Makes another process of a node.
    pub(super) async fn copy(self: Arc<Self>, node: NodeId) {
        let job = self.state.lock().job(node, &[]);
        let made = match job {
            Some(job) => {
                let limits = Limits { memory: self.budget, pids: PIDS, ..Limits::default() };
                let branch = job.parent.branch(&limits, &job.text, |_| {});
                tokio::time::timeout(COPY, branch).await.ok().and_then(Result::ok)
            }
            None => None,
        };
        let mut state = self.state.lock();
        let Some(entry) = state.live.get_mut(&node) else { return };
        entry.copying = false;
        entry.zygotes.retain(|zygote| !zygote.has_ended());
        entry.zygotes.extend(made);
        self.count(&state);
    }
}

/// Returns when nothing was heard for so long.
async fn hanging(heard: &Mutex<Progress>, patience: Duration) {
    loop {
        let at = heard.lock().at;
        let Some(left) = patience.checked_sub(at.elapsed()) else { return };
        tokio::time::sleep(left).await;
    }
}

impl State {
    /// What a child of `parent` is to do to hold `more` as well.
    fn job(&self, parent: NodeId, more: &[PackageId]) -> Option<Job> {
        let from = self.live.get(&parent)?;
        let zygote = from.zygotes.first()?.clone();
        let (mut packages, mut held, mut imports) = (from.packages.clone(), Vec::new(), Vec::new());
        for id in more {
            let package = self.names.held(*id)?;
            imports.push((package.folder.clone(), self.names.imports(&package, *id)));
            packages.push(*id);
            held.push(package);
        }
        packages.sort_unstable();
        let path: Vec<_> = packages.iter().map(|id| self.names.folder(*id)).collect();
        let text = json!({"path": path, "packages": imports}).to_string().into_bytes();
        debug_assert!(parent == ROOT || !packages.is_empty());
        Some(Job { parent: zygote, packages, _held: held, text })
    }
}
