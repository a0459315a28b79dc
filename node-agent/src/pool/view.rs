//! The instances for those who look.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::{Condition, Entry, Pool};
use crate::functions::Key;

/// One instance.
#[derive(Clone, Debug, serde::Serialize)]
pub struct View {
    /// The sandbox's number.
    pub id: u64,
    /// Its handler.
    #[serde(serialize_with = "as_text")]
    pub handler: Arc<str>,
    /// `running`, `trial`, `waking`, `idle` or `paused`.
    pub state: &'static str,
    /// What has to happen before its state changes.
    pub waits_for: &'static str,
    /// Since the fork.
    pub age_ms: u64,
    /// Since the last call began or ended.
    pub unused_ms: u64,
    /// What is charged to its cgroup; of one that is paused, when it was paused.
    pub memory_bytes: u64,
}

/// The instances of one handler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// All, but for trials.
    pub all: usize,
    /// Those that are out on a call.
    pub running: usize,
    /// When one of them was last used.
    pub used: Option<Instant>,
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl Pool {
    /// All instances, the most recently used first.
    pub fn view(&self) -> Vec<View> {
        let state = self.state.lock();
        let mut entries: Vec<_> =
            state.all.iter().map(|(id, entry)| (entry.used, entry.view(*id), entry.handle.clone())).collect();
        drop(state);
        entries.sort_unstable_by_key(|(used, ..)| std::cmp::Reverse(*used));
        // Files are read without the lock: calls do not wait for those who look.
        let measured = entries.into_iter().map(|(_, view, handle)| match view.state {
            "paused" => view,
            _ => View { memory_bytes: handle.memory_bytes().unwrap_or(view.memory_bytes), ..view },
        });
        measured.collect()
    }

    /// How many instances each handler has that has any.
    pub fn count_by_handler(&self) -> HashMap<Key, Count> {
        let mut counts: HashMap<Key, Count> = HashMap::new();
        let state = self.state.lock();
        for entry in state.all.values().filter(|entry| entry.condition != Condition::Trial) {
            let count = counts.entry(entry.key).or_default();
            count.all += 1;
            count.running += usize::from(entry.instance.is_none() && entry.condition != Condition::ToWake);
            count.used = count.used.max(Some(entry.used));
        }
        counts
    }
}

impl Entry {
    fn view(&self, id: u64) -> View {
        let (state, waits_for) = match (&self.instance, self.condition) {
            (None, Condition::Trial) => ("trial", "its code to load"),
            (None, Condition::ToWake) => ("waking", "memory for what it may use awake"),
            (None, _) => ("running", "its handler to answer"),
            (Some(_), Condition::Paused) => ("paused", "a call, or the end of idle_timeout"),
            (Some(_), _) => ("idle", "a call, or the end of pause_after"),
        };
        let millis = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        View {
            id,
            handler: Arc::clone(&self.handler),
            state,
            waits_for,
            age_ms: millis(self.born),
            unused_ms: millis(self.used),
            memory_bytes: self.bytes,
        }
    }
}
