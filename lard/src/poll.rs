//! Agents that are silent are asked: a report comes with each answer, so one that gets no calls would say nothing, and
//! could never show that it has become idle, or which Zygotes it has.
//!
//! What is heard so changes what is known of an agent's load, never whether it takes calls: another thread answers at
//! the admin port. What is not heard there tells whether it is there at all: see [`openlambda_policy::silence`].

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use hyper::{Method, StatusCode};
use openlambda_api::load::LOAD_PATH;
use openlambda_policy::balance::{Report, ServerId};
use openlambda_policy::silence::{Silence, Verdict};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::ask::exchange;
use crate::gateway::Gateway;
use crate::report;
use crate::upstream::Upstream;

/// An answer must have come after this time.
const PATIENCE: Duration = Duration::from_millis(700);
/// Agents that are asked at a time.
const AT_ONCE: usize = 16;
/// How often it is looked who is to be asked.
const LOOK: Duration = Duration::from_millis(250);

/// Asks for ever.
pub async fn follow(gateway: Arc<Gateway>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silences: HashMap<ServerId, Silence> = HashMap::new();
    loop {
        ticks.tick().await;
        let due = due(&gateway, &mut silences);
        let asking = due.into_iter().map(|(server, upstream, admin)| async move {
            let answer = ask(&admin).await;
            (server, upstream, answer)
        });
        let mut answers = futures::stream::iter(asking).buffer_unordered(AT_ONCE);
        while let Some((server, upstream, answer)) = answers.next().await {
            take_in(&gateway, silences.entry(server).or_default(), (server, &upstream), answer);
        }
        silences.retain(|server, _| gateway.targets.upstream(*server).is_some());
    }
}

/// Who is to be asked, and where.
fn due(
    gateway: &Gateway,
    silences: &mut HashMap<ServerId, Silence>,
) -> Vec<(ServerId, Arc<Upstream>, (String, u16))> {
    let (now, every) = (gateway.targets.now(), gateway.settings.poll_every);
    let mut due = Vec::new();
    for (server, standing) in gateway.targets.standings() {
        if silences.entry(server).or_default().is_due(standing, every, now)
            && let Some(upstream) = gateway.targets.upstream(server)
            && let Some(admin) = upstream.admin()
        {
            due.push((server, upstream, admin));
        }
    }
    due
}

/// Draws the conclusions.
fn take_in(
    gateway: &Gateway,
    silence: &mut Silence,
    (server, upstream): (ServerId, &Upstream),
    answer: io::Result<Report>,
) {
    let (targets, now) = (&gateway.targets, gateway.targets.now());
    let agent = upstream.name.as_str();
    let error = match answer {
        Ok(report) => {
            silence.answered();
            if targets.mute(server, false) {
                tracing::info!(agent, "the agent speaks again");
            }
            return targets.hear(server, report);
        }
        Err(error) => error,
    };
    tracing::debug!(%error, agent, "a silent agent does not say how loaded it is");
    if error.kind() != io::ErrorKind::TimedOut {
        silence.refused(now);
        targets.mute(server, false);
        return;
    }
    let quiet = targets.quiet(server);
    let verdict = silence.unanswered(quiet, now);
    if verdict == Verdict::Unknown {
        return;
    }
    if targets.mute(server, true) {
        tracing::warn!(
            agent,
            ?quiet,
            "the agent says nothing, its admin port neither: it gets no more calls"
        );
    }
    if verdict == Verdict::Gone {
        let connections = upstream.cut();
        if connections > 0 {
            tracing::warn!(agent, ?quiet, connections, "nobody waits for the agent any longer");
        }
    }
}

/// What the agent whose admin port is at `address` says.
async fn ask(address: &(String, u16)) -> io::Result<Report> {
    timeout(PATIENCE, get(address)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn get(address: &(String, u16)) -> io::Result<Report> {
    let (status, body) = exchange(address, Method::GET, LOAD_PATH).await?;
    if status != StatusCode::OK {
        return Err(io::Error::other(format!("{LOAD_PATH} is answered with {status}")));
    }
    let text = std::str::from_utf8(&body).map_err(io::Error::other)?;
    report::parse(text).ok_or_else(|| io::Error::other("the answer is no load report"))
}
