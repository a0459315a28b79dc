//! The instances of the worker: who is idle, who is out on a call. `policy::instances` decides who serves, is paused
//! or is given up; this does it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openlambda_policy::Time;
use openlambda_policy::instances::Instances;
use openlambda_sandbox::SandboxHandle;
use parking_lot::Mutex;

use crate::functions::Key;
use crate::instance::Instance;
use crate::revision::Revision;

mod lease;
mod upkeep;
mod view;

pub use lease::Lease;
pub use view::Count;

/// What an instance is taken to need until it has been measured.
const FIRST_GUESS: u64 = 1024 * 1024;

/// All instances.
#[derive(Debug)]
pub struct Pool {
    state: Mutex<State>,
    epoch: Instant,
    pause_after: Duration,
    /// When something was last given up for want of memory: milliseconds after the epoch, 0 for never.
    gave_up: AtomicU64,
}

#[derive(Debug)]
struct State {
    policy: Instances<Key>,
    all: HashMap<u64, Entry>,
}

/// An instance, here or out.
#[derive(Debug)]
struct Entry {
    handler: Arc<str>,
    key: Key,
    born: Instant,
    used: Instant,
    bytes: u64,
    /// Idle for so long, it is destroyed.
    idle_timeout: Duration,
    cpu_weight: u32,
    condition: Condition,
    handle: SandboxHandle,
    /// None: it is out on a call.
    instance: Option<Box<Instance>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Awake,
    /// It serves nobody: its handler's code is only looked at.
    Trial,
    /// The policy has said so; not done yet.
    ToPause,
    /// It is wanted for a call, and there is no room yet for what it may use then.
    ToWake,
    Paused,
}

impl Pool {
    /// An empty pool that keeps up to `budget` bytes of idle instances.
    pub fn new(budget: u64, pause_after: Duration) -> Arc<Self> {
        let state = State { policy: Instances::new(budget), all: HashMap::new() };
        let (epoch, gave_up) = (Instant::now(), AtomicU64::new(0));
        Arc::new(Self { state: Mutex::new(state), epoch, pause_after, gave_up })
    }

    /// Takes the best idle instance of a handler. If it is paused it must be woken before it is called.
    pub fn take(self: &Arc<Self>, key: Key) -> Option<Lease> {
        loop {
            let lease = {
                let mut state = self.state.lock();
                let taken = state.policy.take(&key)?;
                let entry = state.all.get_mut(&taken.id)?;
                let asleep = entry.condition == Condition::Paused;
                entry.condition = if asleep { Condition::ToWake } else { Condition::Awake };
                entry.used = Instant::now();
                Lease::new(entry.instance.take()?, asleep, self, key)
            };
            if lease.is_quiet() {
                return Some(lease);
            }
            // Its process ended, or it talks without being asked: it is destroyed with the lease.
        }
    }

    /// Takes up a new instance, which is out on a call at once.
    pub fn adopt(self: &Arc<Self>, handler: Arc<str>, key: Key, instance: Instance) -> Lease {
        self.enter(handler, key, instance, Condition::Awake)
    }

    /// Takes up a sandbox in which a handler's code is compiled or tried, and which is then given up.
    pub fn adopt_trial(self: &Arc<Self>, handler: Arc<str>, key: Key, instance: Instance) -> Lease {
        self.enter(handler, key, instance, Condition::Trial)
    }

    fn enter(
        self: &Arc<Self>,
        handler: Arc<str>,
        key: Key,
        instance: Instance,
        condition: Condition,
    ) -> Lease {
        let (id, now) = (instance.handle().id(), Instant::now());
        let entry = Entry {
            handler,
            key,
            born: instance.born,
            used: now,
            bytes: FIRST_GUESS,
            idle_timeout: instance.revision.settings.idle_timeout,
            cpu_weight: instance.revision.settings.limits.cpu_weight,
            condition,
            handle: instance.handle().clone(),
            instance: None,
        };
        self.state.lock().all.insert(id, entry);
        Lease::new(Box::new(instance), false, self, key)
    }

    /// Destroys the idle instances of a handler.
    pub fn evict(&self, key: Key) -> usize {
        let mut state = self.state.lock();
        let ids = state.policy.remove_handler(&key);
        let gone = state.drop_entries(&ids);
        drop(state);
        let count = gone.len();
        drop_later(gone);
        count
    }

    /// Destroys up to `count` of the least recently used idle instances. Gives how many there were.
    pub fn evict_oldest(&self, count: usize) -> usize {
        self.give_up(|gone| gone.len() < count)
    }

    /// Destroys idle instances, the least recently used first, until so many bytes are free. Gives how many there were.
    pub fn free_up(&self, bytes: u64) -> usize {
        let charged = |entry: &Entry| entry.instance.as_ref().map_or(0, |instance| instance.charge.bytes());
        self.give_up(|gone| gone.iter().map(charged).sum::<u64>() < bytes)
    }

    /// What idle instances hold.
    pub fn idle_bytes(&self) -> u64 {
        let state = self.state.lock();
        state
            .all
            .values()
            .filter_map(|entry| entry.instance.as_ref())
            .map(|instance| instance.charge.bytes())
            .sum()
    }

    fn give_up(&self, more: impl Fn(&[Entry]) -> bool) -> usize {
        let mut gone = Vec::new();
        let mut state = self.state.lock();
        while more(&gone) {
            let Some(id) = state.policy.pop_victim() else { break };
            gone.extend(state.all.remove(&id));
        }
        drop(state);
        self.note(&gone);
        gone.len()
    }

    /// What was given up for want of memory, whoever wanted it: the cache's own bound or others.
    fn note(&self, gone: &[Entry]) {
        if !gone.is_empty() {
            let now = u64::try_from(self.now().as_millis()).unwrap_or(u64::MAX);
            self.gave_up.store(now.max(1), Ordering::Relaxed);
        }
    }

    /// How long ago something was last given up for want of memory.
    pub fn since_gave_up(&self) -> Option<Duration> {
        let at = self.gave_up.load(Ordering::Relaxed);
        (at > 0).then(|| self.now().saturating_sub(Duration::from_millis(at)))
    }

    /// A handler keeps so many idle instances, as long as there is another way to make room.
    pub fn set_floor(&self, key: Key, floor: usize) {
        self.state.lock().policy.set_floor(&key, floor);
    }

    /// Another revision serves a handler from now on: instances that cannot become that are destroyed, the others are held to its limits,
    /// those included that are out on a call.
    pub fn succeed(&self, key: Key, former: Option<&Revision>, revision: &Revision) {
        if !former.is_some_and(|former| former.can_become(revision)) {
            self.evict(key);
            return;
        }
        let (mut state, mut handles) = (self.state.lock(), Vec::new());
        for entry in state.all.values_mut().filter(|entry| entry.key == key) {
            entry.follow(revision);
            handles.push(entry.handle.clone());
        }
        drop(state);
        for handle in handles {
            if let Err(error) = handle.apply(&revision.settings.limits) {
                tracing::debug!(sandbox = handle.id(), %error, "a sandbox keeps its former limits until its next call");
            }
        }
    }

    /// Instances that are running, idle and paused.
    pub fn counts(&self) -> [usize; 3] {
        let state = self.state.lock();
        let (idle, paused) = (state.policy.len(), state.policy.paused());
        [state.all.len() - idle, idle - paused, paused]
    }

    fn now(&self) -> Time {
        self.epoch.elapsed()
    }
}

impl Entry {
    /// What holds for it beside calls may be otherwise than at its birth.
    fn follow(&mut self, revision: &Revision) {
        self.idle_timeout = revision.settings.idle_timeout;
        self.cpu_weight = revision.settings.limits.cpu_weight;
    }
}

impl State {
    /// Takes entries out; the caller drops them after the lock.
    #[must_use = "dropping kills the sandboxes, which must not be done under the lock"]
    fn drop_entries(&mut self, ids: &[u64]) -> Vec<Entry> {
        ids.iter().filter_map(|id| self.all.remove(id)).collect()
    }
}

/// Kills sandboxes after the response that is about to be written.
fn drop_later<T: Send + 'static>(victims: T) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move { drop(victims) });
    }
}
