//! A dead or refusing agent costs no call that was not yet in a sandbox; one that may have been is never sent twice.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Request;
use openlambda_lard::limits::Own;
use support::{Agent, Kind, Lard, config, dead, until};
use tokio::sync::Semaphore;

const BODY: &[u8] = &[b'x'; 300_000];

/// Round robin starts with the first server, so the bad one is tried first.
async fn behind(kind: Kind) -> (Lard, Agent, Agent) {
    let (bad, good) = (Agent::start(kind).await, Agent::start(Kind::Good("good")).await);
    (Lard::start(config("RoundRobin", &[bad.port, good.port])).await, bad, good)
}

#[tokio::test]
async fn refused_connection() {
    let good = Agent::start(Kind::Good("good")).await;
    let dead = dead();
    let lard = Lard::start(config("RoundRobin", &[dead.port, good.port])).await;
    for _ in 0..4 {
        assert_eq!(lard.post("/run/f", BODY).await.body, "good 300000");
    }
    assert_eq!(&good.last().body[..], BODY);
    assert!(lard.servers()[0].failures > 0, "the dead one is set aside");
}

#[tokio::test]
async fn death_before_the_call_was_taken() {
    for body in [BODY, b"{}", b""] {
        let (lard, bad, good) = behind(Kind::DiesBefore).await;
        let answer = lard.post("/run/f", body).await;
        assert_eq!((answer.status, answer.body), (200, format!("good {}", body.len())));
        assert_eq!(&good.last().body[..], body);
        assert_eq!(bad.calls(), 1);
        assert!(lard.metric(r#"openlambda_lb_retries_total{reason="broken"} 1"#));
    }
}

#[tokio::test]
async fn death_after_the_call_was_taken() {
    for body in [BODY, b"{}", b""] {
        let (lard, bad, good) = behind(Kind::DiesAfter).await;
        let answer = lard.post("/run/f", body).await;
        assert_eq!((answer.status, answer.reason().as_str()), (502, "agent_unreachable"));
        assert_eq!((bad.calls(), good.calls()), (1, 0), "a POST that was taken is not sent again");
    }
}

#[tokio::test]
async fn a_get_is_sent_again_whenever_it_fails() {
    let (lard, _bad, good) = behind(Kind::DiesAfter).await;
    assert_eq!(lard.get("/run/f").await.body, "good 0");
    assert_eq!(good.calls(), 1);
}

#[tokio::test]
async fn a_call_of_an_idempotent_handler_is_sent_again_even_if_it_was_taken() {
    for body in [BODY, b"{}", b""] {
        let (lard, bad, good) = behind(Kind::DiesAfter).await;
        lard.gateway.limits.set("f".into(), Own { idempotent: true, ..Own::default() });
        let answer = lard.post("/run/f", body).await;
        assert_eq!((answer.status, answer.body), (200, format!("good {}", body.len())));
        assert_eq!((bad.calls(), good.calls()), (1, 1));
        assert_eq!(&good.last().body[..], body);
    }
}

#[tokio::test]
async fn draining_and_full_agents() {
    for reason in ["draining", "no_capacity"] {
        let (lard, _bad, good) = behind(Kind::Refusing(reason)).await;
        assert_eq!(lard.post("/run/f", BODY).await.body, "good 300000", "{reason}");
        assert_eq!(good.calls(), 1);
        assert!(lard.metric(&format!("openlambda_lb_retries_total{{reason=\"{reason}\"}} 1")));
        let set_aside = lard.servers()[0].failures > 0;
        assert_eq!(set_aside, reason == "draining");
    }
}

#[tokio::test]
async fn a_503_that_is_no_refusal_of_an_agent_is_the_answer() {
    let (lard, bad, good) = behind(Kind::OwnError).await;
    let answer = lard.post("/run/f", "1").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, r#"{"reason":"draining"}"#));
    assert_eq!((bad.calls(), good.calls()), (1, 0));
}

#[tokio::test]
async fn a_kept_connection_that_the_agent_just_closed_costs_nothing() {
    let agent = Agent::start(Kind::ClosesKeptConnections).await;
    let lard = Lard::start(config("LARD", &[agent.port])).await;
    for _ in 0..3 {
        let answer = lard.post("/run/f", "1").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    }
    assert_eq!(agent.log.connections.load(Ordering::Relaxed), 3);
    assert_eq!(lard.servers()[0].failures, 0);
}

#[tokio::test]
async fn no_more_than_three_are_tried() {
    let dead: Vec<_> = (0..5).map(|_| dead()).collect();
    let ports: Vec<_> = dead.iter().map(|d| d.port).collect();
    let lard = Lard::start(config("LARD", &ports)).await;
    let answer = lard.post("/run/f", "1").await;
    assert_eq!((answer.status, answer.reason().as_str()), (503, "no_capacity"));
    assert_eq!(answer.headers["retry-after"], "1");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with("no agent took the call; tried 3: agent w"), "{message}");
    assert!(lard.metric(r#"openlambda_lb_retries_total{reason="connect"} 2"#));
    assert_eq!(lard.servers().iter().filter(|t| t.failures > 0).count(), 3);
}

#[tokio::test]
async fn a_restarted_agent_is_found_again_even_when_all_were_set_aside() {
    let dead = dead();
    let lard = Lard::start(config("LARD", &[dead.port])).await;
    assert_eq!(lard.post("/run/f", "1").await.status, 503);
    let agent = Agent::start_on(dead.socket.listen(64).unwrap(), Kind::Good("back"));
    assert_eq!(lard.post("/run/f", "1").await.body, "back 1");
    assert_eq!((agent.calls(), lard.servers()[0].failures), (1, 0));
}

#[tokio::test]
async fn without_agents_the_answer_says_so() {
    let answer = Lard::start(config("LARD", &[])).await.post("/run/f", "1").await;
    assert_eq!((answer.status, answer.reason().as_str()), (503, "no_capacity"));
    assert!(answer.json()["message"].as_str().unwrap().contains("no agents"));
}

#[tokio::test]
async fn a_call_over_its_time_gets_504_and_is_given_up_at_the_agent() {
    let agent = Agent::start(Kind::Slow(Arc::new(Semaphore::new(0)))).await;
    let lard =
        Lard::start_with(config("LARD", &[agent.port]), |s| s.timeout = Duration::from_millis(50)).await;
    let answer = lard.post("/run/f", "1").await;
    assert_eq!((answer.status, answer.reason().as_str()), (504, "function_timeout"));
    until("the agent sees that nobody waits", || agent.log.abandoned.load(Ordering::Relaxed) == 1).await;
    assert_eq!(lard.servers()[0].failures, 0, "it had taken the call");
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_call_along() {
    let agent = Agent::start(Kind::Slow(Arc::new(Semaphore::new(0)))).await;
    let lard = Lard::start(config("LARD", &[agent.port])).await;
    let request = Request::post("/run/f").body("1".into()).unwrap();
    let client = tokio::spawn(support::try_send(lard.address, request));
    until("the call is at the agent", || agent.calls() == 1).await;
    assert_eq!(lard.servers()[0].connections, 1);
    client.abort();
    until("the agent sees that nobody waits", || agent.log.abandoned.load(Ordering::Relaxed) == 1).await;
    until("the call is counted out", || lard.servers()[0].connections == 0).await;
    assert!(lard.metric(r#"openlambda_lb_requests_total{code="499"} 1"#));
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    let (lard, _bad, good) = behind(Kind::DiesHalfway).await;
    let request = Request::post("/run/f").body("1".into()).unwrap();
    assert!(support::try_send(lard.address, request).await.is_err());
    assert_eq!(good.calls(), 0);
}
