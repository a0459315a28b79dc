//! Groups made ahead of need.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Cgroup, CgroupTree};

/// Recycled groups kept beyond the configured size: a burst's worth.
const SPARE: usize = 64;

/// Keeps some groups ready. A group that held a sandbox comes back once its last process is gone.
#[derive(Debug)]
pub struct CgroupPool {
    tree: Arc<CgroupTree>,
    ready: Mutex<Vec<Cgroup>>,
    size: usize,
    next: AtomicU64,
}

impl CgroupPool {
    /// An empty pool that [`refill`](Self::refill) brings to `size`.
    pub fn new(tree: Arc<CgroupTree>, size: usize) -> Self {
        Self { tree, ready: Mutex::new(Vec::new()), size, next: AtomicU64::new(1) }
    }

    /// A group: a ready one, else a new one.
    pub fn take(&self) -> io::Result<Cgroup> {
        let ready = self.ready.lock().pop();
        ready.map_or_else(|| self.make(), Ok)
    }

    fn make(&self) -> io::Result<Cgroup> {
        self.tree.group(&format!("s-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    /// Makes groups until `size` are ready. Blocks for milliseconds: keep it off the request path.
    pub fn refill(&self) -> io::Result<()> {
        while self.ready.lock().len() < self.size {
            let group = self.make()?;
            self.ready.lock().push(group);
        }
        Ok(())
    }

    /// Whether [`refill`](Self::refill) would do something.
    pub fn is_low(&self) -> bool {
        self.ready.lock().len() < self.size
    }

    /// Takes back a group that is empty of processes. Blocks for milliseconds.
    pub fn give_back(&self, group: Cgroup) -> io::Result<()> {
        if self.ready.lock().len() >= self.size + SPARE {
            return group.remove();
        }
        match group.recycle() {
            Ok(()) => {
                self.ready.lock().push(group);
                Ok(())
            }
            Err(error) => group.remove().and(Err(error)),
        }
    }
}
