//! Tests of the status as a function.

use std::marker::PhantomData;

use serde_json::{Value, json};

use super::*;
use crate::fixtures::cluster;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn live(agents: Value, lard: Value) -> Children<Live> {
    let set = json!({"metadata": {"name": "demo-agent", "generation": 1}, "status": agents});
    let deployment = json!({"metadata": {"name": "demo-lard", "generation": 1}, "spec": {"replicas": 2, "selector": {}, "template": {}}, "status": lard});
    Children {
        service_accounts: vec![],
        roles: vec![],
        role_bindings: vec![],
        config_maps: vec![],
        services: vec![],
        daemon_sets: vec![serde_json::from_value(set).unwrap()],
        deployments: vec![serde_json::from_value(deployment).unwrap()],
        disruption_budgets: vec![],
        network_policies: vec![],
        ingresses: vec![],
        state: PhantomData,
    }
}

fn agents(desired: i32, ready: i32) -> Value {
    json!({"observedGeneration": 1, "desiredNumberScheduled": desired, "numberReady": ready,
           "updatedNumberScheduled": desired, "currentNumberScheduled": desired, "numberMisscheduled": 0})
}

fn lard(ready: i32) -> Value {
    json!({"observedGeneration": 1, "updatedReplicas": 2, "readyReplicas": ready})
}

fn status(spec: Value, children: Children<Live>) -> LambdaClusterStatus {
    let cluster = cluster("demo", spec);
    let live = children.clone();
    compute(
        &cluster,
        &LambdaClusterStatus::default(),
        &live,
        None,
        &Outcome::Applied(Box::new(children)),
        &at(1),
    )
}

/// `Ready=True AsExpected` and so on.
fn line(status: &LambdaClusterStatus, type_: Type) -> String {
    let condition = conditions::find(&status.conditions, type_).unwrap();
    format!("{}={} {}", condition.type_, condition.status, condition.reason)
}

#[test]
fn all_ready() {
    let status = status(json!({}), live(agents(2, 2), lard(2)));
    assert_eq!(line(&status, Type::Ready), "Ready=True AsExpected");
    assert_eq!(conditions::find(&status.conditions, Type::Reconciling), None);
    assert_eq!(conditions::find(&status.conditions, Type::Stalled), None);
    assert_eq!(status.agents, Some(Counts::new(2, 2)));
    assert_eq!(status.agents.unwrap().summary, "2/2");
    assert_eq!(status.url.as_deref(), Some("http://demo.functions.svc"));
    assert_eq!(conditions::find(&status.conditions, Type::IngressReady), None);
}

#[test]
fn what_is_missing_is_said() {
    for (children, want, part) in [
        (live(agents(2, 1), lard(2)), "Ready=False Unavailable", "1 of 2 agents are ready"),
        (live(agents(0, 0), lard(2)), "Ready=False NoAgents", "nodeSelector"),
        (live(agents(2, 2), lard(1)), "Ready=False Unavailable", "1 of 2 replicas of lard are ready"),
        (live(json!(null), lard(1)), "Ready=False InProgress", "0 of 0 agents"),
    ] {
        let status = status(json!({}), children);
        assert_eq!(line(&status, Type::Ready), want);
        assert!(status.conditions[0].message.contains(part), "{}", status.conditions[0].message);
        assert!(line(&status, Type::Reconciling).starts_with("Reconciling=True"));
    }
}

#[test]
fn an_invalid_spec_stalls_and_names_everything() {
    let problem = |field, unsupported| Problem { field, message: "is bad".into(), unsupported };
    let children = live(agents(1, 1), lard(2));
    let outcome = Outcome::Invalid(vec![problem("spec.a", false), problem("spec.b", true)]);
    let cluster = cluster("demo", json!({}));
    let status = compute(&cluster, &LambdaClusterStatus::default(), &children, None, &outcome, &at(1));
    assert_eq!(line(&status, Type::Ready), "Ready=False InvalidSpec");
    assert_eq!(status.conditions[0].message, "spec.a: is bad; spec.b: is bad");
    assert_eq!(line(&status, Type::Stalled), "Stalled=True InvalidSpec");
    assert_eq!(line(&status, Type::AgentsReady), "AgentsReady=True AsExpected");
}

#[test]
fn the_same_world_gives_the_same_status_at_any_time() {
    let children = live(agents(2, 2), lard(2));
    let outcome = Outcome::Applied(Box::new(children.clone()));
    let cluster = cluster("demo", json!({}));
    let counts = HandlerCounts::new(3, 4);
    let first =
        compute(&cluster, &LambdaClusterStatus::default(), &children, Some(&counts), &outcome, &at(1));
    assert_eq!(compute(&cluster, &first, &children, Some(&counts), &outcome, &at(9)), first);
    // Before the handlers are counted, the last count stands.
    assert_eq!(compute(&cluster, &first, &children, None, &outcome, &at(9)), first);
}

#[test]
fn urls() {
    let children = || live(agents(2, 2), lard(2));
    let url = |spec| status(spec, children()).url.unwrap();
    assert_eq!(url(json!({"ingress": {"host": "f.example.com"}})), "http://f.example.com");
    assert_eq!(
        url(json!({"ingress": {"host": "f.example.com", "tls": {"secretName": "x"}}})),
        "https://f.example.com"
    );
    assert_eq!(url(json!({"ingress": {}})), "http://demo.functions.svc");
    assert_eq!(url(json!({"loadBalancer": {"service": {"port": 8000}}})), "http://demo.functions.svc:8000");
    let status = status(json!({"ingress": {"host": "f.example.com"}}), children());
    assert_eq!(line(&status, Type::IngressReady), "IngressReady=Unknown NoAddress");
    assert_eq!(line(&status, Type::Ready), "Ready=True AsExpected");
}
