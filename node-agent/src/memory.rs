//! The memory of the node, with its waiting: `policy::memory` decides who gets room, this lets sandboxes wait for it, and gives back what a
//! [`Charge`] held when that is dropped. What has no charge is not started.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use openlambda_api::Reason;
use openlambda_config::Size;
use openlambda_policy::memory::{Memory, Ticket, Verdict};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::functions::Key;
use crate::reply::Failure;

/// The shortest `Retry-After`.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What sandboxes, Zygotes and spares may take of the node.
#[derive(Debug)]
pub struct MemoryPool {
    state: Mutex<State>,
    /// Whether somebody waits: looked at by every call.
    short: AtomicBool,
    relief: Notify,
    epoch: Instant,
}

#[derive(Debug)]
struct State {
    policy: Memory<Key>,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
}

/// Bytes that are charged as long as this lives.
#[derive(Debug)]
pub struct Charge {
    pool: Arc<MemoryPool>,
    bytes: u64,
}

/// How the pool stands, for those who look.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct View {
    /// All there is.
    pub capacity_bytes: u64,
    /// What is charged.
    pub charged_bytes: u64,
    /// Sandboxes that wait for room.
    pub waiting: usize,
}

impl MemoryPool {
    /// With so many bytes, for which so many may wait.
    pub fn new(capacity: u64, most_waiting: usize) -> Arc<Self> {
        let state = State { policy: Memory::new(capacity, most_waiting), waiting: HashMap::new() };
        let (short, relief) = (AtomicBool::new(false), Notify::new());
        Arc::new(Self { state: Mutex::new(state), short, relief, epoch: Instant::now() })
    }

    /// Waits for room for a sandbox of a handler. Dropped meanwhile, it gives up its place.
    pub async fn reserve(
        self: &Arc<Self>,
        key: Key,
        bytes: u64,
        deadline: Instant,
    ) -> Result<Charge, Failure> {
        let (ticket, granted) = {
            let mut state = self.state.lock();
            let verdict = state.policy.request(&key, bytes, self.epoch.elapsed());
            match verdict {
                Verdict::Granted => return Ok(self.charge(bytes)),
                Verdict::TooLarge => return Err(too_large(bytes, state.policy.capacity())),
                Verdict::QueueFull(wait) => return Err(no_room("too many wait for it already", wait)),
                Verdict::Wait(ticket) => {
                    let (sender, granted) = oneshot::channel();
                    state.waiting.insert(ticket, sender);
                    self.settle(&state);
                    (ticket, granted)
                }
            }
        };
        self.relief.notify_one();
        let mut place = Place { pool: self, key, ticket, bytes, granted: Some(granted) };
        let Some(granted) = &mut place.granted else {
            return Err(no_room("its place in the queue is gone", RETRY_AFTER));
        };
        if tokio::time::timeout_at(deadline.into(), granted).await.is_ok() {
            place.granted = None;
            return Ok(self.charge(bytes));
        }
        let wait = self.state.lock().policy.longest_wait(self.epoch.elapsed());
        Err(no_room("running calls did not give any back in time", wait))
    }

    /// Charges what is there already, whether it fits or not.
    pub fn hold(self: &Arc<Self>, bytes: u64) -> Charge {
        self.state.lock().policy.hold(bytes);
        self.charge(bytes)
    }

    /// Whether so much fits and nobody waits for it.
    pub fn has_room(&self, bytes: u64) -> bool {
        let state = self.state.lock();
        let policy = &state.policy;
        policy.waiting() == 0 && policy.charged().saturating_add(bytes) <= policy.capacity()
    }

    /// How much one that holds `own` could hold in all.
    pub fn room_of(&self, own: u64) -> u64 {
        let state = self.state.lock();
        (state.policy.capacity() + own).saturating_sub(state.policy.charged())
    }

    /// Whether somebody waits for room.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// How many bytes the one in front lacks.
    pub fn shortage(&self) -> u64 {
        self.state.lock().policy.shortage()
    }

    /// Returns when something could be given up for one that waits.
    pub async fn wanted(&self) {
        self.relief.notified().await;
    }

    /// How it stands.
    pub fn view(&self) -> View {
        let state = self.state.lock();
        let policy = &state.policy;
        View { capacity_bytes: policy.capacity(), charged_bytes: policy.charged(), waiting: policy.waiting() }
    }

    fn charge(self: &Arc<Self>, bytes: u64) -> Charge {
        Charge { pool: Arc::clone(self), bytes }
    }

    fn release(&self, bytes: u64) {
        let mut state = self.state.lock();
        let granted = state.policy.release(bytes);
        self.tell(&mut state, granted);
        drop(state);
        // With what has come free, what is idle may be enough for the next.
        self.offer();
    }

    /// Something could be given up for one that waits.
    fn offer(&self) {
        if self.is_short() {
            self.relief.notify_one();
        }
    }

    fn tell(&self, state: &mut State, granted: Vec<Ticket>) {
        for ticket in granted {
            if let Some(sender) = state.waiting.remove(&ticket) {
                // Nobody listens only if the place is being dropped, which looks into the channel then.
                let _ = sender.send(());
            }
        }
        self.settle(state);
    }

    fn settle(&self, state: &State) {
        self.short.store(state.policy.waiting() > 0, Ordering::Relaxed);
    }
}

impl Charge {
    /// The bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of it, for another holder.
    pub fn take(&mut self) -> Self {
        Self { pool: Arc::clone(&self.pool), bytes: std::mem::take(&mut self.bytes) }
    }

    /// What holds this is idle now, and could be given up for one that waits.
    pub fn offer(&self) {
        self.pool.offer();
    }

    /// From now on so many: more only if they fit and nobody waits. False: it stays as it is.
    pub fn try_resize(&mut self, bytes: u64) -> bool {
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            if !self.pool.state.lock().policy.try_charge(more) {
                return false;
            }
        } else if bytes < self.bytes {
            self.pool.release(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }

    /// From now on so many, which were measured.
    pub fn set(&mut self, bytes: u64) {
        if bytes > self.bytes {
            self.pool.state.lock().policy.hold(bytes - self.bytes);
            self.bytes = bytes;
        } else {
            self.try_resize(bytes);
        }
    }

    /// Waits until it is so many.
    pub async fn grow(&mut self, key: Key, bytes: u64, deadline: Instant) -> Result<(), Failure> {
        if !self.try_resize(bytes) {
            let pool = Arc::clone(&self.pool);
            let mut more = pool.reserve(key, bytes - self.bytes, deadline).await?;
            self.bytes += std::mem::take(&mut more.bytes);
        }
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.pool.release(self.bytes);
        }
    }
}

/// A place in the queue.
struct Place<'a> {
    pool: &'a Arc<MemoryPool>,
    key: Key,
    ticket: Ticket,
    bytes: u64,
    granted: Option<oneshot::Receiver<()>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.granted.is_none() {
            return;
        }
        let mut state = self.pool.state.lock();
        state.waiting.remove(&self.ticket);
        let granted = match state.policy.cancel(&self.key, self.ticket) {
            Some(granted) => granted,
            // Granted in the meantime: bytes that nobody will use.
            None => state.policy.release(self.bytes),
        };
        self.pool.tell(&mut state, granted);
    }
}

fn too_large(bytes: u64, capacity: u64) -> Failure {
    let (bytes, capacity) = (Size::from_bytes(bytes), Size::from_bytes(capacity));
    let message = format!(
        "a sandbox of the handler may take {bytes} of memory, and all sandboxes of this node share {capacity}: \
         lower limits.memory, or raise memory_pool"
    );
    Failure::agent(Reason::NoCapacity, message)
}

fn no_room(why: &str, wait: Duration) -> Failure {
    let message = format!("the node has no memory for another sandbox: {why}");
    Failure::agent(Reason::NoCapacity, message).after(wait.max(RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test(start_paused = true)]
    async fn a_charge_ends_with_its_holder() {
        let pool = MemoryPool::new(100, 1);
        let mut first = pool.reserve(1, 80, soon()).await.unwrap();
        assert!(!first.try_resize(101) && first.try_resize(90));
        let second = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.reserve(2, 20, soon()).await }
        });
        tokio::task::yield_now().await;
        assert!(pool.is_short());
        assert_eq!(pool.shortage(), 10);
        let full = pool.reserve(2, 20, soon()).await.unwrap_err();
        assert_eq!(full.reason, Reason::NoCapacity);
        first.set(80);
        let second = second.await.unwrap().unwrap();
        assert_eq!((pool.view().charged_bytes, pool.is_short()), (100, false));
        drop((first, second));
        assert_eq!(pool.view().charged_bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_or_waits_too_long_leaves_nothing_behind() {
        let pool = MemoryPool::new(100, 10);
        let first = pool.reserve(1, 100, soon()).await.unwrap();
        let late = pool.reserve(1, 1, Instant::now() + Duration::from_millis(5)).await.unwrap_err();
        assert!(late.message.contains("no memory"), "{}", late.message);
        let dropped = tokio::time::timeout(Duration::from_millis(5), pool.reserve(1, 1, soon())).await;
        assert!(dropped.is_err());
        assert!(!pool.is_short());
        drop(first);
        assert_eq!(pool.view().charged_bytes, 0);
        let never = pool.reserve(1, 200, soon()).await.unwrap_err();
        assert!(never.message.contains("memory_pool"), "{}", never.message);
    }

    #[tokio::test(start_paused = true)]
    async fn a_charge_grows_when_there_is_room() {
        let pool = MemoryPool::new(100, 10);
        let first = pool.reserve(1, 60, soon()).await.unwrap();
        let mut second = pool.hold(10);
        let grown = tokio::spawn(async move {
            second.grow(2, 50, soon()).await.unwrap();
            second
        });
        tokio::task::yield_now().await;
        assert_eq!(pool.shortage(), 60 + 10 + 40 - 100);
        drop(first);
        assert_eq!(grown.await.unwrap().bytes(), 50);
        assert_eq!(pool.view().charged_bytes, 0);
    }
}
