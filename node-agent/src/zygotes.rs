//! The root Zygote: started, watched, started again with growing pauses when it ends. Who wants a sandbox meanwhile
//! waits for the next one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openlambda_policy::backoff::Backoff;
use openlambda_policy::import_cache::NodeId;
use openlambda_sandbox::{ForkError, Nursery, Sandbox, SandboxSpec, StartError, Zygote};
use openlambda_telemetry::{Drain, Readiness};
use tokio::sync::watch;

use crate::import_cache::ImportCache;
use crate::metrics::{Hit, Metrics, StartKind};
use crate::revision::Revision;

/// The first pause after a Zygote has ended, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// One that has lived so long was all right: its end is not counted as a failure in a row.
const STEADY: Duration = Duration::from_secs(10);

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum NoSandbox {
    /// None came up in time.
    #[error("no Zygote is up to fork a sandbox from: {0}")]
    NoZygote(String),
    /// There was no memory for it.
    #[error("{0}")]
    NoRoom(String),
    /// The fork was refused.
    #[error("a sandbox could not be forked: {0}")]
    Fork(#[from] ForkError),
}

/// Hands out forks of the root Zygote, and of better ones.
#[derive(Debug)]
pub struct Zygotes {
    current: watch::Sender<State>,
    cache: Arc<ImportCache>,
}

/// A new sandbox, and what it comes from.
pub struct Born {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// What the call is told.
    pub kind: StartKind,
    /// What of the packages was there.
    pub hit: Option<Hit>,
    /// A node in whose children the revision was never loaded before: that it does is to be seen before it is called.
    pub unproven: Option<NodeId>,
}

enum State {
    /// With its number, to tell it from the next.
    Up(u64, Zygote),
    /// And why.
    Down(String),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Up(..) => "Up",
            Self::Down(_) => "Down",
        })
    }
}

impl Zygotes {
    /// None yet.
    pub fn new(cache: Arc<ImportCache>) -> Arc<Self> {
        let current = watch::Sender::new(State::Down("the first is starting".into()));
        Arc::new(Self { current, cache })
    }

    /// Forks a sandbox that sees the revision's code as `/handler` and has its limits: of the Zygote that has the most of what it
    /// imports.
    pub async fn fork(&self, revision: &Revision, deadline: Instant) -> Result<Born, NoSandbox> {
        if let Some(offer) = self.cache.offer(revision) {
            let (hit, unproven) = (offer.hit, (!offer.proven).then_some(offer.node));
            match offer.start(&spec_of(revision)).await {
                Ok((sandbox, kind)) => return Ok(Born { sandbox, kind, hit, unproven }),
                // Its end is heard of elsewhere.
                Err(ForkError::ZygoteGone) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let sandbox = self.fork_bare(revision, deadline).await?;
        let has_packages = !revision.packages.is_empty();
        let kind = if has_packages { StartKind::Cold } else { StartKind::Zygote };
        Ok(Born { sandbox, kind, hit: has_packages.then_some(Hit::None), unproven: None })
    }

    /// The same of the root Zygote, whatever else there is.
    pub async fn fork_bare(&self, revision: &Revision, deadline: Instant) -> Result<Sandbox, NoSandbox> {
        let spec = spec_of(revision);
        loop {
            let (number, zygote) = self.up(deadline).await?;
            match zygote.fork(&spec).await {
                Err(ForkError::ZygoteGone) => self.gone(number, &zygote, deadline).await?,
                other => return Ok(other?),
            }
        }
    }

    async fn up(&self, deadline: Instant) -> Result<(u64, Zygote), NoSandbox> {
        if let State::Up(number, zygote) = &*self.current.borrow() {
            return Ok((*number, zygote.clone()));
        }
        let mut changes = self.current.subscribe();
        let up = changes.wait_for(|state| matches!(state, State::Up(..)));
        let _ = tokio::time::timeout_at(deadline.into(), up).await;
        match &*self.current.borrow() {
            State::Up(number, zygote) => Ok((*number, zygote.clone())),
            State::Down(why) => Err(NoSandbox::NoZygote(why.clone())),
        }
    }

    /// Waits until a Zygote that does not listen is gone and known to be, so that the next one asked is another.
    async fn gone(&self, gone: u64, zygote: &Zygote, deadline: Instant) -> Result<(), NoSandbox> {
        zygote.kill();
        let mut changes = self.current.subscribe();
        let other = changes.wait_for(|state| !matches!(state, State::Up(number, _) if *number == gone));
        let other = tokio::time::timeout_at(deadline.into(), other).await;
        other.map(drop).map_err(|_| NoSandbox::NoZygote("it has ended".into()))
    }

    /// Keeps one up until the worker's end. The readiness is blocked while there is none. An error means that there
    /// will never be one again.
    pub async fn supervise(
        self: Arc<Self>,
        nursery: Nursery,
        readiness: Readiness,
        metrics: Arc<Metrics>,
        drain: Drain,
    ) -> Result<(), StartError> {
        let epoch = Instant::now();
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut blocker = Some(readiness.block("root Zygote"));
        let mut number = 0;
        while !drain.has_begun() {
            number += 1;
            let asked = Instant::now();
            match nursery.zygote().await {
                Ok(zygote) => {
                    let since = Instant::now();
                    self.current.send_replace(State::Up(number, zygote.clone()));
                    self.cache.root_is(zygote.clone());
                    blocker = None;
                    tracing::info!(took = ?asked.elapsed(), "the root Zygote is up");
                    zygote.exited().await;
                    if since.elapsed() > STEADY {
                        backoff.succeed();
                    }
                    if !drain.has_begun() {
                        self.down("it has ended".into(), &metrics);
                    }
                }
                Err(error @ StartError::Gone) => return Err(error),
                Err(error) => self.down(error.to_string(), &metrics),
            }
            blocker = blocker.or_else(|| Some(readiness.block("root Zygote")));
            backoff.fail(epoch.elapsed());
            tokio::time::sleep(backoff.remaining(epoch.elapsed())).await;
        }
        Ok(())
    }

    fn down(&self, why: String, metrics: &Metrics) {
        self.cache.root_is_gone();
        metrics.zygote_restarts.inc();
        tracing::warn!(why, "the root Zygote is down; it is started again");
        self.current.send_replace(State::Down(why));
    }
}

fn spec_of(revision: &Revision) -> SandboxSpec {
    SandboxSpec { code: Some(revision.bundle.path.clone()), limits: revision.settings.limits }
}
