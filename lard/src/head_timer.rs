//! The time that a client has for the head of a request, with one timer per connection.
//!
//! hyper asks for a timer for each head and drops it when the head is there. To set one to a later time costs next to
//! nothing, another one memory and a place among the runtime's timers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use tokio::time::sleep_until;

type Shared = Arc<Mutex<Pin<Box<tokio::time::Sleep>>>>;

/// For a connection of HTTP/1.1, which waits for one head at a time and times nothing else.
pub struct HeadTimer(Shared);

impl Default for HeadTimer {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Box::pin(sleep_until(tokio::time::Instant::now())))))
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.0.lock().as_mut().reset(deadline.into());
        Box::pin(HeadSleep(Arc::clone(&self.0)))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }

    fn reset(&self, _sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        self.0.lock().as_mut().reset(deadline.into());
    }
}

struct HeadSleep(Shared);

impl Future for HeadSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.lock().as_mut().poll(cx)
    }
}

impl Sleep for HeadSleep {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_sleep_ends_when_it_was_asked_to() {
        let timer = HeadTimer::default();
        for seconds in [2, 5, 1] {
            let begun = timer.now();
            let wanted = Duration::from_secs(seconds);
            timer.sleep(wanted).await;
            let took = timer.now() - begun;
            assert!((wanted..wanted + Duration::from_millis(2)).contains(&took), "{took:?}");
        }
        // One that is not waited for to its end does not shorten the next.
        drop(timer.sleep(Duration::from_secs(1)));
        let begun = timer.now();
        timer.sleep(Duration::from_secs(3)).await;
        assert!(timer.now() - begun >= Duration::from_secs(3));
    }
}
