//! A group that goes with who holds it.

use std::io;
use std::os::fd::OwnedFd;

use tokio::runtime::Handle;

use super::Cgroup;
use crate::limits::Limits;

/// A group that is removed when this is dropped, off the runtime's own threads, unless it was taken.
pub(crate) struct OwnedGroup(Option<Cgroup>);

impl OwnedGroup {
    pub(crate) fn new(group: Cgroup) -> Self {
        Self(Some(group))
    }

    /// From now on its removal is the caller's business.
    pub(crate) fn take(mut self) -> Option<Cgroup> {
        self.0.take()
    }

    pub(crate) fn apply(&self, limits: &Limits) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |group| group.apply(limits))
    }

    pub(crate) fn join_files(&self) -> io::Result<Vec<OwnedFd>> {
        self.0.as_ref().map_or(Ok(Vec::new()), Cgroup::join_files)
    }

    pub(crate) fn take_join(&self) -> io::Result<Vec<OwnedFd>> {
        self.0.as_ref().map_or(Ok(Vec::new()), Cgroup::take_join)
    }

    pub(crate) fn oom_killed(&self) -> bool {
        self.0.as_ref().is_some_and(Cgroup::oom_killed_since_last_look)
    }
}

impl Drop for OwnedGroup {
    fn drop(&mut self) {
        // Without a runtime this is the agent's end, which removes all of its cgroups anyway.
        if let (Some(group), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn_blocking(move || {
                if let Err(error) = group.remove() {
                    tracing::warn!("a cgroup is left: {error}");
                }
            });
        }
    }
}
