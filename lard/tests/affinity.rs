//! Handlers that need the same packages meet where the Zygote is that has them: the real binary learns both from what
//! agents say with their answers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use hyper::Request;
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::process::{Process, start, targets, until_targets};
use support::{Agent, Kind, config, send};

const SET: &str = "00000000000000aa";
const LOAD: &str = "endpoint-load-metrics";

fn load(zygotes: &str) -> String {
    format!("TEXT cpu_utilization=0.1, mem_utilization=0.1, named_metrics.zygotes=1{zygotes}")
}

async fn call(lard: &Process, handler: &str) -> String {
    let request = Request::post(format!("/run/{handler}")).body("1".into()).unwrap();
    send(lard.address, request).await.body
}

/// Four agents whose handlers all say that they need the set. Nobody tells lard before.
async fn four(policy: &str, zygotes: [&str; 4]) -> (Process, Vec<Agent>) {
    let mut agents = Vec::new();
    for (name, zygotes) in ["a", "b", "c", "d"].into_iter().zip(zygotes) {
        let headers = vec![(LOAD, load(zygotes)), ("x-packages", SET.to_owned())];
        agents.push(Agent::start(Kind::Saying(name, headers)).await);
    }
    let ports: Vec<_> = agents.iter().map(|agent| agent.port).collect();
    (start(config(policy, &ports)).await, agents)
}

#[tokio::test]
async fn handlers_whose_answers_name_one_set_meet_from_the_next_call_on() {
    for policy in ["LARD", "CostAware"] {
        let (lard, _agents) = four(policy, [""; 4]).await;
        let handlers: Vec<String> = (0..12).map(|number| format!("h{number}")).collect();
        let mut first = BTreeSet::new();
        for handler in &handlers {
            first.insert(call(&lard, handler).await);
        }
        assert!(first.len() > 1, "{policy}: lard cannot know it yet");
        // A handler that has run somewhere stays there under CostAware: forget that by what is new.
        if policy == "LARD" {
            let mut second = BTreeSet::new();
            for handler in &handlers {
                second.insert(call(&lard, handler).await);
            }
            assert_eq!(second.len(), 1, "{second:?}");
        }
        let packages = targets(&lard).await["packages"].clone();
        assert!(packages.get(SET).is_some() || policy == "CostAware", "{packages}");
    }
}

#[tokio::test]
async fn they_meet_at_the_agent_that_has_the_zygote() {
    let zygote = format!(", named_metrics.z.{SET}=400");
    let (lard, agents) = four("LARD", ["", "", &zygote, ""]).await;
    // Each agent is heard of once.
    for number in 0.. {
        if agents.iter().all(|agent| agent.calls() > 0) {
            break;
        }
        call(&lard, &format!("first{number}")).await;
        assert!(number < 1000, "some agent is never chosen");
    }
    let servers = targets(&lard).await["servers"].clone();
    let zygotes: Vec<_> =
        servers.as_array().unwrap().iter().map(|server| server["zygotes"].clone()).collect();
    assert_eq!(zygotes, [json!([]), json!([]), json!([SET]), json!([])]);
    // Known to need the set since the call before, and new to it: the set has no home yet.
    call(&lard, "first0").await;
    assert_eq!(call(&lard, "first0").await, "c 1");
    assert_eq!(targets(&lard).await["packages"][SET], json!(["w2"]));
}

/// The agent's answers say nothing; its admin port does.
#[tokio::test]
async fn an_agent_that_gets_no_calls_is_asked() {
    let said = Arc::new(Mutex::new(load(&format!(", named_metrics.z.{SET}=400"))));
    let agent = Agent::start(Kind::Good("a")).await;
    let admin = Agent::start(Kind::Telling(Arc::clone(&said))).await;
    let mut config = config("LARD", &[agent.port]);
    config["Servers"][0]["AdminPort"] = json!(admin.port);
    let lard = start(config).await;
    let server = |targets: &Value| targets["servers"][0].clone();
    until_targets("the report", &lard, |targets| server(targets)["zygotes"] == json!([SET])).await;
    assert_eq!((server(&targets(&lard).await)["cpu"].clone(), agent.calls()), (json!(0.1), 0));
    assert_eq!(admin.last().target, "/debug/load");
    *said.lock() = "TEXT cpu_utilization=0.75, named_metrics.inflight=7".to_owned();
    let is_next = |targets: &Value| {
        let server = server(targets);
        server["cpu"] == json!(0.75) && server["foreign"].as_u64() > Some(0)
    };
    until_targets("the next report", &lard, is_next).await;
    assert_eq!((server(&targets(&lard).await)["failures"].clone(), agent.calls()), (json!(0), 0));
}
