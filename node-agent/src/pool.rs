//! The instances of the worker: who is idle, who is out on a call. `policy::instances` decides who serves, is paused
//! or is given up; this does it.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openlambda_policy::Time;
use openlambda_policy::instances::Instances;
use parking_lot::Mutex;

use crate::functions::Key;
use crate::instance::Instance;

/// What an instance is taken to need until it has been measured.
const FIRST_GUESS: u64 = 1024 * 1024;
/// The shortest and the longest time between two rounds of upkeep.
const ROUND: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// So many rounds of upkeep apart, the idle are checked for life and age.
const ROUNDS_PER_CHECK: u32 = 10;

/// All instances.
#[derive(Debug)]
pub struct Pool {
    state: Mutex<State>,
    epoch: Instant,
    pause_after: Duration,
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
    condition: Condition,
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
    Paused,
}

/// An instance that is out on a call. Dropping it destroys the instance; [`Lease::put_back`] keeps it.
#[derive(Debug)]
pub struct Lease {
    instance: Box<Instance>,
    seat: Seat,
}

/// An instance's entry in the pool; gone with this, unless it was kept.
#[derive(Debug)]
struct Seat {
    pool: Arc<Pool>,
    id: u64,
    kept: bool,
}

/// One instance, for those who look.
#[derive(Clone, Debug, serde::Serialize)]
pub struct View {
    /// The sandbox's number.
    pub id: u64,
    /// Its handler.
    #[serde(serialize_with = "as_text")]
    pub handler: Arc<str>,
    /// `running`, `trial`, `idle` or `paused`.
    pub state: &'static str,
    /// Since the fork.
    pub age_ms: u64,
    /// Since the last call began or ended.
    pub unused_ms: u64,
    /// As last measured.
    pub memory_bytes: u64,
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl Pool {
    /// An empty pool that keeps up to `budget` bytes of idle instances.
    pub fn new(budget: u64, pause_after: Duration) -> Arc<Self> {
        let state = State { policy: Instances::new(budget), all: HashMap::new() };
        Arc::new(Self { state: Mutex::new(state), epoch: Instant::now(), pause_after })
    }

    /// Takes the best idle instance of a handler; it has been thawed if it was paused, and then `true` comes along.
    pub fn take(self: &Arc<Self>, key: Key) -> Option<(Lease, bool)> {
        loop {
            let (id, instance, paused) = {
                let mut state = self.state.lock();
                let taken = state.policy.take(&key)?;
                let entry = state.all.get_mut(&taken.id)?;
                let paused = std::mem::replace(&mut entry.condition, Condition::Awake) == Condition::Paused;
                entry.used = Instant::now();
                (taken.id, entry.instance.take()?, paused)
            };
            let lease = Lease { instance, seat: self.seat(id) };
            if paused && let Err(error) = lease.handle().thaw() {
                tracing::warn!(sandbox = id, %error, "cannot thaw a sandbox; it is destroyed");
                continue;
            }
            if lease.is_quiet() {
                return Some((lease, paused));
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
            condition,
            instance: None,
        };
        self.state.lock().all.insert(id, entry);
        Lease { instance: Box::new(instance), seat: self.seat(id) }
    }

    fn seat(self: &Arc<Self>, id: u64) -> Seat {
        Seat { pool: Arc::clone(self), id, kept: false }
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
        let mut state = self.state.lock();
        let mut ids = Vec::new();
        while let Some(id) = state.policy.oldest().filter(|_| ids.len() < count) {
            state.policy.remove(id);
            ids.push(id);
        }
        let gone = state.drop_entries(&ids);
        drop(state);
        gone.len()
    }

    /// Instances that are running, idle and paused.
    pub fn counts(&self) -> [usize; 3] {
        let state = self.state.lock();
        let (idle, paused) = (state.policy.len(), state.policy.paused());
        [state.all.len() - idle, idle - paused, paused]
    }

    /// All instances, the most recently used first.
    pub fn view(&self) -> Vec<View> {
        let state = self.state.lock();
        let mut entries: Vec<_> = state.all.iter().collect();
        entries.sort_unstable_by_key(|(_, entry)| std::cmp::Reverse(entry.used));
        entries.into_iter().map(|(id, entry)| entry.view(*id)).collect()
    }

    /// Pauses, measures and gives up idle instances, for ever.
    pub async fn keep_up(self: Arc<Self>) {
        let round = self.pause_after.clamp(ROUND.0, ROUND.1);
        for count in 1_u32.. {
            tokio::time::sleep(round).await;
            for id in self.due() {
                self.pause(id);
                tokio::task::yield_now().await;
            }
            if count.is_multiple_of(ROUNDS_PER_CHECK) {
                drop(self.spent());
            }
        }
    }

    fn due(&self) -> Vec<u64> {
        let now = self.now();
        let mut state = self.state.lock();
        let to_pause = state.policy.pause(now, self.pause_after);
        for id in &to_pause {
            if let Some(entry) = state.all.get_mut(id) {
                entry.condition = Condition::ToPause;
            }
        }
        to_pause
    }

    /// Freezes an instance unless it was taken since. Under the lock, so that nobody takes it half frozen.
    fn pause(&self, id: u64) {
        let handle = {
            let mut state = self.state.lock();
            let Some(entry) = state.all.get_mut(&id).filter(|e| e.condition == Condition::ToPause) else {
                return;
            };
            let Some(instance) = &mut entry.instance else { return };
            if let Err(error) = instance.handle().freeze() {
                tracing::warn!(sandbox = id, %error, "cannot freeze a sandbox; it stays awake");
                entry.condition = Condition::Awake;
                return;
            }
            instance.shrink();
            entry.condition = Condition::Paused;
            instance.handle().clone()
        };
        let Ok(bytes) = handle.memory_bytes() else { return };
        drop(handle);
        let mut state = self.state.lock();
        if let Some(entry) = state.all.get_mut(&id) {
            entry.bytes = bytes;
        }
        let victims = state.policy.resize(id, bytes);
        let victims = state.drop_entries(&victims);
        drop(state);
        drop(victims);
    }

    /// Takes out the idle whose process has ended, and those that were not used for too long.
    fn spent(&self) -> Vec<Entry> {
        let mut state = self.state.lock();
        let spent: Vec<u64> =
            state.all.iter().filter(|(_, entry)| entry.is_spent()).map(|(id, _)| *id).collect();
        for id in &spent {
            state.policy.remove(*id);
        }
        state.drop_entries(&spent)
    }

    fn now(&self) -> Time {
        self.epoch.elapsed()
    }
}

impl State {
    /// Takes entries out; the caller drops them after the lock.
    #[must_use = "dropping kills the sandboxes, which must not be done under the lock"]
    fn drop_entries(&mut self, ids: &[u64]) -> Vec<Entry> {
        ids.iter().filter_map(|id| self.all.remove(id)).collect()
    }
}

impl Entry {
    fn is_spent(&self) -> bool {
        let Some(instance) = &self.instance else { return false };
        self.used.elapsed() >= self.idle_timeout || !instance.is_quiet()
    }

    fn view(&self, id: u64) -> View {
        let state = match (&self.instance, self.condition) {
            (None, Condition::Trial) => "trial",
            (None, _) => "running",
            (Some(_), Condition::Paused) => "paused",
            (Some(_), _) => "idle",
        };
        let millis = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        View {
            id,
            handler: Arc::clone(&self.handler),
            state,
            age_ms: millis(self.born),
            unused_ms: millis(self.used),
            memory_bytes: self.bytes,
        }
    }
}

impl Lease {
    /// The call is over, the instance can serve another one.
    pub fn put_back(self) {
        let Self { mut instance, mut seat } = self;
        seat.kept = true;
        instance.first_call = None;
        let revision = Arc::clone(&instance.revision);
        let now = seat.pool.now();
        let mut state = seat.pool.state.lock();
        let Some(entry) = state.all.get_mut(&seat.id) else { return };
        entry.used = Instant::now();
        entry.instance = Some(instance);
        let (key, bytes) = (entry.key, entry.bytes);
        let victims = state.policy.insert(seat.id, &key, bytes, now);
        let victims = state.drop_entries(&victims);
        drop(state);
        revision.births.freed();
        if !victims.is_empty() {
            drop_later(victims);
        }
    }
}

/// Kills sandboxes after the response that is about to be written.
fn drop_later<T: Send + 'static>(victims: T) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move { drop(victims) });
    }
}

impl Deref for Lease {
    type Target = Instance;
    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.kept {
            let entry = self.pool.state.lock().all.remove(&self.id);
            drop(entry);
        }
    }
}
