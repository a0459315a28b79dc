//! An orderly end: SIGTERM or SIGINT asks for it, [`Drain`] waits for the work in flight, up to a deadline.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;
pub use tokio_util::task::task_tracker::TaskTrackerToken;

/// The signals that end a process. From [`Signals::listen`] on none of them kills it any more.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes over SIGTERM and SIGINT. Needs a running tokio runtime.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and gives its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Work was left when the deadline came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{left} calls or tasks were still running after {deadline:?}")]
pub struct DeadlinePassed {
    /// How much work was left.
    pub left: usize,
    /// The deadline that passed.
    pub deadline: Duration,
}

/// Counts the work in flight and tells it when the end has begun. Clones are the same drain.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    begun: CancellationToken,
    work: TaskTracker,
}

impl Drain {
    /// A drain that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// A piece of work: [`Drain::finish`] waits until it is dropped.
    pub fn guard(&self) -> TaskTrackerToken {
        self.work.token()
    }

    /// Spawns a task that [`Drain::finish`] waits for.
    pub fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.work.spawn(task)
    }

    /// How much work is in flight.
    pub fn in_flight(&self) -> usize {
        self.work.len()
    }

    /// Whether the end has begun.
    pub fn has_begun(&self) -> bool {
        self.begun.is_cancelled()
    }

    /// Resolves when the end begins.
    pub fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.begun.cancelled()
    }

    /// A token that is cancelled when the end begins.
    pub fn token(&self) -> CancellationToken {
        self.begun.clone()
    }

    /// Begins the end: whoever waits on [`Drain::begun`] learns it.
    pub fn begin(&self) {
        self.begun.cancel();
    }

    /// Begins the end and waits for the work in flight, up to `deadline`.
    pub async fn finish(&self, deadline: Duration) -> Result<(), DeadlinePassed> {
        self.begin();
        self.work.close();
        tokio::time::timeout(deadline, self.work.wait())
            .await
            .map_err(|_| DeadlinePassed { left: self.work.len(), deadline })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finish_waits_for_guards_and_tasks() {
        let drain = Drain::new();
        let guard = drain.guard();
        let seen = drain.spawn({
            let drain = drain.clone();
            async move { drain.begun().await }
        });
        assert_eq!(drain.in_flight(), 2);
        let finish = tokio::spawn({
            let drain = drain.clone();
            async move { drain.finish(Duration::from_secs(10)).await }
        });
        seen.await.unwrap();
        assert!(drain.has_begun());
        assert!(!finish.is_finished());
        drop(guard);
        assert_eq!(finish.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn the_deadline_counts_what_is_left() {
        let drain = Drain::new();
        let _guard = drain.guard();
        let deadline = Duration::from_millis(5);
        assert_eq!(drain.finish(deadline).await, Err(DeadlinePassed { left: 1, deadline }));
    }

    #[tokio::test]
    async fn signals_are_named() {
        let mut signals = Signals::listen().unwrap();
        let this = std::process::id().to_string();
        let status = std::process::Command::new("kill").args(["-TERM", &this]).status().unwrap();
        assert!(status.success());
        assert_eq!(signals.next().await, "SIGTERM");
    }
}
