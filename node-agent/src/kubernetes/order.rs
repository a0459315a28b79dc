//! What is to be made for a handler, and what came of it: its own revision, and the former ones that get a part of its calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use openlambda_api::HandlerSpec;
use openlambda_api::conditions::ConditionReason;
use openlambda_api::handler::PackagesStatus;
use openlambda_api::revision::{self, Kept};
use openlambda_api::source::Source;

use super::objects::Objects;
use crate::bundles::Bundle;
use crate::functions::Function;
use crate::revision::Revision;
use crate::trouble::Trouble;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct Order {
    /// The handler.
    pub function: Arc<Function>,
    /// Its uid, which its revisions name.
    pub uid: String,
    /// The name of its own revision if that was none before.
    pub name: String,
    /// How it should be. Without its source if that is in the bundle that serves.
    pub spec: Arc<HandlerSpec>,
    /// The digest of the spec with its source.
    pub template: String,
    /// Which versions its requirements mean.
    pub recorded: Option<PackagesStatus>,
    /// The former revisions that serve, by name.
    pub former: BTreeMap<String, Former>,
}

/// How a former revision was.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its spec. Without its source if that is in the bundle that serves.
    pub spec: Arc<HandlerSpec>,
    /// The digest of the spec with its source.
    pub template: String,
    /// Which versions its requirements mean.
    pub packages: Option<PackagesStatus>,
}

/// A former revision that gets a part of the calls.
#[derive(Clone, Debug)]
pub struct Former {
    /// How it was.
    pub past: Past,
    /// What answers the calls.
    pub function: Arc<Function>,
    /// With what.
    pub revision: Arc<Revision>,
}

/// What is to serve.
#[derive(Debug)]
pub struct Serve {
    /// The handler's own revision, unless it gets no calls.
    pub own: Option<Arc<Revision>>,
    /// The former ones, by name.
    pub former: BTreeMap<String, Former>,
    /// How many of a hundred calls go to which: `None` is the own revision. Empty: all to that.
    pub shares: Vec<(u32, Option<String>)>,
}

/// Who gets a part of the calls, before it is made.
#[derive(Debug)]
pub enum Wanted {
    /// The handler's own revision.
    Own,
    /// A former one.
    Former(String, Past),
}

impl Order {
    /// Who gets how much.
    pub async fn shares(&self, objects: &Objects) -> Result<Vec<(u32, Wanted)>, Trouble> {
        let mut shares = Vec::new();
        for share in self.spec.traffic.iter().filter(|share| share.percent > 0) {
            let wanted = match &share.revision {
                None => Wanted::Own,
                Some(name) => self.find(name, objects).await?,
            };
            shares.push((share.percent.unsigned_abs(), wanted));
        }
        if shares.is_empty() {
            shares.push((100, Wanted::Own));
        }
        Ok(shares)
    }

    async fn find(&self, name: &str, objects: &Objects) -> Result<Wanted, Trouble> {
        let past = match self.former.get(name) {
            Some(former) => Some(former.past.clone()),
            None => objects.revision(name, &self.uid).await?.map(Past::new),
        };
        match past {
            Some(past) if past.template == self.template => Ok(Wanted::Own),
            Some(past) => Ok(Wanted::Former(name.to_owned(), past)),
            None if name == self.name => Ok(Wanted::Own),
            None => Err(Trouble::passing(
                ConditionReason::ReferenceNotFound,
                format!(
                    "spec.traffic: there is no revision {name}; status.revisions has those that there are"
                ),
            )),
        }
    }

    /// The code of the handler's own revision if it is here already.
    pub fn staged(&self) -> Option<Arc<Bundle>> {
        staged(&self.function, &self.spec)
    }
}

impl Past {
    fn new(kept: Kept) -> Self {
        let template = revision::digest(&kept.spec);
        Self { spec: Arc::new(kept.spec), template, packages: kept.packages }
    }
}

impl Former {
    /// The code is in the bundle that serves.
    pub fn forget_code(self) -> Self {
        let spec = without_code(&self.past.spec);
        Self { past: Past { spec, ..self.past }, ..self }
    }
}

/// The code that a function serves, if that is where the code of the spec is.
pub fn staged(function: &Function, spec: &HandlerSpec) -> Option<Arc<Bundle>> {
    let is_staged = spec.source == Source::default();
    function.serving().filter(|_| is_staged).map(|revision| Arc::clone(&revision.bundle))
}

/// A spec whose code is in a bundle now: no need to keep it in memory.
pub fn without_code(spec: &Arc<HandlerSpec>) -> Arc<HandlerSpec> {
    match spec.source.inline.is_some() || spec.source.files.is_some() {
        true => Arc::new(HandlerSpec { source: Source::default(), ..(**spec).clone() }),
        false => Arc::clone(spec),
    }
}
