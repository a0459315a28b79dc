//! Calls that are split between revisions.

use super::*;

const REVISIONS: &str = "/apis/apps/v1/namespaces/n/controllerrevisions";

/// What the operator keeps of a handler's inline code.
fn kept(handler: &str, generation: i64, code: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {
            "name": format!("{handler}-{generation}"), "namespace": "n",
            "ownerReferences": [{
                "apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler", "name": handler,
                "uid": format!("uid-{handler}"), "controller": true
            }],
        },
        "data": {"source": {"inline": code}}, "revision": generation,
    })
}

fn split(generation: i64, code: &str, traffic: Value) -> Value {
    handler("a", generation, json!({"source": {"inline": code}, "traffic": traffic}))
}

/// Of a hundred ids, how many get which code.
async fn counts(world: &World) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for number in 0..100 {
        let code = world.code_of("a", &format!("id-{number}")).await.unwrap();
        assert_eq!(
            world.code_of("a", &format!("id-{number}")).await.unwrap(),
            code,
            "an id stays where it is"
        );
        *counts.entry(code).or_default() += 1;
    }
    counts
}

async fn edit(world: &World, object: &Value) {
    world.server.event(HANDLERS, "MODIFIED", object).await;
}

fn only(code: &str) -> BTreeMap<String, u32> {
    BTreeMap::from([(code.to_owned(), 100)])
}

#[tokio::test]
async fn a_former_revision_gets_its_share_and_then_all_and_then_nothing() {
    let server = Server::default();
    server.put(HANDLERS, &[inline("a", 1, "1")]);
    server.put(REVISIONS, &[kept("a", 1, "1"), kept("a", 2, "2")]);
    let world = World::start(server);
    world.reaches("a", 1, Phase::Ready).await;

    // A new one for a tenth of the calls, from its first moment on.
    edit(&world, &split(2, "2", json!([{"revision": "a-1", "percent": 90}, {"percent": 10}]))).await;
    let both = world.reaches("a", 2, Phase::Ready).await;
    let seen = counts(&world).await;
    assert!(seen["2"] < 25 && seen["1"] > 75, "{seen:?}");
    assert!(both.digest.starts_with("sha256:"));

    // Half, by its name; the code is not tried again.
    let before = world.trials.load(Ordering::Relaxed);
    let half = json!([{"revision": "a-1", "percent": 50}, {"revision": "a-2", "percent": 50}]);
    edit(&world, &split(3, "2", half)).await;
    world.reaches("a", 3, Phase::Ready).await;
    let seen = counts(&world).await;
    assert!(seen["2"] > 30 && seen["1"] > 30, "{seen:?}");
    assert_eq!(world.trials.load(Ordering::Relaxed), before);

    // Back to the old one, whatever the new code is.
    edit(&world, &split(4, "raise", json!([{"revision": "a-1", "percent": 100}]))).await;
    assert_eq!(world.reaches("a", 4, Phase::Ready).await.digest, "", "its own is not even made");
    assert_eq!(counts(&world).await, only("1"));

    edit(&world, &inline("a", 5, "5")).await;
    world.reaches("a", 5, Phase::Ready).await;
    assert_eq!(counts(&world).await, only("5"));
    let function = world.functions.known("a").unwrap();
    until(|| world.functions.parts(&function).is_empty()).await;
}

#[tokio::test]
async fn a_share_that_cannot_be_had_leaves_what_serves() {
    let server = Server::default();
    server.put(HANDLERS, &[inline("a", 1, "1")]);
    let mut foreign = kept("a", 7, "7");
    foreign["metadata"]["ownerReferences"][0]["uid"] = json!("uid-of-another");
    server.put(REVISIONS, &[kept("a", 1, "1"), kept("a", 2, "raise"), foreign]);
    let world = World::start(server);
    world.reaches("a", 1, Phase::Ready).await;
    let former = |name: &str| json!([{"revision": name, "percent": 50}, {"percent": 50}]);

    for (generation, name, reason, message) in [
        (
            2,
            "a-9",
            "ReferenceNotFound",
            "spec.traffic: there is no revision a-9; status.revisions has those that there are",
        ),
        (3, "a-7", "InvalidSpec", "spec.traffic: ControllerRevision a-7 is not of this Handler"),
        (4, "a-2", "ImportFailed", "revision a-2: lambda_func.py, line 1: E: no"),
    ] {
        edit(&world, &split(generation, "2", former(name))).await;
        let failed = world.reaches("a", generation, Phase::Failed).await;
        assert_eq!((failed.reason.as_str(), failed.message.as_str()), (reason, message));
        assert_eq!(failed.serving.map(|serving| serving.generation), Some(1));
        assert_eq!(counts(&world).await, only("1"));
    }

    // A split that serves goes on to as well, and it has no names of its own.
    edit(&world, &split(5, "2", former("a-1"))).await;
    world.reaches("a", 5, Phase::Ready).await;
    edit(&world, &split(6, "raise", former("a-1"))).await;
    world.reaches("a", 6, Phase::Failed).await;
    assert_eq!(counts(&world).await.len(), 2);
    assert!(matches!(world.code("a@a-1").await, Err(NoFunction::Name(_))));

    // Its own code again under another name: one revision, no split.
    edit(&world, &split(7, "1", former("a-1"))).await;
    world.reaches("a", 7, Phase::Ready).await;
    assert_eq!(counts(&world).await, only("1"));
    let function = world.functions.known("a").unwrap();
    until(|| world.functions.parts(&function).is_empty() && function.split().is_empty()).await;

    edit(&world, &split(8, "2", former("a-1"))).await;
    world.reaches("a", 8, Phase::Ready).await;
    world.server.event(HANDLERS, "DELETED", &split(8, "2", former("a-1"))).await;
    until(|| world.functions.all().is_empty()).await;
}

#[tokio::test]
async fn the_first_split_may_name_the_spec_before_it_is_kept() {
    let server = Server::default();
    server.put(HANDLERS, &[split(1, "1", json!([{"revision": "a-1", "percent": 100}]))]);
    server.put(REVISIONS, &[]);
    let world = World::start(server);
    world.reaches("a", 1, Phase::Ready).await;
    assert_eq!(counts(&world).await, only("1"));
}
