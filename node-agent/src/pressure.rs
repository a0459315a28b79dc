//! The machine's memory, looked at all the time: `policy::pressure` says when some is to be given back, before the kernel kills.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openlambda_policy::pressure::to_give_back;

use crate::agent::Agent;
use crate::load::Memory;
use crate::relief;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(250);

/// Looks, and gives back, for ever.
pub async fn watch(agent: Arc<Agent>) {
    let mut before = (Instant::now(), stalled_us());
    loop {
        tokio::time::sleep(EVERY).await;
        let now = (Instant::now(), stalled_us());
        // A kernel without this file counts no stalls; what is left of the memory is seen all the same.
        let waited = now.1.saturating_sub(before.1) as f64 / 1e6;
        let stalled = waited / (now.0 - before.0).as_secs_f64();
        before = now;
        let Some(memory) = Memory::now() else { continue };
        let bytes = to_give_back(memory.total, memory.available, stalled);
        if bytes > 0 {
            tracing::info!(
                bytes,
                available = memory.available,
                stalled,
                "little memory is left: idle sandboxes are given up"
            );
            relief::give_back(&agent, bytes);
        }
    }
}

/// Microseconds in which some process of the machine has waited for memory.
fn stalled_us() -> u64 {
    fs::read_to_string("/proc/pressure/memory").ok().and_then(|text| total(&text)).unwrap_or(0)
}

fn total(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("some "))?.split_once("total=")?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figure() {
        let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=10260180\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n";
        assert_eq!(total(text), Some(10_260_180));
        assert_eq!(total("full avg10=0 total=1"), None);
    }
}
