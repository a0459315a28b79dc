//! Room for one that waits for memory. What is idle is given up in this order: spares, what idle instances may use beyond what they hold
//! (they are paused at once), paused instances, Zygotes. Never a running call; and nothing, as long as all of it would not be enough: then
//! the end of a call is waited for.

use std::sync::Arc;

use crate::agent::Agent;

/// Makes room whenever somebody waits for it, for ever.
pub async fn keep(agent: Arc<Agent>) {
    loop {
        agent.memory.wanted().await;
        while make_room(&agent) {}
    }
}

/// Makes room for the one in front. Whether that was done: then there may be another.
fn make_room(agent: &Agent) -> bool {
    if agent.memory.shortage() == 0 {
        return false;
    }
    agent.import_cache.give_up_spares();
    agent.pool.pause_idle();
    let lacking = agent.memory.shortage();
    if lacking > agent.pool.idle_bytes() + agent.import_cache.bytes() {
        return false;
    }
    if lacking > 0 {
        free_instances(agent, lacking);
    }
    let lacking = agent.memory.shortage();
    lacking == 0 || agent.import_cache.give_up(lacking) > 0
}

/// Gives memory back to the machine, of which little is left.
pub fn give_back(agent: &Agent, bytes: u64) {
    let done = agent.import_cache.give_up_spares() + free_instances(agent, bytes);
    if done == 0 {
        agent.import_cache.give_up(bytes);
    }
}

fn free_instances(agent: &Agent, bytes: u64) -> usize {
    let count = agent.pool.free_up(bytes);
    agent.metrics.evicted("memory", count);
    count
}
