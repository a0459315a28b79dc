//! What the agent does about each Handler: one entry per handler, changed by what is heard of the API server and by
//! what came of making a revision. A revision that cannot be made leaves the former one serving.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::watcher::Event;
use kube::{Resource as _, ResourceExt as _};
use openlambda_api::conditions::ConditionReason;
use openlambda_api::handler::PackagesStatus;
use openlambda_api::revision;
use openlambda_api::state::Serving;
use openlambda_api::{HandlerName, HandlerSpec, LambdaCluster};
use openlambda_policy::backoff::Backoff;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::clusters::Clusters;
use super::make::{Made, Maker};
use super::objects::Version;
use super::order::{self, Former, Order, Serve};
use super::report::{self, Report};
use super::spec::{HandlerView, Reference, references};
use crate::functions::{Function, Functions, Part};
use crate::packages::Record;
use crate::pool::Pool;
use crate::trouble::Trouble;

/// The first pause before something is tried again, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// What the deployer's own tasks tell it.
pub enum News {
    /// What came of the work of that round.
    Made(String, u64, Box<Made>),
    /// The pause after that round is over.
    Again(String, u64),
    /// The version that an object has now.
    Seen(Reference, Version),
}

/// Keeps the functions as the Handlers want them.
pub struct Deployer {
    clusters: Clusters,
    maker: Arc<Maker>,
    pool: Arc<Pool>,
    report: Arc<Report>,
    news: UnboundedSender<News>,
    entries: HashMap<String, Entry>,
    /// The objects that handlers name, as they were last read.
    versions: HashMap<Reference, Version>,
    /// The handlers of a list that is coming in.
    listed: Option<HashSet<String>>,
    epoch: Instant,
}

/// A handler.
struct Entry {
    uid: Option<String>,
    generation: i64,
    /// None: it cannot be read. Without its source if that is in the bundle that serves.
    spec: Option<Arc<HandlerSpec>>,
    /// The digest of the spec with its source.
    template: String,
    /// The former revisions that get a part of the calls, by name.
    former: BTreeMap<String, Former>,
    function: Arc<Function>,
    references: BTreeSet<Reference>,
    round: u64,
    /// The work of this round, while it lasts.
    work: Option<AbortHandle>,
    backoff: Backoff,
    serving: Option<Serving>,
    /// What the status says that the requirements mean.
    recorded: Option<PackagesStatus>,
    /// What was recorded when the last work began: what came of that is not to be had better by the same.
    tried: Option<PackagesStatus>,
    /// What the requirements of the revision that serves were resolved to here.
    packages: Option<Arc<Record>>,
}

impl Deployer {
    /// Knows no handler yet.
    pub fn new(
        clusters: Clusters,
        maker: Arc<Maker>,
        pool: Arc<Pool>,
        report: Arc<Report>,
        news: UnboundedSender<News>,
    ) -> Self {
        let (entries, versions) = (HashMap::new(), HashMap::new());
        Self { clusters, maker, pool, report, news, entries, versions, listed: None, epoch: Instant::now() }
    }

    /// Something about the clusters of the namespace; whether handlers may have changed hands by it, so that a list
    /// of them is to be gone through.
    pub fn clusters(&mut self, event: Event<PartialObjectMeta<LambdaCluster>>) -> bool {
        self.clusters.take(event)
    }

    /// A list begins.
    pub fn begin_list(&mut self) {
        self.listed = Some(HashSet::new());
    }

    /// A list is complete: what is not on it is gone.
    pub fn end_list(&mut self) {
        let Some(listed) = self.listed.take() else { return };
        let gone: Vec<_> = self.entries.keys().filter(|name| !listed.contains(*name)).cloned().collect();
        for name in gone {
            self.remove(&name);
        }
    }

    /// A handler is new, or something about it has changed.
    pub fn apply(&mut self, object: DeserializeGuard<HandlerView>) {
        let name = object.name_any();
        if let Some(listed) = &mut self.listed {
            listed.insert(name.clone());
        }
        let (uid, generation) = (object.uid(), object.meta().generation.unwrap_or_default());
        let created = object.creation_timestamp().map(|time| time.0);
        let recorded = object.0.as_ref().ok().and_then(|view| view.status.clone()?.packages);
        let spec = match object.0 {
            Ok(view) if self.clusters.serves(view.spec.cluster.as_deref(), created) => Ok(view.spec),
            Ok(_) => return self.remove(&name),
            Err(invalid) => Err(Trouble::lasting(ConditionReason::Unreadable, invalid.error)),
        };
        match self.entries.get_mut(&name) {
            // Its status or its labels: nothing to us but for what is recorded there.
            Some(entry) if entry.uid == uid && entry.generation == generation => {
                entry.recorded = recorded;
                if entry.work.is_none() && entry.is_overruled() {
                    self.start(&name);
                }
                return;
            }
            // Another one of the same name.
            Some(entry) if entry.uid != uid => self.remove(&name),
            _ => {}
        }
        let handler = match HandlerName::parse(&name) {
            Ok(handler) => handler,
            Err(error) => {
                let trouble = Trouble::lasting(ConditionReason::InvalidSpec, error.to_string());
                return self.report.failed(&name, generation, &trouble, None);
            }
        };
        let functions = self.maker.functions();
        let entry = self
            .entries
            .entry(name.clone())
            .or_insert_with(|| Entry::new(uid, functions.declare(&handler, None)));
        entry.stop();
        entry.generation = generation;
        entry.recorded = recorded;
        entry.backoff.succeed();
        match spec {
            Ok(spec) => {
                entry.references = references(&spec);
                entry.template = revision::digest(&spec);
                entry.spec = Some(Arc::new(spec));
                entry.function.hope();
                self.report.pending(&name, generation, entry.serving.clone());
                self.start(&name);
            }
            Err(trouble) => {
                entry.references.clear();
                entry.spec = None;
                entry.fail(&self.report, &trouble);
            }
        }
    }

    /// A handler is gone.
    pub fn delete(&mut self, object: &DeserializeGuard<HandlerView>) {
        self.remove(&object.name_any());
    }

    fn remove(&mut self, name: &str) {
        self.report.remove(name);
        let Some(mut entry) = self.entries.remove(name) else { return };
        entry.stop();
        self.end(&entry.function);
        self.end_parts(&entry.function, &BTreeMap::new());
        tracing::info!(handler = name, "removed");
    }

    /// A function gets no calls any more.
    fn end(&self, function: &Arc<Function>) {
        self.maker.functions().remove(function);
        self.pool.evict(function.key);
    }

    /// Of the former revisions of a handler only these get calls any more.
    fn end_parts(&self, function: &Function, stay: &BTreeMap<String, Former>) {
        let mut parts = self.maker.functions().parts(function);
        parts.retain(|part| part.part.as_deref().is_none_or(|name| !stay.contains_key(name)));
        parts.iter().for_each(|part| self.end(part));
    }

    /// Something that a task of ours has to say.
    pub fn hear(&mut self, news: News) {
        match news {
            News::Made(name, round, made) => self.made(&name, round, *made),
            News::Again(name, round) => {
                if self.entries.get(&name).is_some_and(|entry| entry.round == round) {
                    self.start(&name);
                }
            }
            News::Seen(reference, version) => self.seen(&reference, version),
        }
    }

    /// An object has this version now: who names it is made anew, unless it was read in this version.
    pub fn seen(&mut self, reference: &Reference, version: Version) {
        let users = self.entries.iter().filter(|(_, entry)| entry.references.contains(reference));
        let users: Vec<_> = users.map(|(name, _)| name.clone()).collect();
        if users.is_empty() || self.versions.get(reference) == Some(&version) {
            return;
        }
        tracing::debug!(%reference, ?version, "changed");
        self.versions.insert(reference.clone(), version);
        for name in users {
            self.start(&name);
        }
    }

    /// Whether nothing is being made.
    pub fn is_settled(&self) -> bool {
        self.entries.values().all(|entry| entry.work.is_none())
    }

    /// All objects that handlers name. What was read of others is forgotten.
    pub fn references(&mut self) -> BTreeSet<Reference> {
        let named: BTreeSet<_> = self.entries.values().flat_map(|entry| &entry.references).cloned().collect();
        self.versions.retain(|reference, _| named.contains(reference));
        named
    }

    /// Whether a handler names a ConfigMap.
    pub fn names_config_maps(&self) -> bool {
        let is_one = |reference: &Reference| matches!(reference, Reference::ConfigMap(_));
        self.entries.values().any(|entry| entry.references.iter().any(is_one))
    }

    /// Begins to make a revision; what is under way for this handler is given up.
    fn start(&mut self, name: &str) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        entry.stop();
        let Some(spec) = entry.spec.clone() else { return };
        entry.round += 1;
        let order = Order {
            function: Arc::clone(&entry.function),
            uid: entry.uid.clone().unwrap_or_default(),
            name: revision::name(name, entry.generation),
            spec,
            template: entry.template.clone(),
            recorded: entry.recorded.clone(),
            former: entry.former.clone(),
        };
        entry.tried = entry.recorded.clone();
        let (maker, news, name, round) =
            (Arc::clone(&self.maker), self.news.clone(), name.to_owned(), entry.round);
        let work = tokio::spawn(async move {
            let made = maker.make(&order).await;
            // Nobody listens at the worker's end.
            let _ = news.send(News::Made(name, round, Box::new(made)));
        });
        entry.work = Some(work.abort_handle());
    }

    fn made(&mut self, name: &str, round: u64, made: Made) {
        let Some(entry) = self.entries.get_mut(name).filter(|entry| entry.round == round) else { return };
        entry.work = None;
        // What former revisions name is followed as well.
        entry.references.extend(made.versions.keys().cloned());
        self.versions.extend(made.versions);
        match made.result {
            Ok(serve) => {
                let (functions, pool) = (self.maker.functions(), &self.pool);
                install(functions, pool, &entry.function, &serve);
                let bundle = serve.own.as_ref().map(|revision| &*revision.bundle);
                self.report.ready(name, entry.generation, bundle, made.packages.as_deref());
                entry.packages = made.packages;
                entry.serve(serve);
                let (function, former) = (Arc::clone(&entry.function), entry.former.clone());
                let is_overruled = entry.is_overruled();
                self.end_parts(&function, &former);
                if is_overruled {
                    self.start(name);
                }
            }
            Err(trouble) => {
                tracing::warn!(handler = name, generation = entry.generation, %trouble, "not ready");
                // What serves was made of the same spec: it is not the worse for a read that failed.
                if !(trouble.is_about_us() && entry.is_up_to_date()) {
                    entry.fail(&self.report, &trouble);
                }
                if trouble.passing {
                    self.try_again(name);
                }
            }
        }
    }

    fn try_again(&mut self, name: &str) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let now = self.epoch.elapsed();
        entry.backoff.fail(now);
        let pause = entry.backoff.remaining(now);
        let again = News::Again(name.to_owned(), entry.round);
        let news = self.news.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = news.send(again);
        });
    }
}

/// Has all that was made serve from now on: the parts first, so that no call finds one empty.
fn install(functions: &Functions, pool: &Pool, function: &Arc<Function>, serve: &Serve) {
    for former in serve.former.values() {
        if !former.function.serves(&former.revision) {
            let before = former.function.serving();
            functions.install(&former.function, Arc::clone(&former.revision));
            pool.succeed(former.function.key, before.as_deref(), &former.revision);
        }
    }
    let part = |(percent, name): &(u32, Option<String>)| {
        let former = name.as_ref().and_then(|name| serve.former.get(name));
        Part { percent: *percent, function: former.map(|former| Arc::clone(&former.function)) }
    };
    let split: Vec<Part> = serve.shares.iter().map(part).collect();
    let before = function.serving();
    let is_same = before.as_ref().map(Arc::as_ptr) == serve.own.as_ref().map(Arc::as_ptr);
    if is_same && split == function.split() {
        return;
    }
    functions.install_split(function, serve.own.clone(), split);
    match &serve.own {
        Some(own) if !is_same => pool.succeed(function.key, before.as_deref(), own),
        Some(_) => {}
        None => drop(pool.evict(function.key)),
    }
}

impl Entry {
    fn new(uid: Option<String>, function: Arc<Function>) -> Self {
        Self {
            uid,
            generation: 0,
            spec: None,
            template: String::new(),
            former: BTreeMap::new(),
            function,
            references: BTreeSet::new(),
            round: 0,
            work: None,
            backoff: Backoff::new(PAUSES.0, PAUSES.1),
            serving: None,
            recorded: None,
            tried: None,
            packages: None,
        }
    }

    /// The status has recorded other versions than this node has: another one was first.
    fn is_overruled(&self) -> bool {
        match (&self.recorded, &self.packages) {
            (Some(recorded), Some(ours)) if self.tried != self.recorded => {
                recorded.requirements == ours.requirements && recorded.locked != ours.locked
            }
            _ => false,
        }
    }

    fn is_up_to_date(&self) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.generation == self.generation)
    }

    fn stop(&mut self) {
        // A message that is on its way already is of a former round.
        self.round += 1;
        if let Some(work) = self.work.take() {
            work.abort();
        }
    }

    fn serve(&mut self, serve: Serve) {
        self.backoff.succeed();
        let digest = serve.own.as_ref().map(|revision| report::digest(&revision.bundle));
        self.serving =
            Some(Serving { generation: self.generation, digest: digest.clone().unwrap_or_default() });
        if digest.is_some() {
            self.spec = self.spec.as_ref().map(order::without_code);
        }
        self.former = serve.former.into_iter().map(|(name, former)| (name, former.forget_code())).collect();
    }

    fn fail(&self, report: &Report, trouble: &Trouble) {
        report.failed(&self.function.name, self.generation, trouble, self.serving.clone());
        self.function.fail(trouble.failure());
    }
}
