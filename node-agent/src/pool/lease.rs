//! An instance that is out on a call.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

use super::{Condition, Pool, drop_later};
use crate::functions::Key;
use crate::instance::Instance;
use crate::memory::Charge;
use crate::reply::Failure;

/// An instance that is out on a call. Dropping it destroys the instance; [`Lease::put_back`] keeps it.
#[derive(Debug)]
pub struct Lease {
    instance: Box<Instance>,
    /// It is paused.
    asleep: bool,
    seat: Seat,
}

/// An instance's entry in the pool; gone with this, unless it was kept.
#[derive(Debug)]
struct Seat {
    pool: Arc<Pool>,
    key: Key,
    id: u64,
    kept: bool,
}

impl Lease {
    pub(super) fn new(instance: Box<Instance>, asleep: bool, pool: &Arc<Pool>, key: Key) -> Self {
        let id = instance.handle().id();
        let seat = Seat { pool: Arc::clone(pool), key, id, kept: false };
        Self { instance, asleep, seat }
    }

    /// Whether it is paused.
    pub fn is_asleep(&self) -> bool {
        self.asleep
    }

    /// Lets it go on if it is paused, once there is room for what it may use then, which may have been raised. False: it cannot be used.
    pub async fn wake(&mut self, deadline: Instant) -> Result<bool, Failure> {
        let most = self.instance.revision.settings.limits.memory;
        if self.instance.charge.bytes() < most {
            self.instance.charge.grow(self.seat.key, most, deadline).await?;
        }
        if !self.asleep {
            return Ok(true);
        }
        if let Err(error) = self.instance.handle().thaw() {
            tracing::warn!(sandbox = self.seat.id, %error, "cannot thaw a sandbox; it is destroyed");
            return Ok(false);
        }
        self.asleep = false;
        if let Some(entry) = self.seat.pool.state.lock().all.get_mut(&self.seat.id) {
            entry.condition = Condition::Awake;
        }
        Ok(true)
    }

    /// The sandbox is destroyed; the room that it had stays charged.
    pub fn into_charge(mut self) -> Charge {
        self.instance.charge.take()
    }

    /// The call is over, the instance can serve another one.
    pub fn put_back(self) {
        let Self { mut instance, asleep, mut seat } = self;
        seat.kept = true;
        instance.first_call = None;
        let revision = Arc::clone(&instance.revision);
        let now = seat.pool.now();
        let mut state = seat.pool.state.lock();
        let Some(entry) = state.all.get_mut(&seat.id) else { return };
        entry.used = Instant::now();
        entry.follow(&revision);
        entry.condition = if asleep { Condition::Paused } else { Condition::Awake };
        let instance = entry.instance.insert(instance);
        // Who waits for memory gets some of it when this one is paused.
        instance.charge.offer();
        let (key, bytes) = (entry.key, entry.bytes);
        let victims = state.policy.insert(seat.id, &key, bytes, now);
        let victims = state.drop_entries(&victims);
        drop(state);
        seat.pool.note(&victims);
        revision.births.freed();
        if !victims.is_empty() {
            drop_later(victims);
        }
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
