//! What happens to instances beside the calls: the idle are paused, measured and given up, and the running share the CPUs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use openlambda_sandbox::SandboxHandle;

use super::{Condition, Entry, Pool};
use crate::functions::Key;

/// The shortest and the longest time between two rounds of upkeep.
const ROUND: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// So many rounds of upkeep apart, the idle are checked for life and age.
const ROUNDS_PER_CHECK: u32 = 10;

impl Pool {
    /// Pauses, measures and gives up idle instances, for ever.
    pub async fn keep_up(self: Arc<Self>) {
        let round = self.pause_after.clamp(ROUND.0, ROUND.1);
        for count in 1_u32.. {
            tokio::time::sleep(round).await;
            for id in self.due(self.pause_after) {
                self.pause(id);
                tokio::task::yield_now().await;
            }
            self.share_cpus();
            if count.is_multiple_of(ROUNDS_PER_CHECK) {
                drop(self.spent());
            }
        }
    }

    /// Pauses all that are idle at once, for one that waits for the room that they may use awake.
    pub fn pause_idle(&self) {
        for id in self.due(Duration::ZERO) {
            self.pause(id);
        }
    }

    fn due(&self, pause_after: Duration) -> Vec<u64> {
        let now = self.now();
        let mut state = self.state.lock();
        let mut to_pause = state.policy.pause(now, pause_after);
        to_pause.retain(|id| {
            let entry = state.all.get_mut(id).filter(|entry| entry.condition == Condition::Awake);
            entry.map(|entry| entry.condition = Condition::ToPause).is_some()
        });
        to_pause
    }

    /// The running instances of a handler divide its share of the CPUs: one with many leaves the others theirs.
    fn share_cpus(&self) {
        let mut running: HashMap<Key, Vec<(SandboxHandle, u32)>> = HashMap::new();
        let state = self.state.lock();
        for entry in state.all.values().filter(|entry| entry.instance.is_none()) {
            running.entry(entry.key).or_default().push((entry.handle.clone(), entry.cpu_weight));
        }
        drop(state);
        for instances in running.into_values() {
            // Rounded, so that it is not written anew for each call.
            let sharers = u32::try_from(instances.len()).unwrap_or(u32::MAX).next_power_of_two();
            for (handle, weight) in instances {
                if let Err(error) = handle.set_cpu_weight((weight / sharers).max(1)) {
                    tracing::debug!(sandbox = handle.id(), %error, "its share of the CPUs stays as it was");
                }
            }
        }
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
            // Unless it was taken meanwhile: then it may use more.
            if let Some(instance) = entry.instance.as_mut().filter(|_| entry.condition == Condition::Paused) {
                instance.charge.set(bytes);
            }
        }
        let victims = state.policy.resize(id, bytes);
        let victims = state.drop_entries(&victims);
        drop(state);
        self.note(&victims);
        drop(victims);
    }

    /// Takes out the idle whose process has ended, and those that were not used for too long, but for what their handlers keep.
    fn spent(&self) -> Vec<Entry> {
        let mut state = self.state.lock();
        let mut spent: Vec<_> = state
            .all
            .iter()
            .filter(|(_, entry)| entry.is_spent())
            .map(|(id, entry)| (entry.used, *id))
            .collect();
        spent.sort_unstable();
        let mut gone = Vec::new();
        for (_, id) in spent {
            let keep = !state.policy.is_above_floor(id) && state.all.get(&id).is_some_and(Entry::is_alive);
            if !keep {
                state.policy.remove(id);
                gone.extend(state.all.remove(&id));
            }
        }
        gone
    }
}

impl Entry {
    fn is_spent(&self) -> bool {
        self.instance.is_some() && (self.used.elapsed() >= self.idle_timeout || !self.is_alive())
    }

    fn is_alive(&self) -> bool {
        self.instance.as_ref().is_some_and(|instance| instance.is_quiet())
    }
}
