//! Memory for a new sandbox: with `sandbox_create_hard_limit`, creations wait while the machine uses more than that.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use openlambda_api::Reason;

use crate::agent::Agent;
use crate::load::Memory;
use crate::reply::Failure;

/// Between two looks at the memory in use.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Idle instances given up at each look.
const EVICT: usize = 2;

/// Waits until there is room, giving up idle instances meanwhile.
pub async fn wait(agent: &Arc<Agent>, deadline: Instant) -> Result<(), Failure> {
    let Some(limit) = agent.config.create_hard_limit.map(|limit| limit.bytes()) else { return Ok(()) };
    let is_full =
        || Memory::now().is_some_and(|memory| memory.total - memory.available.min(memory.total) > limit);
    if !is_full() {
        return Ok(());
    }
    let _waiting = Waiting::enter(agent)?;
    while Instant::now() < deadline {
        agent.pool.evict_oldest(EVICT);
        tokio::time::sleep(LOOK_EVERY).await;
        if !is_full() {
            return Ok(());
        }
    }
    Err(no_room("the machine stays over sandbox_create_hard_limit"))
}

struct Waiting<'a>(&'a Agent);

impl<'a> Waiting<'a> {
    fn enter(agent: &'a Agent) -> Result<Self, Failure> {
        let before = agent.creating.fetch_add(1, Ordering::Relaxed);
        let this = Self(agent);
        if before >= usize::try_from(agent.config.create_queue).unwrap_or(usize::MAX) {
            return Err(no_room("sandbox_create_queue_size creations wait for memory already"));
        }
        Ok(this)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.creating.fetch_sub(1, Ordering::Relaxed);
    }
}

fn no_room(why: &str) -> Failure {
    Failure::agent(Reason::NoCapacity, format!("no memory for another sandbox: {why}"))
        .after(Duration::from_secs(1))
}
