//! Which revisions of a handler are kept, which are to be kept or given up, and what its status says of them. Pure.

use std::collections::HashMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::core::PartialObjectMeta;
use kube::{Resource as _, ResourceExt as _};
use openlambda_api::HandlerStatus;
use openlambda_api::handler::{DEFAULT_HISTORY, PackagesStatus, Revision};
use openlambda_api::revision;
use openlambda_api::{HandlerState, Phase};

use super::resolve::Found;
use super::view::HandlerView;

/// A revision that is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its name.
    pub name: String,
    /// The digest of its spec.
    pub template: String,
    /// The latest generation of the handler that had this spec.
    pub generation: i64,
    /// The digest of the code that it served.
    pub code: String,
    /// When it was made.
    pub created_at: Time,
}

impl Kept {
    /// What an object keeps, and the uid of the handler that it is of.
    pub fn of(object: &PartialObjectMeta<ControllerRevision>) -> Option<(String, Self)> {
        let owner = object.owner_references().iter().find(|owner| owner.controller == Some(true))?;
        let note = |key: &str| object.annotations().get(key).cloned();
        let kept = Self {
            name: object.name_any(),
            template: object.labels().get(revision::TEMPLATE)?.clone(),
            generation: note(revision::GENERATION)?.parse().ok()?,
            code: note(revision::CODE).unwrap_or_default(),
            created_at: object.creation_timestamp().unwrap_or(Time(Timestamp::UNIX_EPOCH)),
        };
        Some((owner.uid.clone(), kept))
    }

    /// The generation of the spec that it was first: the end of its name.
    fn first(&self) -> i64 {
        self.name.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(self.generation)
    }
}

/// All that are kept, by the handler's uid.
#[derive(Debug, Default)]
pub struct Revisions {
    kept: HashMap<String, Vec<Kept>>,
    /// What we wrote and the watch has not shown yet.
    wrote: HashMap<(String, String), Kept>,
    /// Generations that serve only former revisions and are none themselves.
    none: HashMap<String, i64>,
}

/// A generation that serves and is not known to be a revision yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    /// Which.
    pub generation: i64,
    /// The digest of its code; none if all of its calls go to former revisions.
    pub code: Option<String>,
    /// What its requirements were resolved to.
    pub packages: Option<PackagesStatus>,
}

impl Revisions {
    /// Takes in what the watch shows.
    pub fn see<'a>(&mut self, shown: impl Iterator<Item = &'a PartialObjectMeta<ControllerRevision>>) {
        self.kept.clear();
        for (uid, kept) in shown.filter_map(Kept::of) {
            self.kept.entry(uid).or_default().push(kept);
        }
        let all = &mut self.kept;
        self.wrote.retain(|(uid, name), wrote| {
            let of = all.entry(uid.clone()).or_default();
            let shown = of.iter().position(|kept| kept.name == *name);
            let is_shown = shown.is_some_and(|place| of[place].generation >= wrote.generation);
            if !is_shown {
                shown.map(|place| of.remove(place));
                of.push(wrote.clone());
            }
            !is_shown
        });
    }

    /// Forgets handlers that are gone.
    pub fn prune(&mut self, uids: &[String]) {
        if self.none.len() + self.wrote.len() > uids.len() {
            self.none.retain(|uid, _| uids.contains(uid));
            self.wrote.retain(|(uid, _), _| uids.contains(uid));
        }
    }

    /// Those of a handler.
    pub fn of(&self, uid: &str) -> &[Kept] {
        self.kept.get(uid).map_or(&[], Vec::as_slice)
    }

    /// One was written.
    pub fn wrote(&mut self, uid: &str, kept: Kept) {
        let of = self.kept.entry(uid.to_owned()).or_default();
        of.retain(|one| one.name != kept.name);
        of.push(kept.clone());
        self.wrote.insert((uid.to_owned(), kept.name.clone()), kept);
    }

    /// One was given up.
    pub fn gave_up(&mut self, uid: &str, name: &str) {
        self.wrote.remove(&(uid.to_owned(), name.to_owned()));
        if let Some(of) = self.kept.get_mut(uid) {
            of.retain(|kept| kept.name != name);
        }
    }

    /// The generation is no revision.
    pub fn is_none(&mut self, uid: &str, generation: i64) {
        self.none.insert(uid.to_owned(), generation);
    }

    /// Whether the generation that agents serve is to be kept, or to be found among those that are.
    pub fn due(&self, handler: &HandlerView, found: &Found<'_>) -> Option<Due> {
        let (uid, generation) = (handler.uid()?, handler.meta().generation?);
        let is_known = self.of(&uid).iter().any(|kept| kept.generation == generation);
        if is_known || self.none.get(&uid) == Some(&generation) || handler.meta().deletion_timestamp.is_some()
        {
            return None;
        }
        let serves = |state: &&HandlerState| state.generation == generation && state.state == Phase::Ready;
        let state = found.agents.iter().filter_map(|(_, state)| *state).find(serves)?;
        let packages = state.packages.as_ref().map(|packages| PackagesStatus {
            requirements: packages.requirements.clone(),
            locked: packages.locked.clone(),
        });
        let code = Some(state.digest.clone()).filter(|digest| !digest.is_empty());
        Some(Due { generation, code, packages })
    }

    /// The names of those that are too many: the oldest that get no calls and are not the one that would.
    pub fn excess(&self, handler: &HandlerView) -> Vec<String> {
        let of = self.of(&handler.uid().unwrap_or_default());
        let limit =
            usize::try_from(handler.spec.revision_history_limit.unwrap_or(DEFAULT_HISTORY)).unwrap_or(1);
        if of.len() <= limit {
            return Vec::new();
        }
        let in_use = |kept: &&Kept| {
            let named = handler.spec.traffic.iter().any(|share| share.revision.as_ref() == Some(&kept.name));
            let shown = handler.status.iter().flat_map(|status| &status.revisions);
            named || shown.filter(|one| one.percent > 0).any(|one| one.name == kept.name)
        };
        let mut idle: Vec<_> = of.iter().filter(|kept| !in_use(kept)).collect();
        idle.sort_by_key(|kept| kept.generation);
        idle.into_iter().take(of.len() - limit).map(|kept| kept.name.clone()).collect()
    }
}

/// What the status says: the revision with most of the calls, and all that there are, newest first. `serving` is the
/// generation that serves, with the digest of its code.
pub fn rows(
    handler: &HandlerView,
    old: &HandlerStatus,
    kept: &[Kept],
    serving: Option<(i64, String)>,
    now: &Time,
) -> (Option<String>, Vec<Revision>) {
    let Some((generation, code)) = serving else {
        return (old.active_revision.clone(), old.revisions.clone());
    };
    let shares = match handler.meta().generation == Some(generation) {
        true => shares(handler, name_of(handler, kept, generation)),
        false => shares_before(handler, old, generation),
    };
    let percent =
        |name: &str| shares.iter().filter(|(one, _)| one == name).map(|(_, percent)| percent).sum::<i32>();
    let before = |name: &str| old.revisions.iter().find(|revision| revision.name == name);
    let mut rows: Vec<Revision> = kept
        .iter()
        .map(|kept| Revision {
            name: kept.name.clone(),
            digest: kept.code.clone(),
            generation: kept.first(),
            created_at: before(&kept.name).map_or(&kept.created_at, |row| &row.created_at).clone(),
            percent: percent(&kept.name),
        })
        .collect();
    for (name, percent) in shares.iter().filter(|(_, percent)| *percent > 0) {
        if !rows.iter().any(|row| row.name == *name) {
            let new = || Revision {
                name: name.clone(),
                digest: code.clone(),
                generation,
                created_at: now.clone(),
                percent: 0,
            };
            rows.push(Revision { percent: *percent, ..before(name).cloned().unwrap_or_else(new) });
        }
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.generation));
    let active = rows.iter().rev().max_by_key(|row| row.percent).map(|row| row.name.clone());
    (active, rows)
}

/// The name of the revision that a generation is.
fn name_of(handler: &HandlerView, kept: &[Kept], generation: i64) -> String {
    let known = kept.iter().find(|kept| kept.generation == generation);
    known.map_or_else(|| revision::name(&handler.name_any(), generation), |kept| kept.name.clone())
}

/// How the calls are split as the spec says.
fn shares(handler: &HandlerView, own: String) -> Vec<(String, i32)> {
    let traffic = &handler.spec.traffic;
    if traffic.is_empty() {
        return vec![(own, 100)];
    }
    traffic
        .iter()
        .map(|share| (share.revision.clone().unwrap_or_else(|| own.clone()), share.percent))
        .collect()
}

/// How the calls were split before a spec that does not serve.
fn shares_before(handler: &HandlerView, old: &HandlerStatus, generation: i64) -> Vec<(String, i32)> {
    let before: Vec<_> = old
        .revisions
        .iter()
        .filter(|row| row.percent > 0)
        .map(|row| (row.name.clone(), row.percent))
        .collect();
    match before.is_empty() {
        true => vec![(revision::name(&handler.name_any(), generation), 100)],
        false => before,
    }
}

#[cfg(test)]
mod tests;
