//! Tests of revisions as a function.

use openlambda_api::state::Packages;
use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn handler(generation: i64, spec: Value) -> HandlerView {
    let mut whole = json!({"source": {"inline": "x"}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler",
        "metadata": {"name": "h", "namespace": "n", "uid": "u", "generation": generation},
        "spec": whole,
    }))
    .unwrap()
}

fn object(name: &str, generation: i64) -> PartialObjectMeta<ControllerRevision> {
    serde_json::from_value(json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {
            "name": name, "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {revision::TEMPLATE: format!("template of {name}"), revision::HANDLER: "h"},
            "annotations": {revision::GENERATION: generation.to_string(), revision::CODE: format!("code of {name}")},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Handler", "name": "h", "uid": "u", "controller": true}],
        },
    }))
    .unwrap()
}

fn kept(name: &str, generation: i64) -> Kept {
    Kept::of(&object(name, generation)).unwrap().1
}

fn state(generation: i64, state: Phase, digest: &str) -> HandlerState {
    HandlerState {
        name: "h".into(),
        generation,
        digest: digest.into(),
        state,
        reason: String::new(),
        message: String::new(),
        packages: None,
        serving: None,
    }
}

fn found(states: &[HandlerState]) -> Found<'_> {
    Found {
        key: ("n".into(), "demo".into()),
        url: None,
        desired: 2,
        balanced: true,
        agents: states.iter().map(|state| ("node", Some(state))).collect(),
    }
}

fn seen(objects: &[PartialObjectMeta<ControllerRevision>]) -> Revisions {
    let mut revisions = Revisions::default();
    revisions.see(objects.iter());
    revisions
}

#[test]
fn a_generation_is_due_once_an_agent_serves_it_until_it_is_kept() {
    let plain = handler(2, json!({}));
    let first = seen(&[object("h-1", 1)]);
    for state in [state(1, Phase::Ready, "d"), state(2, Phase::Pending, "d"), state(2, Phase::Failed, "d")] {
        assert_eq!(first.due(&plain, &found(&[state])), None);
    }
    let packages = Packages { requirements: "r".into(), locked: vec!["a==1".into()] };
    let ready = HandlerState { packages: Some(packages), ..state(2, Phase::Ready, "d") };
    let both = [state(2, Phase::Pending, ""), ready];
    let due = first.due(&plain, &found(&both)).unwrap();
    assert_eq!((due.generation, due.code.as_deref()), (2, Some("d")));
    assert_eq!(due.packages.unwrap().locked, ["a==1"]);
    assert_eq!(seen(&[object("h-1", 1), object("h-2", 2)]).due(&plain, &found(&both)), None);
    // The first one again.
    assert_eq!(seen(&[object("h-1", 2)]).due(&plain, &found(&both)), None);

    let mut former = first;
    let only = [state(2, Phase::Ready, "")];
    assert_eq!(former.due(&plain, &found(&only)).unwrap().code, None);
    former.is_none("u", 2);
    assert_eq!(former.due(&plain, &found(&only)), None);
    let mut going = handler(3, json!({}));
    going.metadata.deletion_timestamp = Some(at(1));
    assert_eq!(former.due(&going, &found(&[state(3, Phase::Ready, "d")])), None);
}

#[test]
fn what_we_wrote_counts_until_the_watch_shows_it() {
    let mut revisions = seen(&[object("h-1", 1)]);
    revisions.wrote("u", kept("h-2", 2));
    revisions.wrote("u", kept("h-1", 3));
    revisions.see([object("h-1", 1)].iter());
    let names = |revisions: &Revisions| {
        let mut of: Vec<_> =
            revisions.of("u").iter().map(|kept| (kept.name.clone(), kept.generation)).collect();
        of.sort();
        of
    };
    assert_eq!(names(&revisions), [("h-1".to_owned(), 3), ("h-2".to_owned(), 2)]);
    revisions.see([object("h-1", 3), object("h-2", 2)].iter());
    assert_eq!(names(&revisions), [("h-1".to_owned(), 3), ("h-2".to_owned(), 2)]);
    // It is believed from now on: somebody deletes one.
    revisions.see([object("h-2", 2)].iter());
    assert_eq!(names(&revisions), [("h-2".to_owned(), 2)]);
    revisions.gave_up("u", "h-2");
    assert!(revisions.of("u").is_empty());
}

#[test]
fn objects_that_are_not_ours_are_not_counted() {
    let mut orphan = object("h-1", 1);
    orphan.metadata.owner_references = None;
    let mut odd = object("h-2", 2);
    odd.metadata.annotations.as_mut().unwrap().insert(revision::GENERATION.into(), "two".into());
    assert!(seen(&[orphan, odd]).of("u").is_empty());
}

#[test]
fn the_oldest_that_get_no_calls_are_too_many() {
    let objects: Vec<_> = (1..=5).map(|number| object(&format!("h-{number}"), number)).collect();
    let revisions = seen(&objects);
    let excess = |spec: Value| revisions.excess(&handler(5, spec));
    assert!(excess(json!({})).is_empty());
    assert_eq!(excess(json!({"revisionHistoryLimit": 3})), ["h-1", "h-2"]);
    let traffic = json!([{"revision": "h-1", "percent": 50}, {"percent": 50}]);
    assert_eq!(excess(json!({"revisionHistoryLimit": 3, "traffic": traffic})), ["h-2", "h-3"]);
    // A new spec that does not serve yet: what does stays.
    let mut edited = handler(6, json!({"revisionHistoryLimit": 1}));
    let row = |name: &str, percent: i32| Revision {
        name: name.into(),
        digest: String::new(),
        generation: 1,
        created_at: at(0),
        percent,
    };
    let status =
        HandlerStatus { revisions: vec![row("h-2", 100), row("h-3", 0)], ..HandlerStatus::default() };
    edited.status = Some(status);
    assert_eq!(revisions.excess(&edited), ["h-1", "h-3", "h-4", "h-5"]);
}

fn shown(rows: &[Revision]) -> Vec<(&str, i32)> {
    rows.iter().map(|row| (row.name.as_str(), row.percent)).collect()
}

#[test]
fn rows_say_who_gets_how_much() {
    let old = HandlerStatus::default();
    let all = [kept("h-1", 1), kept("h-3", 4)];
    let serving = |generation: i64| Some((generation, "d".to_owned()));
    // Not kept yet.
    let (active, new) = rows(&handler(1, json!({})), &old, &[], serving(1), &at(7));
    assert_eq!((active.as_deref(), shown(&new)), (Some("h-1"), vec![("h-1", 100)]));
    assert_eq!((new[0].digest.as_str(), &new[0].created_at), ("d", &at(7)));
    // Kept: the time of before stands.
    let before = HandlerStatus { revisions: new, ..old.clone() };
    let (_, again) = rows(&handler(1, json!({})), &before, &all[..1], serving(1), &at(9));
    assert_eq!((again[0].digest.as_str(), &again[0].created_at), ("code of h-1", &at(7)));
    // Generation 4 has the spec of 3.
    let split = json!({"traffic": [{"revision": "h-1", "percent": 30}, {"percent": 70}]});
    let (active, both) = rows(&handler(4, split), &old, &all, serving(4), &at(7));
    assert_eq!((active.as_deref(), shown(&both)), (Some("h-3"), vec![("h-3", 70), ("h-1", 30)]));
    assert_eq!(both[0].generation, 3);
    // A spec that does not serve changes nothing.
    let before = HandlerStatus { revisions: both, ..old.clone() };
    let other = json!({"traffic": [{"revision": "h-1", "percent": 100}]});
    let (active, same) = rows(&handler(5, other.clone()), &before, &all, serving(4), &at(7));
    assert_eq!((active.as_deref(), shown(&same)), (Some("h-3"), vec![("h-3", 70), ("h-1", 30)]));
    let (_, same) = rows(&handler(5, other.clone()), &before, &all, None, &at(7));
    assert_eq!(shown(&same), [("h-3", 70), ("h-1", 30)]);
    // All goes back.
    let (active, back) = rows(&handler(5, other), &before, &all, Some((5, String::new())), &at(7));
    assert_eq!((active.as_deref(), shown(&back)), (Some("h-1"), vec![("h-3", 0), ("h-1", 100)]));
    // One half each: the newer is the active one.
    let half = json!({"traffic": [{"revision": "h-1", "percent": 50}, {"revision": "h-3", "percent": 50}]});
    let (active, _) = rows(&handler(6, half), &old, &all, serving(6), &at(7));
    assert_eq!(active.as_deref(), Some("h-3"));
}
