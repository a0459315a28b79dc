//! The soak: lard and two workers under calls of all kinds, while handlers are edited and processes are killed. Every answer is
//! checked: it is right, or an error of a known reason that a fault at that time explains. At the end nothing is left.
//!
//! What is done to it follows from a seed; what comes of it also depends on the machine's timing.

mod account;
mod callers;
mod chance;
mod faults;
mod handlers;
mod memory;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use serde_json::json;

use crate::cluster::Cluster;
use crate::{Books, LoopbackIndex, settled, settled_as};

pub use account::Account;
use chance::Chance;
use faults::{Fault, Injector};
use handlers::Registry;
use memory::Memory;

/// Workers behind lard.
const WORKERS: u16 = 2;
/// Between two lines of progress, and two looks at the memory.
const PROGRESS: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(1);
/// Between two edits.
const EDIT: Duration = Duration::from_millis(150);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// When it ends: after so many calls.
    pub calls: Option<u64>,
    /// Or after so long.
    pub time: Option<Duration>,
    /// What chance begins with.
    pub seed: u64,
    /// Faults per call.
    pub fault_rate: f64,
    /// Clients, each with a connection that it keeps.
    pub clients: usize,
}

/// What its threads share.
struct Shared {
    cluster: Cluster,
    registry: Registry,
    /// Calls that were begun.
    calls: AtomicU64,
    stop: AtomicBool,
    account: Mutex<Account>,
    faults: Mutex<Vec<Fault>>,
    began: Instant,
}

impl Shared {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Runs it; `tell` gets a line now and then. What went wrong is in the account; an error is a soak that could not be made.
pub fn run(plan: &Plan, mut tell: impl FnMut(&str)) -> Result<Account> {
    let index = LoopbackIndex::start()?;
    handlers::publish(&index)?;
    let cluster = Cluster::new(&json!({
        "pip_mirror": index.url(), "limits": {"memory": "64Mi", "pids": 32},
        "max_instances": 16, "handler_cache_size": "256Mi",
    }))?;
    cluster.start_workers(WORKERS)?;
    cluster.start_balancer()?;
    let registry = Registry::deploy(&cluster)?;
    registry.warm_up(&cluster, WORKERS)?;
    let before: Vec<Books> = (0..WORKERS).map(|index| settled(&cluster, index)).collect::<Result<_>>()?;
    let shared = Arc::new(Shared {
        cluster,
        registry,
        calls: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        account: Mutex::default(),
        faults: Mutex::default(),
        began: Instant::now(),
    });
    let memory = work(plan, &shared, &mut tell)?;
    let Some(shared) = Arc::into_inner(shared) else { bail!("a thread of the soak has not ended") };
    let mut account = std::mem::take(&mut *shared.account());
    account.finish(&shared.faults(), shared.began.elapsed(), plan.clients, memory.report());
    for (index, before) in (0..WORKERS).zip(&before) {
        if let Err(leak) = settled_as(&shared.cluster, index, before) {
            account.leaks.push(format!("{leak:#}"));
        }
    }
    let cluster = shared.cluster;
    let traces = cluster.traces();
    cluster.admin("kill", &[])?;
    if let Err(leak) = traces.are_gone() {
        account.leaks.push(format!("{leak:#}"));
    }
    Ok(account)
}

/// Starts all threads and ends them when the plan is fulfilled.
fn work(plan: &Plan, shared: &Arc<Shared>, tell: &mut impl FnMut(&str)) -> Result<Memory> {
    let mut chance = Chance::new(plan.seed);
    let mut threads = Vec::new();
    for _ in 0..plan.clients {
        let (shared, chance) = (Arc::clone(shared), chance.another());
        threads.push(std::thread::spawn(move || callers::call_on(&shared, chance)));
    }
    let (this, mut dice) = (Arc::clone(shared), chance.another());
    threads.push(std::thread::spawn(move || {
        while !this.is_over() {
            this.registry.edit(&this.cluster, &mut dice)?;
            // The pace of the edits.
            std::thread::sleep(EDIT);
        }
        Ok(())
    }));
    let injector = Injector::new(Arc::clone(shared), chance.another(), plan.fault_rate);
    threads.push(std::thread::spawn(move || injector.inject()));
    let mut memory = Memory::default();
    let mut told = Instant::now();
    let result = loop {
        if let Err(error) = memory.look(shared) {
            break Err(error);
        }
        let (calls, time) = (shared.calls.load(Ordering::Relaxed), shared.began.elapsed());
        if plan.calls.is_some_and(|most| calls >= most) || plan.time.is_some_and(|most| time >= most) {
            break Ok(());
        }
        if let Some(place) = threads.iter().position(std::thread::JoinHandle::is_finished) {
            break Err(anyhow!("thread {place} has ended before the soak"));
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let faults = shared.faults().len();
            tell(&shared.account().line(time, faults));
        }
        // Between two looks.
        std::thread::sleep(LOOK.min(plan.time.unwrap_or(LOOK)));
    };
    shared.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread of the soak panicked"))??;
    }
    result.map(|()| memory)
}
