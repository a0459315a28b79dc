//! The import cache: a sandbox is forked from a Zygote that has its imports, whatever packages do when they are imported or forked.
//!
//! Instances are not kept here, so that each call starts one. Packages are made on the spot; how a package tells a Zygote from a sandbox
//! is its user: 0 in a Zygote's own namespace.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use openlambda_tests::wait::PATIENCE;
use openlambda_tests::{Cluster, LoopbackIndex, Response, until, until_within};
use serde_json::{Value, json};

/// How long a package takes that is slow.
const SLOW: Duration = Duration::from_millis(400);

/// A worker that keeps no instance, and its index.
fn cluster(conf: Value) -> Result<(Cluster, LoopbackIndex)> {
    let index = LoopbackIndex::start()?;
    let mut all = json!({"pip_mirror": index.url(), "handler_cache_size": 0, "limits": {"memory": "256Mi"}});
    if let (Some(all), Some(more)) = (all.as_object_mut(), conf.as_object()) {
        all.extend(more.clone());
    }
    Ok((Cluster::with_worker(&all)?, index))
}

fn slow(index: &LoopbackIndex, name: &str, requires: &[&str], more: &str) -> Result<()> {
    let source = format!("import time\ntime.sleep({})\n{more}\nVALUE = '{name}'\n", SLOW.as_secs_f64());
    index.wheel(name, "1.0", requires, &[(&format!("{name}.py"), &source)]).map(drop)
}

fn package(index: &LoopbackIndex, name: &str, source: &str) -> Result<()> {
    index.wheel(name, "1.0", &[], &[(&format!("{name}.py"), source)]).map(drop)
}

/// A handler that imports `module` and answers with an expression.
fn handler(cluster: &Cluster, name: &str, requirements: &str, module: &str, answer: &str) -> Result<()> {
    cluster.file(name, "requirements.txt", requirements)?;
    cluster.handler(name, &format!("import {module}\ndef handler(event):\n    return {answer}\n"))
}

/// Calls, which must succeed once the packages are there.
fn call(cluster: &Cluster, name: &str) -> Result<Response> {
    until(&format!("the packages of {name}"), || {
        let response = cluster.call(name, &Value::Null)?;
        if response.status == 503 && response.text().contains("being installed") {
            return Ok(None);
        }
        response.ok()?;
        Ok(Some(response))
    })
}

fn kind(response: &Response) -> &str {
    response.header("x-start-kind").unwrap_or_default()
}

/// Milliseconds of a phase.
fn phase(response: &Response, name: &str) -> Result<f64> {
    let timing = response.header("server-timing").context("no timing")?;
    let part = timing.split(", ").find_map(|part| part.strip_prefix(name)?.strip_prefix(";dur="));
    Ok(part.with_context(|| format!("no {name} in {timing}"))?.parse()?)
}

fn cache(cluster: &Cluster) -> Result<Value> {
    Ok(cluster.state(0)?["import_cache"].clone())
}

/// The packages of each node that is ready, its parent's left out.
fn nodes(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let cache = cache(cluster)?;
    let ready = cache["nodes"].as_array().into_iter().flatten().filter(|node| node["state"] == "ready");
    Ok(ready.map(|node| node["packages"].to_string()).collect())
}

fn await_node(cluster: &Cluster, packages: &[&str]) -> Result<()> {
    let want = json!(packages).to_string();
    until(&format!("a Zygote with {want}"), || Ok(nodes(cluster)?.contains(&want).then_some(())))
        .with_context(|| format!("{:?}", cache(cluster)))
}

fn await_excluded(cluster: &Cluster, package: &str) -> Result<Value> {
    until(&format!("the exclusion of {package}"), || {
        let excluded = cache(cluster)?["excluded"][package].clone();
        Ok((!excluded.is_null()).then_some(excluded))
    })
}

fn is_hit(response: &Response) -> bool {
    matches!(kind(response), "zygote" | "spare")
}

#[test]
fn the_second_cold_start_has_its_imports_already() -> Result<()> {
    let (cluster, index) = cluster(json!({}))?;
    slow(&index, "heavy", &[], "")?;
    handler(&cluster, "h", "heavy\n", "heavy", "heavy.VALUE")?;
    let first = call(&cluster, "h")?;
    ensure!(kind(&first) == "cold", "{}", kind(&first));
    ensure!(phase(&first, "load")? >= SLOW.as_secs_f64() * 1000.0);
    await_node(&cluster, &["heavy-1.0"])?;
    let second = call(&cluster, "h")?;
    ensure!(is_hit(&second) && second.json()? == json!("heavy"), "{}", kind(&second));
    ensure!(phase(&second, "load")? < SLOW.as_secs_f64() * 250.0, "{}", phase(&second, "load")?);
    // One that was never called finds it as well.
    handler(&cluster, "other", "heavy==1.0\n", "heavy", "heavy.VALUE * 2")?;
    let other = call(&cluster, "other")?;
    ensure!(phase(&other, "load")? < SLOW.as_secs_f64() * 250.0 && other.json()? == json!("heavyheavy"));
    let metrics = cluster.metrics()?;
    for want in [
        "zygote_hits_total{result=\"none\"} 1",
        "zygote_hits_total{result=\"full\"}",
        "starts_total{kind=\"cold\"}",
    ] {
        ensure!(metrics.contains(want), "no {want} in {metrics}");
    }
    let cost = &cache(&cluster)?["costs"]["heavy-1.0"];
    ensure!(cost["import_ms"].as_f64().is_some_and(|ms| ms >= 390.0), "{cost}");
    cluster.stop()
}

#[test]
fn what_people_use_works_in_the_children_of_a_zygote() -> Result<()> {
    // From the index of this machine's pip.
    let conf = json!({"handler_cache_size": 0, "import_cache_size": "1Gi", "limits": {"memory": "1Gi"}});
    let cluster = Cluster::with_worker(&conf)?;
    let requirements = "scikit-learn==1.6.1\npillow==11.1.0\nflask==3.1.0\nboto3==1.35.90\njinja2==3.1.5\nrequests==2.32.3\n";
    cluster.file("h", "requirements.txt", requirements)?;
    let source = r#"
import boto3, flask, jinja2, numpy, PIL.Image, random, requests, sklearn.linear_model, uuid
def handler(event):
    model = sklearn.linear_model.LinearRegression().fit([[0], [1], [2]], [1, 3, 5])
    app = flask.Flask("app")
    app.route("/")(lambda: "flask")
    s3 = boto3.client("s3", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
    return {
        "sklearn": round(float(model.coef_[0]), 6),
        "pillow": PIL.Image.new("RGB", (4, 2)).resize((2, 1)).size,
        "flask": app.test_client().get("/").text,
        "boto3": s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"}).split("?")[0],
        "jinja2": jinja2.Template("{{ x }}!").render(x=1),
        "requests": requests.Request("GET", "http://x/", params={"a": 1}).prepare().url,
        "random": [numpy.random.rand(), random.random(), str(uuid.uuid4())],
    }
"#;
    cluster.handler("h", source)?;
    let mut seen = BTreeSet::new();
    let mut hits = 0;
    // To install and import them may take that long on a busy machine.
    until_within(3 * PATIENCE, "starts from a Zygote with all of them", || {
        let response = call(&cluster, "h")?;
        let mut answer = response.json()?;
        for value in answer["random"].as_array().context("no numbers")? {
            ensure!(seen.insert(value.to_string()), "{value} came twice");
        }
        answer["random"].take();
        let want = json!({"sklearn": 2.0, "pillow": [2, 1], "flask": "flask", "boto3": "https://bucket.s3.amazonaws.com/k",
            "jinja2": "1!", "requests": "http://x/?a=1", "random": null});
        ensure!(answer == want, "{answer}");
        hits += u32::from(is_hit(&response));
        Ok((hits >= 5).then_some(()))
    })
    .with_context(|| format!("{:?}", cache(&cluster)))?;
    cluster.stop()
}

#[test]
fn a_handler_gets_no_other_version_and_nothing_that_others_lacked() -> Result<()> {
    let (cluster, index) = cluster(json!({}))?;
    for version in ["1.0", "2.0"] {
        index.wheel("twice", version, &[], &[("twice.py", &format!("VERSION = '{version}'\n"))])?;
        handler(
            &cluster,
            &format!("v{}", &version[..1]),
            &format!("twice=={version}\n"),
            "twice",
            "twice.VERSION",
        )?;
    }
    // It looks for what may be there.
    package(
        &index,
        "optional",
        "try:\n    import extra\n    HAS = True\nexcept ImportError:\n    HAS = False\n",
    )?;
    package(&index, "extra", "")?;
    handler(&cluster, "without", "optional\n", "optional", "optional.HAS")?;
    handler(&cluster, "with", "optional\nextra\n", "optional", "optional.HAS")?;
    // Its own module of the same name is what it means.
    handler(&cluster, "own", "twice==1.0\n", "twice", "twice.VERSION")?;
    cluster.file("own", "twice.py", "VERSION = 'own'\n")?;
    for round in 0..4 {
        for (name, want) in [
            ("v1", json!("1.0")),
            ("v2", json!("2.0")),
            ("without", json!(false)),
            ("with", json!(true)),
            ("own", json!("own")),
        ] {
            let got = call(&cluster, name)?.json()?;
            ensure!(got == want, "round {round}, {name}: {got}");
        }
        if round == 0 {
            await_node(&cluster, &["twice-1.0"])?;
            await_node(&cluster, &["optional-1.0"])?;
        }
    }
    cluster.stop()
}

#[test]
fn a_package_is_not_blamed_for_what_differs_between_handlers() -> Result<()> {
    let (cluster, index) = cluster(json!({"import_cache_size": "512Mi"}))?;
    // Both have `big` and `top` in common, and `top` cannot be imported without a `dep`, of which each has its own.
    let big = "DATA = bytearray(b'x') * (16 << 20)\n";
    slow(&index, "big", &[], big)?;
    slow(&index, "top", &["dep"], &format!("import dep\nVERSION = dep.VERSION\n{big}"))?;
    for version in ["1.0", "2.0"] {
        let source = format!("VERSION = '{version}'\n");
        index.wheel("dep", version, &[], &[("dep.py", &source)])?;
        let requirements = format!("big\ntop\ndep=={version}\n");
        handler(&cluster, &format!("v{}", &version[..1]), &requirements, "big, top", "top.VERSION")?;
    }
    for _ in 0..3 {
        for (name, version) in [("v1", "1.0"), ("v2", "2.0")] {
            ensure!(call(&cluster, name)?.json()? == json!(version));
        }
    }
    // In the order in which they were first seen.
    await_node(&cluster, &["big-1.0", "dep-1.0", "top-1.0"])?;
    await_node(&cluster, &["big-1.0", "top-1.0", "dep-2.0"])?;
    ensure!(cache(&cluster)?["excluded"] == json!({}), "{}", cache(&cluster)?);
    cluster.stop()
}

#[test]
fn packages_that_no_zygote_can_hold_are_told_and_cost_no_call() -> Result<()> {
    let (cluster, index) = cluster(json!({"import_cache_size": "96Mi", "import_timeout": "2s"}))?;
    let zygote = "import os\nZYGOTE = os.getuid() == 0\n";
    for (name, reason, source) in [
        ("raiser", "raises", "if ZYGOTE: raise ValueError('not here')"),
        ("exiter", "raises", "if ZYGOTE: raise SystemExit(0)"),
        ("crasher", "crashes", "if ZYGOTE: os.abort()"),
        ("hanger", "hangs", "import time\nif ZYGOTE: time.sleep(600)"),
        (
            "threader",
            "threads",
            "import threading, time\nif ZYGOTE: threading.Thread(target=time.sleep, args=[600], daemon=True).start()",
        ),
        ("opener", "files", "FILE = open('/dev/zero') if ZYGOTE else None"),
        (
            "eater",
            "memory",
            "BYTES = bytearray(2 << 30) if ZYGOTE else b''\nfor i in range(0, len(BYTES), 4096): BYTES[i] = 1",
        ),
        // These work in the Zygote, and break in its children.
        (
            "sticky",
            "breaks_in_fork",
            "PID = os.getpid()\ndef check():\n    if os.getpid() != PID: raise RuntimeError('forked')\n",
        ),
        ("forkbomb", "breaks_in_fork", "os.register_at_fork(after_in_child=os.abort)"),
    ] {
        package(&index, name, &format!("{zygote}{source}\n"))?;
        let answer = if name == "sticky" { "sticky.check() or 7" } else { "7" };
        handler(&cluster, name, &format!("{name}\n"), name, answer)?;
        if name == "sticky" {
            cluster.handler(name, "import sticky\nsticky.check()\ndef handler(event):\n    return 7\n")?;
        }
        ensure!(call(&cluster, name)?.json()? == json!(7), "{name}");
        let package = format!("{name}-1.0");
        if reason == "breaks_in_fork" {
            await_node(&cluster, &[&package])?;
            ensure!(call(&cluster, name)?.json()? == json!(7), "{name}");
        }
        let excluded = await_excluded(&cluster, &package)?;
        ensure!(excluded["reason"] == json!(reason), "{name}: {excluded}");
        let again = call(&cluster, name)?;
        ensure!(again.json()? == json!(7) && kind(&again) == "cold", "{name}: {}", kind(&again));
        let metric = format!("zygote_failures_total{{reason=\"{reason}\"}}");
        ensure!(cluster.metrics()?.contains(&metric), "no {metric}");
    }
    until("the end of all but the root", || Ok((nodes(&cluster)?.len() == 1).then_some(())))?;
    // What they stood beside is not lost.
    package(&index, "fine", "VALUE = 1\n")?;
    handler(&cluster, "both", "fine\nraiser\n", "fine, raiser", "fine.VALUE")?;
    call(&cluster, "both")?;
    await_node(&cluster, &["fine-1.0"])?;
    ensure!(call(&cluster, "both")?.json()? == json!(1));
    cluster.stop()
}

#[test]
fn the_tree_shares_what_handlers_have_in_common_and_keeps_to_its_memory() -> Result<()> {
    let (cluster, index) = cluster(json!({"import_cache_size": "64Mi"}))?;
    for number in 0..8 {
        slow(&index, &format!("p{number}"), &[], "DATA = bytearray(b'x') * (10 << 20)")?;
        handler(
            &cluster,
            &format!("h{number}"),
            &format!("p{number}\n"),
            &format!("p{number}"),
            &format!("p{number}.VALUE"),
        )?;
    }
    for _ in 0..2 {
        for number in 0..8 {
            let got = call(&cluster, &format!("h{number}"))?.json()?;
            ensure!(got == json!(format!("p{number}")), "{got}");
        }
    }
    until("some Zygotes", || Ok((nodes(&cluster)?.len() > 3).then_some(())))?;
    let cache = cache(&cluster)?;
    let (used, budget) = (cache["memory_bytes"].as_u64(), cache["budget_bytes"].as_u64());
    ensure!(used.is_some() && used <= budget && budget == Some(64 << 20), "{used:?} of {budget:?}");
    cluster.stop()
}

#[test]
fn a_killed_zygote_costs_no_call_and_comes_back() -> Result<()> {
    let (cluster, index) = cluster(json!({}))?;
    slow(&index, "heavy", &[], "")?;
    handler(&cluster, "h", "heavy\n", "heavy", "heavy.VALUE")?;
    call(&cluster, "h")?;
    await_node(&cluster, &["heavy-1.0"])?;
    for _ in 0..3 {
        for group in cluster
            .cgroups(0)?
            .into_iter()
            .filter(|group| group.ends_with("memory") || group.join("cgroup.procs").exists())
        {
            for zygote in std::fs::read_dir(&group)?.flatten() {
                let name = zygote.file_name().to_string_lossy().into_owned();
                if name.starts_with("z-") && name.ends_with('b') {
                    let pids =
                        std::fs::read_to_string(zygote.path().join("cgroup.procs")).unwrap_or_default();
                    // The oldest: a sandbox is born here, and about to leave.
                    if let Some(pid) = pids.lines().filter_map(|pid| pid.parse().ok()).min() {
                        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
                    }
                }
            }
        }
        ensure!(call(&cluster, "h")?.json()? == json!("heavy"));
        until("the next Zygote", || {
            let response = call(&cluster, "h")?;
            Ok(is_hit(&response).then_some(()))
        })
        .with_context(|| format!("{:?}\n{}", cache(&cluster), cluster.log(0).unwrap_or_default()))?;
    }
    let drawn = cluster.admin("zygotes", &[])?;
    ensure!(drawn.contains("heavy-1.0") && drawn.contains("of 512Mi in Zygotes"), "{drawn}");
    cluster.stop()
}

#[test]
fn a_given_tree_is_made_as_it_stands() -> Result<()> {
    let index = LoopbackIndex::start()?;
    slow(&index, "base", &[], "")?;
    slow(&index, "above", &["base"], "import base")?;
    slow(&index, "beside", &[], "")?;
    let tree = json!({"packages": [], "children": [
        {"packages": ["base"], "children": [{"packages": ["above==1.0"], "children": []}]}, {"packages": ["missing"]}
    ]});
    let conf = json!({"pip_mirror": index.url(), "handler_cache_size": 0, "import_cache_size": "128Mi", "import_cache_tree": tree});
    let cluster = Cluster::with_worker(&conf)?;
    // A tree with a package that does not exist is told, and none of it is made.
    until("the complaint", || Ok(cluster.log(0)?.contains("import_cache_tree").then_some(())))?;
    cluster.admin("kill", &[])?;
    let tree = json!({"packages": [], "children": [{"packages": ["base"], "children": [{"packages": ["above==1.0"]}]}]});
    cluster.admin("setconf", &[&json!({"import_cache_tree": tree}).to_string()])?;
    cluster.start_workers(1)?;
    await_node(&cluster, &["base-1.0"])?;
    await_node(&cluster, &["above-1.0"])?;
    handler(&cluster, "h", "above\n", "above", "above.VALUE")?;
    let first = call(&cluster, "h")?;
    ensure!(phase(&first, "load")? < SLOW.as_secs_f64() * 250.0, "{}", phase(&first, "load")?);
    // Demand makes no other.
    handler(&cluster, "b", "beside\n", "beside", "beside.VALUE")?;
    for _ in 0..3 {
        ensure!(kind(&call(&cluster, "b")?) == "cold");
    }
    ensure!(nodes(&cluster)?.len() == 3, "{:?}", nodes(&cluster)?);
    cluster.stop()
}

#[test]
fn spares_serve_calls_in_a_row_of_many_handlers() -> Result<()> {
    let (cluster, index) = cluster(json!({}))?;
    package(&index, "light", "VALUE = 'light'\n")?;
    let mut kinds = BTreeSet::new();
    for number in 0..20 {
        let name = format!("bare{number}");
        cluster.handler(
            &name,
            &format!("import os\ndef handler(event):\n    return [{number}, os.getuid() >= 1000]\n"),
        )?;
        let response = call(&cluster, &name)?;
        ensure!(response.json()? == json!([number, true]));
        kinds.insert(kind(&response).to_owned());
        let name = format!("light{number}");
        handler(&cluster, &name, "light\n", "light", &format!("[{number}, light.VALUE]"))?;
        ensure!(call(&cluster, &name)?.json()? == json!([number, "light"]));
    }
    ensure!(kinds.contains("spare"), "{kinds:?}");
    cluster.stop()
}

/// The first child of a Zygote is loaded before it is called. One that hangs then must not take the answer to that for the call's.
#[test]
fn a_handler_that_loads_for_too_long_times_out() -> Result<()> {
    let (cluster, index) = cluster(json!({"limits": {"timeout": "1s", "memory": "256Mi"}}))?;
    slow(&index, "light", &[], "")?;
    handler(&cluster, "first", "light\n", "light", "light.VALUE")?;
    until("a Zygote", || Ok(is_hit(&call(&cluster, "first")?).then_some(())))?;
    cluster.file("hangs", "requirements.txt", "light\n")?;
    // It sleeps for longer than a call may take.
    cluster.handler("hangs", "import light, time\ntime.sleep(3)\ndef handler(event):\n    return 1\n")?;
    let response = until("the packages", || {
        let response = cluster.call("hangs", &Value::Null)?;
        Ok((!response.text().contains("being installed")).then_some(response))
    })?;
    let error: Value = serde_json::from_str(&response.text())?;
    ensure!(response.status == 504 && error["reason"] == "function_timeout", "{} {error}", response.status);
    cluster.call("first", &Value::Null)?.ok()?;
    cluster.stop()
}

#[test]
fn without_a_budget_there_is_no_zygote_but_the_root() -> Result<()> {
    let (cluster, index) = cluster(json!({"import_cache_size": 0}))?;
    package(&index, "light", "VALUE = 'light'\n")?;
    handler(&cluster, "h", "light\n", "light", "light.VALUE")?;
    for _ in 0..4 {
        let response = call(&cluster, "h")?;
        ensure!(response.json()? == json!("light") && kind(&response) == "cold");
    }
    ensure!(nodes(&cluster)?.len() == 1);
    cluster.stop()
}

#[test]
fn real_packages_start_from_a_zygote() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"handler_cache_size": 0, "limits": {"memory": "512Mi"}}))?;
    cluster.file("h", "requirements.txt", "pandas<3\nrequests\njinja2\n")?;
    let source = "import numpy, pandas, requests, jinja2\ndef handler(event):\n    \
                  frame = pandas.DataFrame({'a': [1, 2]})\n    \
                  return [int(frame['a'].sum()), jinja2.Template('{{ 1 + 1 }}').render(), float(numpy.random.random())]\n";
    cluster.handler("h", source)?;
    let first = call(&cluster, "h")?;
    until("a hit", || Ok(is_hit(&call(&cluster, "h")?).then_some(())))?;
    let (one, two) = (call(&cluster, "h")?, call(&cluster, "h")?);
    ensure!(one.json()?[0] == json!(3) && one.json()?[1] == json!("2"));
    ensure!(one.json()?[2] != two.json()?[2], "two sandboxes draw the same numbers");
    let (cold, hit) = (phase(&first, "load")?, phase(&two, "load")?);
    ensure!(hit < cold / 10.0, "{hit} ms after {cold} ms");
    cluster.stop()
}
