//! How many instances of one handler are born at a time. A call that waits for its turn takes an instance that becomes free meanwhile: with
//! short calls that is sooner than a birth, and a burst makes few instances instead of one for each call.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout_at;

/// Births at a time, per processor: more would only take time from each other.
const PER_CPU: usize = 2;
/// A newborn keeps its turn until its first call is over, and at most for so long: longer calls are not waited for.
const FIRST_CALL: Duration = Duration::from_millis(5);

/// Of one revision.
#[derive(Debug)]
pub struct Births {
    turns: Arc<Semaphore>,
    freed: Notify,
}

/// What a call has got.
#[derive(Debug)]
pub enum Turn<T> {
    /// An instance that was or became free.
    Free(T),
    /// Leave to have one born.
    Birth(Leave),
    /// Nothing in time.
    Late,
}

/// Leave to have an instance born, as long as this is kept.
#[derive(Debug)]
pub struct Leave(OwnedSemaphorePermit);

/// The first call of a newborn is not over yet. Dropped, it is.
#[derive(Debug)]
pub struct FirstCall {
    _over: oneshot::Sender<()>,
}

impl Leave {
    /// The instance is born: the next one may be when its first call is over, or takes long.
    pub fn born(self) -> FirstCall {
        let (_over, over) = oneshot::channel();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(FIRST_CALL, over).await;
            drop(self.0);
        });
        FirstCall { _over }
    }
}

impl Births {
    /// None yet.
    pub fn new() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self { turns: Arc::new(Semaphore::new(cpus * PER_CPU)), freed: Notify::new() }
    }

    /// An instance has become free.
    pub fn freed(&self) {
        self.freed.notify_one();
    }

    /// Waits for `other`, such as memory for a birth, or a free instance that comes sooner, which `take` takes.
    pub async fn unless_freed<T, O>(
        &self,
        other: impl Future<Output = O>,
        take: impl Fn() -> Option<T>,
    ) -> Result<O, T> {
        let mut other = pin!(other);
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            tokio::select! {
                biased;
                other = &mut other => return Ok(other),
                () = freed => if let Some(instance) = take() {
                    return Err(instance);
                },
            }
        }
    }

    /// Leave to have one born, if it can be had at once.
    pub fn try_turn(&self) -> Option<Leave> {
        Arc::clone(&self.turns).try_acquire_owned().ok().map(Leave)
    }

    /// Waits for one of both; `take` takes a free instance.
    pub async fn turn<T>(&self, deadline: Instant, take: impl Fn() -> Option<T>) -> Turn<T> {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before the look: what becomes free after it is heard of.
            freed.as_mut().enable();
            if let Some(instance) = take() {
                return Turn::Free(instance);
            }
            let either = async {
                tokio::select! {
                    turn = Arc::clone(&self.turns).acquire_owned() => turn.ok(),
                    () = freed => None,
                }
            };
            match timeout_at(deadline.into(), either).await {
                Ok(Some(turn)) => return Turn::Birth(Leave(turn)),
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
        // The next is born after the first call of one that was, or when that takes long.
        for call_is_short in [true, false] {
            let began = tokio::time::Instant::now();
            let call = turns.pop().map(Leave::born).filter(|_| !call_is_short);
            let Turn::Birth(next) = births.turn(soon(), || take(&free)).await else { panic!("no turn") };
            assert_eq!(began.elapsed() >= FIRST_CALL, !call_is_short);
            turns.push(next);
            drop(call);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_becomes_free_comes_before_what_is_waited_for() {
        let (births, free) = (Births::new(), AtomicUsize::new(0));
        assert_eq!(births.unless_freed(async { 7 }, || take(&free)).await, Ok(7));
        let never = births.unless_freed(std::future::pending::<()>(), || take(&free));
        let mut never = pin!(never);
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut never).await.is_err());
        // Somebody else took the first one.
        births.freed();
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut never).await.is_err());
        free.store(1, Ordering::Relaxed);
        births.freed();
        assert_eq!(never.await, Err(()));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_in_time_is_told() {
        let births = Births::new();
        let _all = births.turns.acquire_many(births.turns.available_permits() as u32).await.unwrap();
        assert!(matches!(births.turn(soon(), || None::<()>).await, Turn::Late));
    }
}
