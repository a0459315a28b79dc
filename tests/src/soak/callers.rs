//! The clients: one call after the other, each answer checked.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result};

use super::handlers::{Kind, MIX};
use super::{Chance, Shared};
use crate::load::Connection;
use crate::{Response, until};

/// What came of a call.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which handler it was for.
    pub kind: Kind,
    /// When it began, since the begin of the soak.
    pub began: std::time::Duration,
    /// When it ended.
    pub ended: std::time::Duration,
    /// What it was.
    pub verdict: Verdict,
    /// How the instance was got.
    pub start: Option<String>,
}

/// What is to be thought of it.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// The right answer, or the error that the handler is there for.
    Right(String),
    /// An answer, and not the right one.
    Wrong(String),
    /// An error of ours, complete, with this reason; a fault has to explain it.
    Error(String, String),
    /// An error that is none of ours, or lacks something.
    Dishonest(String),
    /// No answer: the connection failed. A fault has to explain it.
    Lost(String),
}

/// Calls until the soak is over.
pub fn call_on(shared: &Shared, mut chance: Chance) -> Result<()> {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, shared.cluster.balancer_port()));
    let mut connection = None;
    while !shared.is_over() {
        // While there is no lard there is no call either: a connection comes first.
        let Some(open) = connection.take().or_else(|| connect(shared, to)) else { continue };
        let kind = *chance.weighed(&MIX).context("no handlers")?;
        let nonce = shared.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let revision = shared.registry.revision(kind);
        let began = shared.began.elapsed();
        let sent = Instant::now();
        let (verdict, start) = match ask(open, kind, nonce) {
            Ok((response, kept)) => {
                connection = kept;
                let start = response.header("x-start-kind").map(str::to_owned);
                (judge(shared, kind, nonce, revision, &response), start)
            }
            Err(error) => (Verdict::Lost(format!("{error:#}")), None),
        };
        let outcome = Outcome { kind, began, ended: began + sent.elapsed(), verdict, start };
        let faults = shared.faults();
        shared.account().add(outcome, &faults);
    }
    Ok(())
}

/// A connection to lard; none if the soak ends before there is one.
fn connect(shared: &Shared, to: SocketAddr) -> Option<Connection> {
    until("lard", || {
        let open = Connection::open(to).ok();
        Ok(if shared.is_over() { Some(None) } else { open.map(Some) })
    })
    .ok()
    .flatten()
}

/// Gives the connection back if it can be used again.
fn ask(mut open: Connection, kind: Kind, nonce: u64) -> Result<(Response, Option<Connection>)> {
    let response = open.send(&kind.request(nonce))?;
    let is_kept = response.header("connection") != Some("close");
    Ok((response, is_kept.then_some(open)))
}

fn judge(shared: &Shared, kind: Kind, nonce: u64, revision: u64, response: &Response) -> Verdict {
    let wanted = kind.error(nonce);
    if response.status == 200 {
        let answer = match response.json() {
            Ok(answer) if kind.may_answer() => answer,
            _ => return Verdict::Wrong(format!("{kind:?} {nonce}: {}", shortened(response))),
        };
        return match shared.registry.check(kind, nonce, revision, &answer) {
            Ok(()) => Verdict::Right("ok".into()),
            Err(error) => Verdict::Wrong(format!("{kind:?} {nonce}: {error:#}: {}", shortened(response))),
        };
    }
    let body = response.json().unwrap_or_default();
    let reason = body["reason"].as_str().unwrap_or_default().to_owned();
    let message = match response.error(response.status, &reason) {
        Ok(message) if !reason.is_empty() => message,
        _ => return Verdict::Dishonest(format!("{kind:?} {nonce}: {}", shortened(response))),
    };
    if wanted.is_some_and(|(wanted, part)| wanted == reason && message.contains(&part)) {
        return Verdict::Right(reason);
    }
    // An error of a handler that raises nothing, and a refusal that does not say when to come back.
    let refusal = matches!(response.status, 429 | 503);
    if reason == "function_error" || (refusal && response.header("retry-after").is_none()) {
        return Verdict::Dishonest(format!("{kind:?} {nonce}: {}", shortened(response)));
    }
    Verdict::Error(reason, message)
}

fn shortened(response: &Response) -> String {
    format!("{} {}", response.status, response.text().chars().take(300).collect::<String>())
}
