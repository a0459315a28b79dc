//! Spare sandboxes: forked after one was taken, beside the calls, as many as the pace of each node asks for.

use std::sync::Arc;
use std::time::Duration;

use openlambda_policy::import_cache::NodeId;
use openlambda_policy::spares::wanted;
use openlambda_sandbox::Zygote;

use super::ImportCache;

/// The call that took a spare goes first.
const AFTER: Duration = Duration::from_millis(2);
/// Without calls it is looked so often whether there are too many.
const ROUND: Duration = Duration::from_secs(2);
/// Spares may take one part in so many of the import cache's memory.
const SHARE: u64 = 4;
/// What a spare is taken to hold.
pub(super) const BYTES: u64 = 2 << 20;

impl ImportCache {
    /// Keeps the spares at their number until the worker's end.
    pub(super) async fn refill(self: Arc<Self>) {
        while self.budget > 0 && !self.drain.has_begun() {
            // Woken by each start, or by time.
            let _ = tokio::time::timeout(ROUND, self.wanting.notified()).await;
            tokio::time::sleep(AFTER).await;
            self.trim();
            while let Some((node, zygote)) = self.short_of_spares() {
                if zygote.waiting() > 0 {
                    // Calls wait for it: they go first.
                    tokio::time::sleep(AFTER).await;
                    continue;
                }
                match zygote.spare(&self.limits.sandbox).await {
                    Ok(spare) => {
                        if let Some(entry) = self.state.lock().live.get_mut(&node) {
                            entry.spares.push_back(spare);
                        }
                    }
                    // Its end is heard of elsewhere.
                    Err(_) => break,
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// How many spares each node should have.
    fn targets(&self) -> Vec<(NodeId, usize)> {
        let now = self.now();
        let state = self.state.lock();
        let mut nodes: Vec<_> = state.live.iter().map(|(id, node)| (*id, node.pace.rate(now))).collect();
        drop(state);
        nodes.sort_unstable_by_key(|(id, _)| *id);
        let rates: Vec<f64> = nodes.iter().map(|(_, rate)| *rate).collect();
        // None where memory is wanted.
        let budget = if self.memory.has_room(BYTES) { self.budget } else { 0 };
        let room = usize::try_from(budget / SHARE / BYTES).unwrap_or(usize::MAX);
        nodes.into_iter().map(|(id, _)| id).zip(wanted(&rates, self.limits.spares, room)).collect()
    }

    fn short_of_spares(&self) -> Option<(NodeId, Zygote)> {
        let targets = self.targets();
        let state = self.state.lock();
        targets.into_iter().find_map(|(id, target)| {
            let node = state.live.get(&id)?;
            let (zygote, _) = node.idlest()?;
            (node.spares.len() < target && !zygote.has_ended()).then(|| (id, zygote.clone()))
        })
    }

    /// Gives up all spares. Gives how many there were.
    pub fn give_up_spares(&self) -> usize {
        let mut state = self.state.lock();
        let gone: Vec<_> =
            state.live.values_mut().flat_map(|node| std::mem::take(&mut node.spares)).collect();
        self.count(&state);
        drop(state);
        self.metrics.evicted("spares", gone.len());
        gone.len()
    }

    /// Gives up the spares that are too many.
    fn trim(&self) {
        let targets = self.targets();
        let mut gone = Vec::new();
        let mut state = self.state.lock();
        for (id, target) in targets {
            let Some(node) = state.live.get_mut(&id) else { continue };
            while node.spares.len() > target {
                gone.extend(node.spares.pop_back());
            }
        }
        drop(state);
        drop(gone);
    }
}
