//! Tests of the status as a function.

use std::marker::PhantomData;

use serde_json::{Value, json};

use openlambda_api::cluster::HandlerCounts;

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
        stateful_sets: vec![],
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
    let problem = |field| Problem { field, message: "is bad".into() };
    let children = live(agents(1, 1), lard(2));
    let outcome = Outcome::Invalid(vec![problem("spec.a"), problem("spec.b")]);
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
    let seen = Seen { handlers: HandlerCounts::new(3, 4), registry: None };
    let first = compute(&cluster, &LambdaClusterStatus::default(), &children, Some(&seen), &outcome, &at(1));
    assert_eq!(compute(&cluster, &first, &children, Some(&seen), &outcome, &at(9)), first);
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

#[test]
fn the_registry_is_as_ready_as_agents_say() {
    let cluster = cluster("demo", json!({"registry": {"embedded": {}}}));
    let children = live(agents(2, 2), lard(2));
    let outcome = Outcome::Applied(Box::new(children.clone()));
    let of = |old: &LambdaClusterStatus, seen: Option<&Seen>| {
        compute(&cluster, old, &children, seen, &outcome, &at(1))
    };
    let first = of(&LambdaClusterStatus::default(), None);
    assert_eq!(line(&first, Type::RegistryReady), "RegistryReady=Unknown Pending");
    assert_eq!(line(&first, Type::Ready), "Ready=False Pending");
    let said = |verdict| Seen { handlers: HandlerCounts::new(0, 0), registry: Some(verdict) };
    let denied = said(Verdict::no(Type::RegistryReady, Reason::RegistryDenied, "it refuses the keys"));
    let denied = of(&first, Some(&denied));
    assert_eq!(line(&denied, Type::RegistryReady), "RegistryReady=False RegistryDenied");
    assert_eq!(denied.conditions[0].message, "it refuses the keys");
    assert_eq!(of(&denied, None), denied, "an operator that has just started has asked nobody yet");
    let well = said(Verdict::yes(Type::RegistryReady, Reason::AsExpected, ""));
    assert_eq!(line(&of(&denied, Some(&well)), Type::Ready), "Ready=True AsExpected");
    assert!(conditions::find(&status(json!({}), children.clone()).conditions, Type::RegistryReady).is_none());
}
