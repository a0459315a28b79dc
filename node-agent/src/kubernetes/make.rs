//! From a spec to a revision that has been tried: read what it names, fetch, stage, try to load.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use openlambda_api::HandlerSpec;
use openlambda_api::conditions::ConditionReason;
use openlambda_api::handler::{DEFAULT_ENTRYPOINT, PackagesStatus};
use openlambda_api::source::{BundleSource, HttpSource};
use openlambda_bundle::Digest;
use tokio::sync::Semaphore;

use super::fetch::Fetcher;
use super::files::{self, Files};
use super::objects::{Look, Objects, Version};
use super::order::{self, Former, Order, Past, Serve, Wanted};
use super::spec::{self, Reference};
use crate::bundles::Bundle;
use crate::functions::{Function, Functions};
use crate::packages::{Installed, PackageSet, Record, in_bundle};
use crate::registry::{Shelf, Unpacked};
use crate::revision::{Revision, Settings, entry_file};
use crate::trial::Trial;
use crate::trouble::{Trouble, closed};

/// Archives that are fetched at a time.
const FETCHES: usize = 4;
/// Handlers that are staged and tried at a time, per processor.
const TRIALS_PER_CPU: usize = 4;

/// Makes revisions.
pub struct Maker {
    functions: Arc<Functions>,
    objects: Objects,
    fetcher: Fetcher,
    trial: Trial,
    /// Bundles of the cluster's registry, if it has one.
    shelf: Option<Shelf>,
    fetches: Semaphore,
    trials: Semaphore,
}

/// What came of it, and which versions of which objects went into it.
pub struct Made {
    /// The revisions, which may be those that serve already.
    pub result: Result<Serve, Trouble>,
    /// What was read.
    pub versions: BTreeMap<Reference, Version>,
    /// What the handler's own requirements were resolved to, if it has any and it came to that.
    pub packages: Option<Arc<Record>>,
}

/// The code of a handler before it is in a bundle.
enum Code {
    Files(Files),
    Http(HttpSource),
    Bundle(Arc<Bundle>),
}

impl Maker {
    /// Makes revisions of these functions.
    pub fn new(functions: Arc<Functions>, objects: Objects, trial: Trial, shelf: Option<Shelf>) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            functions,
            objects,
            fetcher: Fetcher::default(),
            trial,
            shelf,
            fetches: Semaphore::new(FETCHES),
            trials: Semaphore::new(cpus * TRIALS_PER_CPU),
        }
    }

    /// The functions.
    pub fn functions(&self) -> &Arc<Functions> {
        &self.functions
    }

    /// What handlers name.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Makes what gets calls as the spec wants it: all of it, or nothing.
    pub async fn make(&self, order: &Order) -> Made {
        let (mut look, mut packages) = (self.objects.look(), None);
        let result = self.all(order, &mut look, &mut packages).await;
        Made { result, versions: look.versions, packages }
    }

    async fn all(
        &self,
        order: &Order,
        look: &mut Look<'_>,
        packages: &mut Option<Arc<Record>>,
    ) -> Result<Serve, Trouble> {
        let mut serve = Serve { own: None, former: BTreeMap::new(), shares: Vec::new() };
        for (percent, wanted) in order.shares(&self.objects).await? {
            let name = match wanted {
                Wanted::Own if serve.own.is_some() => None,
                Wanted::Own => {
                    let recorded = order.recorded.as_ref();
                    let one = self.one(&order.function, &order.spec, order.staged(), recorded, look);
                    let (revision, record) = one.await?;
                    (serve.own, *packages) = (Some(revision), record);
                    None
                }
                Wanted::Former(name, past) => {
                    let former = self.former(order, &name, past, look).await;
                    let former = former.map_err(|trouble| trouble.of(&format!("revision {name}")))?;
                    serve.former.insert(name.clone(), former);
                    Some(name)
                }
            };
            serve.shares.push((percent, name));
        }
        if serve.former.is_empty() {
            serve.shares.clear();
        }
        Ok(serve)
    }

    async fn former(
        &self,
        order: &Order,
        name: &str,
        past: Past,
        look: &mut Look<'_>,
    ) -> Result<Former, Trouble> {
        let function = self.functions.declare_part(&order.function, name);
        let staged = order::staged(&function, &past.spec);
        let one = self.one(&function, &past.spec, staged, past.packages.as_ref(), look);
        let (revision, _) = one.await?;
        Ok(Former { past, function, revision })
    }

    /// Makes a revision as the spec wants it. `staged` is its code if that is already here.
    async fn one(
        &self,
        function: &Arc<Function>,
        spec: &HandlerSpec,
        staged: Option<Arc<Bundle>>,
        recorded: Option<&PackagesStatus>,
        look: &mut Look<'_>,
    ) -> Result<(Arc<Revision>, Option<Arc<Record>>), Trouble> {
        let (bundle, settings) = self.code(spec, staged, look).await?;
        let installed = self.packages(function, spec, &bundle, recorded).await?;
        let revision = self.revision(function, bundle, settings, installed.set).await?;
        Ok((revision, installed.record))
    }

    /// The code as the spec wants it, and what holds for it.
    async fn code(
        &self,
        spec: &HandlerSpec,
        staged: Option<Arc<Bundle>>,
        look: &mut Look<'_>,
    ) -> Result<(Arc<Bundle>, Settings), Trouble> {
        let env = look.env(spec).await?;
        if let Some(source) = &spec.source.bundle {
            let unpacked = self.take(spec, source).await?;
            let settings = spec::settings_with(spec, &self.functions.defaults, env, &unpacked)?;
            return Ok((unpacked.bundle, settings));
        }
        let settings = spec::settings(spec, &self.functions.defaults, env)?;
        let code = match staged {
            Some(bundle) => Code::Bundle(bundle),
            None => source(spec, look).await?,
        };
        let bundle = match code {
            Code::Bundle(bundle) => bundle,
            Code::Files(files) => {
                self.stage(spec, move |entrypoint, to| files::write(&files, entrypoint, to)).await?
            }
            Code::Http(source) => self.fetch(spec, source).await?,
        };
        Ok((bundle, settings))
    }

    /// The packages that the spec and the bundle ask for, in the versions that are recorded, if they are.
    async fn packages(
        &self,
        function: &Function,
        spec: &HandlerSpec,
        bundle: &Arc<Bundle>,
        recorded: Option<&PackagesStatus>,
    ) -> Result<Installed, Trouble> {
        let (path, list) = (bundle.path.clone(), spec.requirements.clone());
        let wanted = tokio::task::spawn_blocking(move || in_bundle(&path, &list)).await.map_err(closed)??;
        let digest = wanted.digest();
        let recorded = recorded.filter(|status| status.requirements == digest);
        let recorded = recorded.map(|status| status.locked.clone());
        Ok(self.functions.installer.ensure(&function.name, wanted, recorded).await?)
    }

    /// The revision of all that, tried unless it serves already.
    async fn revision(
        &self,
        function: &Arc<Function>,
        bundle: Arc<Bundle>,
        settings: Settings,
        packages: PackageSet,
    ) -> Result<Arc<Revision>, Trouble> {
        if let Some(serving) = function.serving()
            && Arc::ptr_eq(&serving.bundle, &bundle)
            && serving.settings == settings
            && serving.packages == packages
        {
            return Ok(serving);
        }
        let revision = self.functions.revision(function, bundle, settings, packages);
        let _turn = self.trials.acquire().await.map_err(closed)?;
        (self.trial)(Arc::clone(function), Arc::clone(&revision)).await?;
        Ok(revision)
    }

    /// A bundle of the registry.
    async fn take(&self, spec: &HandlerSpec, source: &BundleSource) -> Result<Unpacked, Trouble> {
        let lasting =
            |reason, message: String| Trouble::lasting(reason, format!("spec.source.bundle: {message}"));
        let Some(shelf) = &self.shelf else {
            let message =
                "the LambdaCluster has no spec.registry: set it, or use inline, files, configMap or http";
            return Err(lasting(ConditionReason::NotSupported, message.to_owned()));
        };
        let digest = Digest::parse(source.digest.as_str());
        let digest = digest.map_err(|error| lasting(ConditionReason::InvalidSpec, error.to_string()))?;
        // The default may stand for what the bundle's form says.
        let entrypoint = Some(&*spec.entrypoint).filter(|entrypoint| *entrypoint != DEFAULT_ENTRYPOINT);
        shelf.take(&source.key, &digest, entrypoint).await
    }

    async fn fetch(&self, spec: &HandlerSpec, source: HttpSource) -> Result<Arc<Bundle>, Trouble> {
        let fetched = {
            let _turn = self.fetches.acquire().await.map_err(closed)?;
            self.fetcher.fetch(&source, self.functions.bundles.scratch_file()).await?
        };
        self.stage(spec, move |entrypoint, to| files::unpack(fetched.path(), &source.url, entrypoint, to))
            .await
    }

    /// Has a blocking thread put the files where they belong.
    async fn stage(
        &self,
        spec: &HandlerSpec,
        fill: impl FnOnce(&str, &Path) -> Result<(), Trouble> + Send + 'static,
    ) -> Result<Arc<Bundle>, Trouble> {
        let _turn = self.trials.acquire().await.map_err(closed)?;
        let (bundles, entrypoint) = (self.functions.bundles.clone(), spec.entrypoint.clone());
        let staged = tokio::task::spawn_blocking(move || {
            bundles.make(|to| {
                fill(&entrypoint, to)?;
                Ok((entry_file(&entrypoint).into(), entrypoint))
            })
        });
        staged.await.map_err(closed)?
    }
}

/// Where the code comes from.
async fn source(spec: &HandlerSpec, look: &mut Look<'_>) -> Result<Code, Trouble> {
    let source = &spec.source;
    if let Some(inline) = &source.inline {
        let name = entry_file(&spec.entrypoint);
        return Ok(Code::Files(Files::from([(name, inline.clone().into_bytes())])));
    }
    if let Some(files) = &source.files {
        let files = files.iter().map(|(name, text)| (name.clone(), text.clone().into_bytes()));
        return Ok(Code::Files(files.collect()));
    }
    if let Some(config_map) = &source.config_map {
        return Ok(Code::Files(look.files(&config_map.name).await?));
    }
    match &source.http {
        Some(http) => Ok(Code::Http(http.clone())),
        None => {
            let message = "spec.source: give one of inline, files, configMap, http and bundle";
            Err(Trouble::lasting(ConditionReason::InvalidSpec, message))
        }
    }
}
