//! How many instances of one handler are born at a time. A call that waits for its turn takes an instance that becomes free meanwhile: with
//! short calls that is sooner than a birth, and a burst makes few instances instead of one for each call.

use std::pin::pin;
use std::time::Instant;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::timeout_at;

/// Births at a time, per processor: more would only take time from each other.
const PER_CPU: usize = 2;

/// Of one revision.
#[derive(Debug)]
pub struct Births {
    turns: Semaphore,
    freed: Notify,
}

/// What a call has got.
pub enum Turn<'a, T> {
    /// An instance that was or became free.
    Free(T),
    /// Leave to have one born, as long as this is kept.
    Birth(SemaphorePermit<'a>),
    /// Nothing in time.
    Late,
}

impl Births {
    /// None yet.
    pub fn new() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self { turns: Semaphore::new(cpus * PER_CPU), freed: Notify::new() }
    }

    /// An instance has become free.
    pub fn freed(&self) {
        self.freed.notify_one();
    }

    /// Waits for one of both; `take` takes a free instance.
    pub async fn turn<T>(&self, deadline: Instant, take: impl Fn() -> Option<T>) -> Turn<'_, T> {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before the look: what becomes free after it is heard of.
            freed.as_mut().enable();
            if let Some(instance) = take() {
                return Turn::Free(instance);
            }
            let either = async {
                tokio::select! {
                    turn = self.turns.acquire() => turn.ok(),
                    () = freed => None,
                }
            };
            match timeout_at(deadline.into(), either).await {
                Ok(Some(turn)) => return Turn::Birth(turn),
                Ok(None) => {}
                Err(_) => return Turn::Late,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn take(free: &AtomicUsize) -> Option<()> {
        free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).ok().map(drop)
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_what_becomes_free() {
        let (births, free) = (Arc::new(Births::new()), Arc::new(AtomicUsize::new(0)));
        let most = births.turns.available_permits();
        let mut turns = Vec::new();
        for _ in 0..most {
            match births.turn(soon(), || take(&free)).await {
                Turn::Birth(turn) => turns.push(turn),
                _ => panic!("no turn"),
            }
        }
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let (births, free) = (Arc::clone(&births), Arc::clone(&free));
                tokio::spawn(
                    async move { matches!(births.turn(soon(), || take(&free)).await, Turn::Free(())) },
                )
            })
            .collect();
        tokio::task::yield_now().await;
        for _ in 0..3 {
            free.fetch_add(1, Ordering::Relaxed);
            births.freed();
        }
        for one in waiting {
            assert!(one.await.unwrap());
        }
        drop(turns.pop());
        assert!(matches!(births.turn(soon(), || take(&free)).await, Turn::Birth(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_in_time_is_told() {
        let births = Births::new();
        let _all = births.turns.acquire_many(births.turns.available_permits() as u32).await.unwrap();
        assert!(matches!(births.turn(soon(), || None::<()>).await, Turn::Late));
    }
}
