//! Who acts: the holder of a Lease. It renews in time, gives it back at the end, and stops acting when it could not
//! renew. What to do is decided by a pure function; other clocks are not compared with ours, only whether the record
//! moves.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

use crate::failure;

/// A holder that does not renew for so long has lost it.
const DURATION: Duration = Duration::from_secs(15);
/// The holder gives up before others take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two looks.
const RETRY: Duration = Duration::from_secs(2);

/// A claim to a Lease.
pub struct Claim {
    api: Api<Lease>,
    name: String,
    me: String,
    seen: Option<Seen>,
    begun: Instant,
}

/// The record as it was last seen to move.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    spec: LeaseSpec,
    since: Duration,
}

/// What to do about a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// It is ours: renew.
    Renew,
    /// Nobody holds it: take it.
    Take,
    /// Another does.
    Wait,
}

fn decide(spec: &LeaseSpec, me: &str, unchanged_for: Duration) -> Decision {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or_default();
    if holder == me {
        Decision::Renew
    } else if holder.is_empty() || unchanged_for >= Duration::from_secs(seconds) {
        Decision::Take
    } else {
        Decision::Wait
    }
}

impl Claim {
    /// To the Lease `name` of `namespace`, as `me`.
    pub fn new(client: &Client, namespace: &str, name: &str, me: &str) -> Self {
        Self {
            api: Api::namespaced(client.clone(), namespace),
            name: name.to_owned(),
            me: me.to_owned(),
            seen: None,
            begun: Instant::now(),
        }
    }

    /// One look at it; whether it is ours after that.
    pub async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            return self.create().await;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let now = self.begun.elapsed();
        let since = match &self.seen {
            Some(seen) if seen.spec == spec => seen.since,
            _ => now,
        };
        self.seen = Some(Seen { spec: spec.clone(), since });
        match decide(&spec, &self.me, now.saturating_sub(since)) {
            Decision::Wait => Ok(false),
            decision => self.write(lease, &spec, decision == Decision::Take).await,
        }
    }

    async fn create(&self) -> Result<bool, kube::Error> {
        let mut lease = Lease::default();
        lease.metadata.name = Some(self.name.clone());
        lease.spec = Some(self.record(&LeaseSpec::default(), true));
        won(self.api.create(&PostParams::default(), &lease).await)
    }

    /// The resource version in `lease` makes sure that nobody was faster.
    async fn write(&self, mut lease: Lease, old: &LeaseSpec, taken: bool) -> Result<bool, kube::Error> {
        lease.spec = Some(self.record(old, taken));
        won(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn record(&self, old: &LeaseSpec, taken: bool) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if taken { Some(now.clone()) } else { old.acquire_time.clone() },
            renew_time: Some(now),
            lease_transitions: Some(old.lease_transitions.unwrap_or_default() + i32::from(taken)),
            ..LeaseSpec::default()
        }
    }

    /// Waits until it is ours. `looked` is called after each look that the API server answered.
    pub async fn acquire(&mut self, stop: &CancellationToken, mut looked: impl FnMut()) -> bool {
        loop {
            match self.attempt().await {
                Ok(true) => return true,
                Ok(false) => looked(),
                Err(error) => tracing::warn!(
                    error = failure::text(&error),
                    lease = self.name,
                    "the lease cannot be looked at"
                ),
            }
            if pause(stop).await {
                return false;
            }
        }
    }

    /// Keeps it. Returns when it is told to stop, or when the lease is lost (false).
    pub async fn hold(&mut self, stop: &CancellationToken) -> bool {
        let mut renewed = Instant::now();
        loop {
            if pause(stop).await {
                return true;
            }
            match tokio::time::timeout(RENEW_DEADLINE, self.attempt()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return false,
                Ok(Err(error)) => tracing::warn!(
                    error = failure::text(&error),
                    lease = self.name,
                    "the lease was not renewed"
                ),
                Err(_) => tracing::warn!(lease = self.name, "the lease was not renewed: no answer"),
            }
            if renewed.elapsed() >= RENEW_DEADLINE {
                return false;
            }
        }
    }

    /// Gives it back, so that another need not wait.
    pub async fn release(&self) {
        let released = async {
            let Some(lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
            let old = lease.spec.clone().unwrap_or_default();
            if old.holder_identity.as_deref() != Some(&self.me) {
                return Ok(());
            }
            let spec = LeaseSpec {
                holder_identity: None,
                lease_duration_seconds: Some(1),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..old
            };
            let lease = Lease { spec: Some(spec), ..lease };
            won(self.api.replace(&self.name, &PostParams::default(), &lease).await).map(drop)
        };
        match tokio::time::timeout(RETRY, released).await {
            Ok(Ok(())) => tracing::info!(lease = self.name, "released"),
            Ok(Err(error)) => {
                tracing::warn!(error = failure::text(&error), lease = self.name, "the lease was not released")
            }
            Err(_) => tracing::warn!(lease = self.name, "the lease was not released: no answer"),
        }
    }
}

/// Waits for the next look; whether it is time to stop instead.
async fn pause(stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(RETRY) => false,
    }
}

/// A conflict means that another was faster.
fn won(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_act() {
        let held = |holder: Option<&str>| LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        };
        let s = Duration::from_secs;
        assert_eq!(decide(&held(Some("me")), "me", s(100)), Decision::Renew);
        assert_eq!(decide(&held(Some("you")), "me", s(14)), Decision::Wait);
        assert_eq!(decide(&held(Some("you")), "me", s(15)), Decision::Take);
        assert_eq!(decide(&held(None), "me", s(0)), Decision::Take);
        assert_eq!(decide(&held(Some("")), "me", s(0)), Decision::Take);
        assert!(RENEW_DEADLINE + RETRY < DURATION);
    }
}
