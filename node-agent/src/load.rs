//! How busy the machine and the worker are: sampled by a thread of its own, read by every response.

use std::fs;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use openlambda_api::LoadReport;
use parking_lot::RwLock;

/// Time between two samples.
const EVERY: Duration = Duration::from_millis(250);

/// What was seen last.
#[derive(Debug, Default)]
pub struct Load {
    latest: RwLock<Latest>,
}

#[derive(Debug)]
struct Latest {
    header: HeaderValue,
    idle: f64,
}

impl Default for Latest {
    fn default() -> Self {
        Self { header: HeaderValue::from_static("TEXT cpu_utilization=0"), idle: 1.0 }
    }
}

/// Keeps the sampling going until it is dropped.
#[derive(Debug)]
pub struct Sampler {
    _stop: mpsc::Sender<()>,
}

impl Load {
    /// The load report as a header's value.
    pub fn header(&self) -> HeaderValue {
        self.latest.read().header.clone()
    }

    /// How much of the machine's CPU time was idle lately, 0 to 1.
    pub fn idle(&self) -> f64 {
        self.latest.read().idle
    }

    /// Starts sampling. `own` gives what the worker says of itself, told how much of the CPUs was in use in the interval that
    /// is over; the machine's part is filled in.
    pub fn sample(
        self: &Arc<Self>,
        mut own: impl FnMut(f64, Duration) -> LoadReport + Send + 'static,
    ) -> std::io::Result<Sampler> {
        let (stop, stopped) = mpsc::channel();
        let this = Arc::clone(self);
        std::thread::Builder::new().name("load-sampler".into()).spawn(move || {
            let (mut before, mut since) = (CpuTimes::now().unwrap_or_default(), Instant::now());
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY) {
                let now = CpuTimes::now().unwrap_or(before);
                let idle = now.idle_since(before);
                before = now;
                let interval = since.elapsed();
                since += interval;
                this.publish(idle, own(1.0 - idle, interval));
            }
        })?;
        Ok(Sampler { _stop: stop })
    }

    fn publish(&self, idle: f64, own: LoadReport) {
        let memory = Memory::now().map_or(0.0, |memory| memory.used());
        let report = LoadReport { cpu: 1.0 - idle, memory, ..own };
        if let Ok(header) = HeaderValue::from_str(&report.to_string()) {
            *self.latest.write() = Latest { header, idle };
        }
    }
}

/// The first line of `/proc/stat`, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct CpuTimes {
    total: u64,
    idle: u64,
}

impl CpuTimes {
    fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        // Guest time is already in user time.
        let times: Vec<u64> = line.split_ascii_whitespace().take(8).map_while(|t| t.parse().ok()).collect();
        let idle = times.get(3)? + times.get(4).unwrap_or(&0);
        Some(Self { total: times.iter().sum(), idle })
    }

    fn idle_since(self, before: Self) -> f64 {
        let total = self.total.saturating_sub(before.total);
        if total == 0 {
            return 1.0;
        }
        (self.idle.saturating_sub(before.idle) as f64 / total as f64).clamp(0.0, 1.0)
    }
}

/// The machine's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be had without swapping.
    pub available: u64,
}

impl Memory {
    /// What the kernel says now.
    pub fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/meminfo").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
        };
        Some(Self { total: field("MemTotal:")?, available: field("MemAvailable:")? })
    }

    /// The fraction in use.
    fn used(self) -> f64 {
        (self.total.saturating_sub(self.available) as f64 / self.total.max(1) as f64).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_idle_and_waiting_for_disks() {
        let before = CpuTimes::parse("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1\n").unwrap();
        assert_eq!(before, CpuTimes { total: 1000, idle: 800 });
        let now = CpuTimes::parse("cpu  175 0 100 720 105 0 0 0 50 0\n").unwrap();
        assert_eq!(now.idle_since(before), 0.25);
        assert_eq!(now.idle_since(now), 1.0);
        assert_eq!(CpuTimes::parse("intr 1"), None);
    }

    #[test]
    fn memory_is_total_and_available() {
        let text = "MemTotal:        1000 kB\nMemFree:   1 kB\nMemAvailable:    250 kB\n";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(memory, Memory { total: 1_024_000, available: 256_000 });
        assert_eq!(memory.used(), 0.75);
    }

    #[test]
    fn this_machine_has_both() {
        assert!(Memory::now().is_some_and(|memory| memory.available > 0));
        assert!(CpuTimes::now().is_some_and(|times| times.total > 0));
    }

    #[test]
    fn the_header_is_a_load_report() {
        let load = Load::default();
        assert_eq!(load.header().to_str().unwrap().parse(), Ok(LoadReport::default()));
        let zygotes = Some(vec![openlambda_api::Zygote { set: 7, import_ms: 80 }]);
        let own = LoadReport { inflight: 3, queued: 1, zygotes, ..LoadReport::default() };
        load.publish(0.25, own.clone());
        let report: LoadReport = load.header().to_str().unwrap().parse().unwrap();
        assert_eq!(report, LoadReport { cpu: 0.75, memory: report.memory, ..own });
    }
}
