//! Tests of a handler's status as a function.

use k8s_openapi::jiff::Timestamp;
use openlambda_api::state::{Packages, Serving};
use serde_json::json;

use super::*;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn handler(generation: i64) -> HandlerView {
    serde_json::from_value(json!({
        "apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler",
        "metadata": {"name": "hello", "namespace": "n", "generation": generation},
        "spec": {"source": {"inline": "x"}},
    }))
    .unwrap()
}

fn state(generation: i64, phase: Phase) -> HandlerState {
    HandlerState {
        name: "hello".into(),
        generation,
        digest: format!("sha256:{generation}"),
        state: phase,
        reason: String::new(),
        message: String::new(),
        packages: None,
        serving: None,
    }
}

fn broken(generation: i64, reason: &str, serving: Option<i64>) -> HandlerState {
    HandlerState {
        reason: reason.into(),
        message: "lambda_func.py, line 3: no module named x".into(),
        serving: serving.map(|generation| Serving { generation, digest: format!("sha256:{generation}") }),
        ..state(generation, Phase::Failed)
    }
}

fn found<'a>(states: &'a [Option<HandlerState>]) -> Result<Found<'a>, Nowhere> {
    Ok(Found {
        key: ("n".into(), "demo".into()),
        url: Some("http://demo.n.svc".into()),
        desired: 2,
        balanced: true,
        agents: states.iter().map(|state| ("node", state.as_ref())).collect(),
    })
}

fn status(generation: i64, old: &HandlerStatus, states: &[Option<HandlerState>]) -> HandlerStatus {
    compute(&handler(generation), old, &found(states), &[], &at(generation))
}

fn line(status: &HandlerStatus, type_: Type) -> String {
    let condition = conditions::find(&status.conditions, type_).unwrap();
    format!("{} {}", condition.status, condition.reason)
}

fn ready() -> HandlerStatus {
    let both = [Some(state(1, Phase::Ready)), Some(state(1, Phase::Ready))];
    status(1, &HandlerStatus::default(), &both)
}

#[test]
fn ready_everywhere() {
    let status = ready();
    for type_ in [Type::Ready, Type::SourceResolved, Type::CodeLoads, Type::Routed] {
        assert_eq!(line(&status, type_), "True AsExpected");
    }
    // Small: a thousand of them are written at once.
    assert_eq!(status.conditions.len(), 4);
    assert_eq!(status.url.as_deref(), Some("http://demo.n.svc/run/hello"));
    assert_eq!(status.active_revision.as_deref(), Some("hello-1"));
    assert_eq!((status.revisions[0].digest.as_str(), status.revisions[0].percent), ("sha256:1", 100));
    assert_eq!(status.agents.as_ref().unwrap().summary, "2/2");
    assert!(is_final(&status));
}

#[test]
fn the_same_words_give_the_same_status_at_any_time() {
    let first = ready();
    let both = [Some(state(1, Phase::Ready)), Some(state(1, Phase::Ready))];
    assert_eq!(compute(&handler(1), &first, &found(&both), &[], &at(99)), first);
}

#[test]
fn not_ready_until_every_agent_has_it() {
    let status = status(1, &HandlerStatus::default(), &[Some(state(1, Phase::Ready)), None]);
    assert_eq!(line(&status, Type::Ready), "False InProgress");
    assert_eq!(line(&status, Type::Reconciling), "True InProgress");
    assert!(status.conditions[0].message.contains("1 of 2 agents"));
    assert!(!is_final(&status));
}

#[test]
fn a_new_agent_does_not_make_it_unready() {
    let more = [Some(state(1, Phase::Ready)), None, Some(state(1, Phase::Pending))];
    let status = status(1, &ready(), &more);
    assert_eq!(line(&status, Type::Ready), "True AsExpected");
    assert_eq!(status.agents.unwrap().summary, "1/3");
}

#[test]
fn a_broken_import_is_named_and_the_old_revision_serves() {
    let failed = || Some(broken(2, "ImportFailed", Some(1)));
    let status = status(2, &ready(), &[failed(), failed()]);
    assert_eq!(line(&status, Type::Ready), "False ImportFailed");
    assert_eq!(line(&status, Type::SourceResolved), "True AsExpected");
    assert_eq!(line(&status, Type::CodeLoads), "False ImportFailed");
    assert_eq!(line(&status, Type::Routed), "True AsExpected");
    assert_eq!(line(&status, Type::Stalled), "True ImportFailed");
    let message = &status.conditions[0].message;
    assert_eq!(message, "lambda_func.py, line 3: no module named x; generation 1 keeps serving");
    assert_eq!(status.active_revision.as_deref(), Some("hello-1"));
    assert_eq!(status.revisions, ready().revisions);
    assert!(is_final(&status));
}

#[test]
fn the_step_that_failed_is_false() {
    for (reason, source, code) in [
        ("FetchFailed", "False FetchFailed", "Unknown Pending"),
        ("DigestMismatch", "False DigestMismatch", "Unknown Pending"),
        ("ImportFailed", "True AsExpected", "False ImportFailed"),
        ("NeverHeardOf", "True AsExpected", "False AgentFailed"),
    ] {
        let status = status(1, &HandlerStatus::default(), &[Some(broken(1, reason, None)), None]);
        assert_eq!(line(&status, Type::SourceResolved), source);
        assert_eq!(line(&status, Type::CodeLoads), code);
        assert_eq!(line(&status, Type::Routed), "False Unavailable");
        assert!(
            status.conditions[0].message.ends_with("(on 1 of 2 agents)"),
            "{}",
            status.conditions[0].message
        );
    }
}

#[test]
fn words_about_an_older_generation_do_not_count() {
    let both = [Some(state(1, Phase::Ready)), Some(broken(1, "ImportFailed", None))];
    let status = status(2, &ready(), &both);
    assert_eq!(line(&status, Type::Ready), "False InProgress");
    assert_eq!(line(&status, Type::CodeLoads), "Unknown InProgress");
    // Generation 1 still serves.
    assert_eq!(line(&status, Type::Routed), "True AsExpected");
    assert_eq!(status.active_revision.as_deref(), Some("hello-1"));
}

#[test]
fn without_agents_it_waits_and_without_lard_it_is_not_routed() {
    let status = status(1, &HandlerStatus::default(), &[]);
    assert_eq!(line(&status, Type::Ready), "False NoAgents");
    assert_eq!(status.agents.unwrap().summary, "0/2");
    let both = [Some(state(1, Phase::Ready))];
    let mut without = found(&both).unwrap();
    without.balanced = false;
    let status = compute(&handler(1), &HandlerStatus::default(), &Ok(without), &[], &at(1));
    assert_eq!(line(&status, Type::Ready), "False BalancerNotReady");
    assert_eq!(line(&status, Type::CodeLoads), "True AsExpected");
    assert!(!is_final(&status));
}

#[test]
fn no_cluster_stalls() {
    let nowhere = Nowhere { reason: Reason::ClusterNotFound, message: "create one".into() };
    let status = compute(&handler(1), &HandlerStatus::default(), &Err(nowhere), &[], &at(1));
    assert_eq!(line(&status, Type::Ready), "False ClusterNotFound");
    assert_eq!(line(&status, Type::Stalled), "True ClusterNotFound");
    assert_eq!((status.url.as_deref(), is_final(&status)), (None, true));
}

fn with_packages(requirements: &str, locked: &[&str]) -> Option<HandlerState> {
    let locked = locked.iter().map(|&one| one.to_owned()).collect();
    let packages = Some(Packages { requirements: requirements.into(), locked });
    Some(HandlerState { packages, ..state(1, Phase::Ready) })
}

#[test]
fn the_first_lock_is_recorded_and_stands_for_the_same_requirements() {
    let two = [with_packages("d1", &["a==1", "b==2"]), with_packages("d1", &["a==1", "b==3"])];
    let first = status(1, &HandlerStatus::default(), &two);
    let recorded = first.packages.clone().unwrap();
    assert_eq!((recorded.requirements.as_str(), recorded.locked.join(" ").as_str()), ("d1", "a==1 b==2"));
    assert_eq!(line(&first, Type::PackagesInstalled), "True AsExpected");
    // Another agent is the first to be heard now: nothing changes.
    let only = [with_packages("d1", &["a==1", "b==3"])];
    assert_eq!(status(1, &first, &only).packages, first.packages);
    assert_eq!(status(1, &first, &[None]).packages, first.packages);
    // Other requirements are recorded anew, and none are none.
    let other = status(1, &first, &[with_packages("d2", &["a==2"])]);
    assert_eq!(other.packages.unwrap().locked, ["a==2"]);
    assert_eq!(status(1, &first, &[Some(state(1, Phase::Ready))]).packages, None);
}

#[test]
fn requirements_of_a_bundle_show_when_they_fail() {
    for reason in
        ["Unsatisfiable", "NoWheel", "IndexUnreachable", "HashMismatch", "DiskFull", "InvalidRequirements"]
    {
        let failed = status(2, &ready(), &[Some(broken(2, reason, Some(1)))]);
        assert_eq!(line(&failed, Type::PackagesInstalled), format!("False {reason}"));
        assert_eq!(line(&failed, Type::SourceResolved), "True AsExpected");
        assert_eq!(failed.active_revision.as_deref(), Some("hello-1"), "the old one serves");
    }
}

#[test]
fn requirements_add_a_condition() {
    let mut with = handler(1);
    with.spec.requirements = vec!["pandas".into()];
    let states = [Some(broken(1, "InstallFailed", None))];
    let status = compute(&with, &HandlerStatus::default(), &found(&states), &[], &at(1));
    assert_eq!(line(&status, Type::PackagesInstalled), "False InstallFailed");
    assert_eq!(line(&status, Type::CodeLoads), "Unknown Pending");
}
