//! Instances that are made before they are asked for: `policy::scaling` says how many each handler should have, this makes those that are
//! missing, beside the calls, and has them load their code.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openlambda_policy::backoff::Backoff;
use openlambda_policy::scaling::{self, Bounds, Now, Scaling};
use parking_lot::Mutex;

use crate::agent::Agent;
use crate::birth;
use crate::compile::{self, Proof};
use crate::functions::Function;
use crate::pool::Count;
use crate::revision::{Revision, wide};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(100);
/// One instance may take so long to be made and to load its code.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first pause after an instance could not be made, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is remembered of a handler for this.
#[derive(Debug)]
pub struct Warmth(Mutex<State>);

#[derive(Debug)]
struct State {
    scaling: Scaling,
    backoff: Backoff,
    /// The floor that the pool knows.
    floor: usize,
    making: bool,
}

impl Default for Warmth {
    fn default() -> Self {
        let (scaling, backoff) = (Scaling::default(), Backoff::new(PAUSES.0, PAUSES.1));
        Self(Mutex::new(State { scaling, backoff, floor: 0, making: false }))
    }
}

/// Keeps every handler at its number until the worker's end.
pub async fn keep(agent: Arc<Agent>) {
    // Without a cache an instance ends with its call: none can be kept.
    if agent.config.handler_cache.bytes() == 0 {
        return;
    }
    let epoch = Instant::now();
    while !agent.drain.has_begun() {
        tokio::time::sleep(EVERY).await;
        let counts = agent.pool.count_by_handler();
        let is_tight =
            agent.memory.is_short() || agent.pool.since_gave_up().is_some_and(|ago| ago < scaling::MEMORY);
        agent.functions.for_each(|function| {
            let count = counts.get(&function.key).copied().unwrap_or_default();
            look(&agent, function, count, is_tight, epoch);
        });
    }
}

fn look(agent: &Arc<Agent>, function: &Arc<Function>, count: Count, is_tight: bool, epoch: Instant) {
    let Some(revision) = function.serving() else { return };
    let settings = &revision.settings;
    let now = epoch.elapsed();
    let bounds = Bounds {
        min: wide(settings.min_warm.into()),
        max: wide(settings.max_instances.into()),
        idle_timeout: settings.idle_timeout,
    };
    let used = count.used.map(|used| used.saturating_duration_since(epoch));
    let seen = Now { all: count.all, running: count.running, used, is_tight };
    let mut state = function.warmth.0.lock();
    if state.floor != bounds.min {
        state.floor = bounds.min;
        agent.pool.set_floor(function.key, bounds.min);
    }
    let wanted = state.scaling.wanted(now, bounds, seen);
    if wanted <= count.all || state.making || !state.backoff.remaining(now).is_zero() {
        return;
    }
    state.making = true;
    drop(state);
    let (agent, function) = (Arc::clone(agent), Arc::clone(function));
    tokio::spawn(async move {
        let missing = wanted - count.all;
        let made = make(&agent, &function, &revision, missing).await;
        let mut state = function.warmth.0.lock();
        state.making = false;
        if made {
            state.backoff.succeed();
        } else {
            state.backoff.fail(epoch.elapsed());
        }
    });
}

/// Makes so many, one after the other, as long as they load.
async fn make(
    agent: &Arc<Agent>,
    function: &Arc<Function>,
    revision: &Arc<Revision>,
    missing: usize,
) -> bool {
    for _ in 0..missing {
        // Calls that have instances made go first, and calls that wait for memory.
        let Some(leave) = revision.births.try_turn() else { return true };
        let memory = revision.settings.limits.memory;
        if agent.drain.has_begun() || !function.serves(revision) || !agent.memory.has_room(memory) {
            return true;
        }
        let deadline = Instant::now() + PATIENCE;
        let Ok(charge) = agent.memory.reserve(function.key, memory, deadline).await else { return false };
        let Ok((lease, _)) = birth::bear(agent, function, revision, charge, deadline).await else {
            return false;
        };
        let (proof, mut lease) = compile::prove(agent, function, lease, deadline).await;
        if proof != Proof::Loads {
            // Why, the next call is told.
            tracing::debug!(handler = &*function.name, ?proof, "no instance could be made ahead");
            return false;
        }
        lease.first_call = Some(leave.born());
        if function.keeps(&mut lease) {
            lease.put_back();
        }
    }
    true
}
