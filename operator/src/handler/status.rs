//! A handler's status as a pure function of the handler, its status before, and what the agents have of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use openlambda_api::conditions::{self, ConditionReason as Reason, ConditionType as Type, Verdict};
use openlambda_api::handler::{Counts, PackagesStatus};
use openlambda_api::{HandlerState, HandlerStatus, Phase};

use super::resolve::{Found, Nowhere};
use super::revisions::{self, Kept};
use super::view::HandlerView;

#[cfg(test)]
mod tests;

/// The steps of an agent with a revision, in their order.
const STEPS: [Type; 3] = [Type::SourceResolved, Type::PackagesInstalled, Type::CodeLoads];

/// The status that follows.
pub fn compute(
    handler: &HandlerView,
    old: &HandlerStatus,
    found: &Result<Found<'_>, Nowhere>,
    kept: &[Kept],
    now: &Time,
) -> HandlerStatus {
    let generation = handler.metadata.generation.unwrap_or_default();
    let judged = match found {
        Ok(found) => judge(handler, old, found, generation),
        Err(nowhere) => stuck(nowhere),
    };
    let serving = found.as_ref().ok().and_then(|found| serving(found, generation));
    let (active, revisions) = revisions::rows(handler, old, kept, serving, now);
    HandlerStatus {
        observed_generation: Some(generation),
        url: match found {
            Ok(found) => found.url.as_ref().map(|url| format!("{url}/run/{}", handler.name_any())),
            Err(_) => None,
        },
        active_revision: active,
        revisions,
        agents: Some(judged.agents),
        packages: packages(old, found, generation),
        conditions: conditions::next(&old.conditions, &judged.verdicts, Some(generation), now),
    }
}

/// Whether nothing more is expected of the agents: it is ready, or it failed.
pub fn is_final(status: &HandlerStatus) -> bool {
    !conditions::is_true(&status.conditions, Type::Reconciling)
}

struct Judged {
    agents: Counts,
    verdicts: Vec<Verdict>,
}

/// What the agents' words amount to.
struct Tally<'a> {
    ready: usize,
    agents: usize,
    failed: Vec<&'a HandlerState>,
}

impl<'a> Tally<'a> {
    fn of(found: &Found<'a>, generation: i64) -> Self {
        let states = || current(found, generation);
        Self {
            ready: states().filter(|state| state.state == Phase::Ready).count(),
            failed: states().filter(|state| state.state == Phase::Failed).collect(),
            agents: found.agents.len(),
        }
    }
}

/// What agents say of this generation.
fn current<'f, 'a>(
    found: &'f Found<'a>,
    generation: i64,
) -> impl Iterator<Item = &'a HandlerState> + use<'f, 'a> {
    let states = found.agents.iter().filter_map(|(_, state)| *state);
    states.filter(move |state| state.generation == generation)
}

/// What the requirements mean, for every node: what was recorded first stands as long as an agent has the same requirements.
/// By then the others have taken it over from here.
fn packages(
    old: &HandlerStatus,
    found: &Result<Found<'_>, Nowhere>,
    generation: i64,
) -> Option<PackagesStatus> {
    let Ok(found) = found else { return old.packages.clone() };
    let ready = || current(found, generation).filter(|state| state.state == Phase::Ready);
    let said = || ready().filter_map(|state| state.packages.as_ref());
    let same = |old: &&PackagesStatus| said().any(|said| said.requirements == old.requirements);
    if let Some(old) = old.packages.as_ref().filter(same) {
        return Some(old.clone());
    }
    match said().next() {
        Some(said) => {
            Some(PackagesStatus { requirements: said.requirements.clone(), locked: said.locked.clone() })
        }
        // Ready without packages: it needs none any more.
        None if ready().next().is_some() => None,
        None => old.packages.clone(),
    }
}

/// No cluster serves it.
fn stuck(nowhere: &Nowhere) -> Judged {
    let no = |type_| Verdict::no(type_, nowhere.reason, &nowhere.message);
    let unknown = |type_| Verdict::unknown(type_, Reason::Pending, "");
    Judged {
        agents: Counts::new(0, 0),
        verdicts: vec![
            no(Type::Ready),
            unknown(Type::SourceResolved),
            unknown(Type::CodeLoads),
            no(Type::Routed),
            Verdict::yes(Type::Stalled, nowhere.reason, &nowhere.message),
        ],
    }
}

fn judge(handler: &HandlerView, old: &HandlerStatus, found: &Found<'_>, generation: i64) -> Judged {
    let tally = Tally::of(found, generation);
    // A bundle may bring requirements of its own, of which only the agents know.
    let found_some = |state: &HandlerState| {
        state.packages.is_some() || Reason::parse(&state.reason).map(step_of) == Some(Type::PackagesInstalled)
    };
    let packages = !handler.spec.requirements.is_empty() || current(found, generation).any(found_some);
    let steps: Vec<Type> =
        STEPS.into_iter().filter(|step| packages || *step != Type::PackagesInstalled).collect();
    let was_ready = was_ready(old, generation);
    let verdicts = match tally.failed.first() {
        Some(first) => failed(&steps, first, &tally, found),
        // A new agent that has not got to it yet does not make it unready.
        None if tally.ready > 0 && (tally.ready == tally.agents || was_ready) => {
            passed(&steps, found, &tally)
        }
        None => pending(&steps, &tally, found),
    };
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    Judged { agents: Counts::new(count(tally.ready), found.desired.max(count(tally.agents))), verdicts }
}

/// Whether this generation has been ready before.
fn was_ready(old: &HandlerStatus, generation: i64) -> bool {
    conditions::find(&old.conditions, Type::CodeLoads)
        .is_some_and(|c| c.status == "True" && c.observed_generation == Some(generation))
}

fn all(steps: &[Type], verdict: impl Fn(Type) -> Verdict) -> Vec<Verdict> {
    steps.iter().map(|step| verdict(*step)).collect()
}

/// kstatus' conditions, which are there only while they hold.
fn reconciling(reason: Reason, message: &str) -> Verdict {
    Verdict::yes(Type::Reconciling, reason, message)
}

/// Agents have it; what is left is that lard passes calls on.
fn passed(steps: &[Type], found: &Found<'_>, tally: &Tally<'_>) -> Vec<Verdict> {
    let steps = all(steps, |step| Verdict::yes(step, Reason::AsExpected, ""));
    let routed = routed(found, tally.ready > 0);
    let ready = match routed.holds() {
        true => Verdict::yes(Type::Ready, Reason::AsExpected, "it serves"),
        false => Verdict::no(Type::Ready, routed.reason, &routed.message),
    };
    let tail = (!ready.holds()).then(|| reconciling(ready.reason, &ready.message));
    [vec![ready], steps, vec![routed], tail.into_iter().collect()].concat()
}

fn routed(found: &Found<'_>, serves: bool) -> Verdict {
    let name = &found.key.1;
    if !found.balanced {
        let message = format!("no replica of lard of LambdaCluster {name} is ready");
        return Verdict::no(Type::Routed, Reason::BalancerNotReady, message);
    }
    if !serves {
        let message = format!("no agent of LambdaCluster {name} serves it");
        return Verdict::no(Type::Routed, Reason::Unavailable, message);
    }
    Verdict::yes(Type::Routed, Reason::AsExpected, "")
}

fn pending(steps: &[Type], tally: &Tally<'_>, found: &Found<'_>) -> Vec<Verdict> {
    let (reason, message) = match tally.agents {
        0 => (Reason::NoAgents, format!("no agent of LambdaCluster {} is ready", found.key.1)),
        all => (Reason::InProgress, format!("{} of {all} agents have this revision", tally.ready)),
    };
    let steps = all(steps, |step| Verdict::unknown(step, reason, &message));
    let ready = Verdict::no(Type::Ready, reason, &message);
    let routed = routed(found, something_serves(found));
    [vec![ready], steps, vec![routed], vec![reconciling(reason, &message)]].concat()
}

/// The step that failed is False, those before it True, those after it unknown.
fn failed(steps: &[Type], first: &HandlerState, tally: &Tally<'_>, found: &Found<'_>) -> Vec<Verdict> {
    let reason = Reason::parse(&first.reason).unwrap_or(Reason::AgentFailed);
    let mut message = first.message.clone();
    if tally.failed.len() < tally.agents {
        message.push_str(&format!(" (on {} of {} agents)", tally.failed.len(), tally.agents));
    }
    let step = step_of(reason);
    let place = |type_: Type| STEPS.iter().position(|one| *one == type_);
    let verdicts = all(steps, |one| match place(one).cmp(&place(step)) {
        std::cmp::Ordering::Less => Verdict::yes(one, Reason::AsExpected, ""),
        std::cmp::Ordering::Equal => Verdict::no(one, reason, &message),
        std::cmp::Ordering::Greater => Verdict::unknown(one, Reason::Pending, ""),
    });
    let serves = something_serves(found);
    let routed = routed(found, serves);
    if let Some((generation, _)) = serving(found, first.generation).filter(|_| serves) {
        message.push_str(&format!("; generation {generation} keeps serving"));
    }
    let ready = Verdict::no(Type::Ready, reason, &message);
    [vec![ready], verdicts, vec![routed], vec![Verdict::yes(Type::Stalled, reason, &message)]].concat()
}

/// The step that a failure belongs to.
fn step_of(reason: Reason) -> Type {
    match reason {
        Reason::FetchFailed
        | Reason::DigestMismatch
        | Reason::InvalidSource
        | Reason::ReferenceNotFound
        | Reason::NotSupported
        | Reason::InvalidSpec => Type::SourceResolved,
        Reason::InvalidRequirements
        | Reason::Unsatisfiable
        | Reason::NoWheel
        | Reason::IndexUnreachable
        | Reason::HashMismatch
        | Reason::DiskFull
        | Reason::InstallFailed => Type::PackagesInstalled,
        _ => Type::CodeLoads,
    }
}

fn something_serves(found: &Found<'_>) -> bool {
    found
        .agents
        .iter()
        .filter_map(|(_, state)| *state)
        .any(|state| state.state == Phase::Ready || state.serving.is_some())
}

/// The newest revision that an agent serves, with its digest.
fn serving(found: &Found<'_>, generation: i64) -> Option<(i64, String)> {
    let of = |state: &HandlerState| match (&state.serving, state.state) {
        (Some(serving), _) => Some((serving.generation, serving.digest.clone())),
        (None, Phase::Ready) => Some((state.generation, state.digest.clone())),
        (None, _) => None,
    };
    let states = found.agents.iter().filter_map(|(_, state)| *state).filter_map(of);
    states.filter(|(one, _)| *one <= generation).max()
}
