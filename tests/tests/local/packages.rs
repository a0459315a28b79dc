//! Packages, from the index that this machine's pip uses: what a handler asks for is there at its next call, each version beside the
//! others, and each way in which that can fail has its reason.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use openlambda_tests::loopback_index::{hex, wheel};
use openlambda_tests::{Cluster, LoopbackIndex, Request, until};
use serde_json::{Value, json};

/// A pure package without dependencies, small, in two versions.
const IDNA: &str = "import idna\ndef handler(event):\n    return idna.__version__\n";
const NUMPY: &str =
    "import numpy\ndef handler(event):\n    return [numpy.__version__, int(numpy.arange(5).sum())]\n";

/// Calls until packages are there: a slow index may make one call wait in vain.
fn call(cluster: &Cluster, handler: &str) -> Result<Value> {
    until(&format!("the packages of {handler}"), || {
        let response = cluster.call(handler, &Value::Null)?;
        if response.status == 503 && response.text().contains("being installed") {
            return Ok(None);
        }
        response.ok().map(Some)
    })
}

fn function(cluster: &Cluster, name: &str) -> Result<Value> {
    let state = cluster.state(0)?;
    let all = state["handlers"].as_array().context("no handlers")?;
    all.iter().find(|one| one["name"] == name).cloned().with_context(|| format!("no {name} in {state}"))
}

fn installed(cluster: &Cluster) -> Result<Vec<String>> {
    let folder = cluster.path().join("packages/installed");
    let mut names: Vec<_> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

#[test]
fn an_edit_of_requirements_txt_is_there_at_the_next_call() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.file("h", "requirements.txt", "# what is needed\nIDNA == 3.10\n")?;
    cluster.handler("h", IDNA)?;
    ensure!(call(&cluster, "h")? == json!("3.10"));
    ensure!(function(&cluster, "h")?["packages"] == json!(["idna==3.10"]));
    cluster.file("h", "requirements.txt", "idna==3.9\n")?;
    until("the other version", || {
        Ok((cluster.call("h", &Value::Null)?.ok().ok() == Some(json!("3.9"))).then_some(()))
    })?;
    ensure!(installed(&cluster)? == ["idna-3.10", "idna-3.9"]);
    let work = cluster.path().join("packages/work");
    let jobs = fs::read_dir(&work)?.flatten().filter(|entry| entry.path().is_dir());
    let left: Vec<_> =
        jobs.flat_map(|job| fs::read_dir(job.path()).into_iter().flatten().flatten()).collect();
    ensure!(left.iter().all(|entry| entry.file_name() == "lock"), "jobs are left: {left:?}");
    // Without requirements there is nothing to import, though it lies on the disk.
    cluster.handler("bare", IDNA)?;
    let message = cluster.call("bare", &Value::Null)?.error(500, "import_failed")?;
    ensure!(message.contains("idna"), "{message}");
    cluster.stop()
}

#[test]
fn two_versions_serve_side_by_side() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"limits": {"memory": "256Mi"}}))?;
    for (name, version) in [("old", "1.26.4"), ("new", "2.2.1")] {
        cluster.file(name, "requirements.txt", &format!("numpy=={version}\n"))?;
        cluster.handler(name, NUMPY)?;
    }
    for _ in 0..2 {
        ensure!(call(&cluster, "old")? == json!(["1.26.4", 10]));
        ensure!(call(&cluster, "new")? == json!(["2.2.1", 10]));
    }
    cluster.stop()
}

#[test]
fn pandas_and_requests_bring_what_they_need() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"limits": {"memory": "512Mi"}}))?;
    cluster.file("h", "requirements.txt", "pandas<3\n")?;
    cluster.file("h", "packages.txt", "requests\nyaml:PyYAML\n")?;
    let source = "import pandas, requests, yaml\ndef handler(event):\n    \
                  return [int(pandas.DataFrame({'a': [1, 2]})['a'].sum()), yaml.safe_load('[1]'), requests.__name__]\n";
    cluster.handler("h", source)?;
    ensure!(call(&cluster, "h")? == json!([3, [1], "requests"]));
    let packages = function(&cluster, "h")?["packages"].to_string();
    for name in ["numpy==", "pandas==2", "python-dateutil==", "urllib3==", "pyyaml=="] {
        ensure!(packages.contains(name), "no {name} in {packages}");
    }
    cluster.stop()
}

#[test]
fn each_failure_has_its_reason_and_an_edit_ends_it() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    let zeros = "0".repeat(64);
    let wrong_hash = format!("idna==3.10 --hash=sha256:{zeros}\n");
    for (text, reason, part) in [
        ("idna==999.1\n", "Unsatisfiable", "idna==999.1"),
        ("idna==3.10\nidna==3.9\n", "Unsatisfiable", "idna"),
        // The first releases of pycrypto are sources only.
        ("pycrypto==2.6.1\n", "NoWheel", "pycrypto"),
        (&wrong_hash, "HashMismatch", "idna==3.10"),
        ("idna==3.10\n-r more.txt\n", "InvalidRequirements", "line 2"),
        ("idna==\n", "InvalidRequirements", "idna=="),
        ("./code\n", "InvalidRequirements", "into the bundle"),
    ] {
        cluster.file("h", "requirements.txt", text)?;
        cluster.handler("h", IDNA)?;
        let began = Instant::now();
        let message = until(&format!("{reason} for {text}"), || {
            let response = cluster.call("h", &Value::Null)?;
            Ok((response.status != 200 && response.text().contains(reason)).then_some(response))
        })?
        .error(500, "install_failed")?;
        ensure!(message.contains(reason) && message.contains(part), "{text}: {message}");
        ensure!(began.elapsed() < Duration::from_secs(15), "{text}: it took {:?}", began.elapsed());
        let trouble = function(&cluster, "h")?["trouble"].to_string();
        ensure!(trouble.contains(reason), "{trouble}");
    }
    cluster.file("h", "requirements.txt", "idna==3.10\n")?;
    until("the right version", || {
        Ok((cluster.call("h", &Value::Null)?.ok().ok() == Some(json!("3.10"))).then_some(()))
    })?;
    ensure!(function(&cluster, "h")?["trouble"].is_null());
    cluster.stop()
}

#[test]
fn an_index_that_is_down_is_told_and_what_is_here_serves_without_it() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.file("known", "requirements.txt", "idna<3.11,>=3.10\n")?;
    cluster.handler("known", IDNA)?;
    ensure!(call(&cluster, "known")? == json!("3.10"));
    cluster.admin("kill", &[])?;
    cluster.admin("setconf", &[&json!({"pip_mirror": "http://127.0.0.1:9/simple"}).to_string()])?;
    cluster.start_workers(1)?;
    ensure!(call(&cluster, "known")? == json!("3.10"));
    cluster.file("unknown", "requirements.txt", "idna==3.9\n")?;
    cluster.handler("unknown", IDNA)?;
    let began = Instant::now();
    let down = cluster.call("unknown", &Value::Null)?;
    let message = down.error(500, "install_failed")?;
    ensure!(message.contains("IndexUnreachable"), "{message}");
    ensure!(down.header("retry-after").is_some() && began.elapsed() < Duration::from_secs(15));
    cluster.stop()
}

#[test]
fn an_index_that_lies_and_wheels_that_do_not_fit_are_refused() -> Result<()> {
    let index = LoopbackIndex::start()?;
    let cluster = Cluster::with_worker(&json!({"pip_mirror": index.url()}))?;
    let zeros = "0".repeat(64);
    let tampered = wheel("tampered", "1.0", &[], &[("tampered.py", "")])?;
    index.add("tampered", "tampered-1.0-py3-none-any.whl", &zeros, tampered)?;
    index.add("old", "old-1.0-cp27-none-any.whl", &zeros, wheel("old", "1.0", &[], &[("old.py", "")])?)?;
    index.wheel("needs", "1.0", &["nowhere>=1"], &[("needs.py", "")])?;
    index.add("torn", "torn-1.0-py3-none-any.whl", &hex(b"PK"), b"PK".to_vec())?;
    for (name, reasons) in [
        ("tampered", ["HashMismatch"].as_slice()),
        ("old", &["NoWheel"]),
        ("needs", &["Unsatisfiable"]),
        ("missing", &["Unsatisfiable"]),
        // uv counts it as a version that cannot be used, and says why.
        ("torn", &["Failed to read from zip file"]),
    ] {
        cluster.file(name, "requirements.txt", &format!("{name}\n"))?;
        cluster.handler(name, "def handler(event):\n    return 1\n")?;
        let message = cluster.call(name, &Value::Null)?.error(500, "install_failed")?;
        ensure!(reasons.iter().any(|reason| message.contains(reason)), "{name}: {message}");
    }
    ensure!(installed(&cluster)?.is_empty());
    // A file that would land outside the package's folder lands nowhere.
    index.wheel("climbs", "1.0", &[], &[("../../climbed.py", "x = 1\n"), ("climbs.py", "x = 1\n")])?;
    cluster.file("climbs", "requirements.txt", "climbs\n")?;
    cluster.handler("climbs", "import climbs\ndef handler(event):\n    return climbs.x\n")?;
    ensure!(call(&cluster, "climbs")? == json!(1));
    for place in ["packages/installed/climbed.py", "packages/climbed.py", "climbed.py"] {
        ensure!(!cluster.path().join(place).exists(), "{place}");
    }
    cluster.stop()
}

#[test]
fn modules_metadata_and_data_of_packages_are_found() -> Result<()> {
    let index = LoopbackIndex::start()?;
    let cluster = Cluster::with_worker(&json!({"pip_mirror": index.url()}))?;
    // A namespace in two packages, a name that is not the module's, data beside the code.
    index.wheel(
        "space_a",
        "1.0",
        &["space-b"],
        &[("space/a/__init__.py", "from space.b import B\nA = B + 1\n")],
    )?;
    let files = [("space/b/__init__.py", "B = 1\n"), ("space/b/data.txt", "told")];
    index.wheel("space_b", "2.0", &[], &files)?;
    cluster.file("h", "packages.txt", "space.a:Space.A\n")?;
    let source = "import importlib.metadata, importlib.resources, space.a, sys\ndef handler(event):\n    \
                  return [space.a.A, importlib.metadata.version('space-b'), \
                  importlib.resources.files('space.b').joinpath('data.txt').read_text(), \
                  [p for p in sys.path if p.startswith('/packages')], space.a.__file__, space.a.__cached__]\n";
    cluster.handler("h", source)?;
    let answer = call(&cluster, "h")?;
    let folders = json!(["/packages/space-a-1.0", "/packages/space-b-2.0"]);
    ensure!(answer[0] == 2 && answer[1] == "2.0" && answer[2] == "told" && answer[3] == folders, "{answer}");
    // Compiled when it was installed.
    let cached =
        answer[5].as_str().and_then(|path| path.strip_prefix("/packages")).context("no byte code")?;
    let cached = format!("{}{cached}", cluster.path().join("packages/installed").display());
    ensure!(Path::new(&cached).is_file(), "{cached}");
    cluster.stop()
}

#[test]
fn handlers_with_the_same_requirements_are_resolved_together() -> Result<()> {
    let index = LoopbackIndex::start()?;
    let cluster = Cluster::with_worker(&json!({"pip_mirror": index.url()}))?;
    index.wheel("one", "1.0", &[], &[("one.py", "V = 1\n")])?;
    let names: Vec<String> = (0..8).map(|number| format!("h{number}")).collect();
    for name in &names {
        cluster.file(name, "requirements.txt", "one\n")?;
        cluster.handler(name, "import one\ndef handler(event):\n    return one.V\n")?;
    }
    std::thread::scope(|scope| {
        let cluster = &cluster;
        let calls: Vec<_> = names.iter().map(|name| scope.spawn(move || call(cluster, name))).collect();
        calls.into_iter().try_for_each(|call| {
            let answer = call.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??;
            ensure!(answer == json!(1), "{answer}");
            Ok(())
        })
    })?;
    // Once for the versions, and perhaps once for the wheel.
    let asked = index.asked("/simple/one/")?;
    ensure!((1..=2).contains(&asked), "the index was asked {asked} times");
    cluster.stop()
}

#[test]
fn what_nobody_uses_leaves_the_disk_when_it_is_full() -> Result<()> {
    let index = LoopbackIndex::start()?;
    let conf = json!({"pip_mirror": index.url(), "packages_size": "400Ki", "handler_cache_size": 0});
    let cluster = Cluster::with_worker(&conf)?;
    let filler = format!("X = '{}'\n", "x".repeat(60_000));
    for name in ["a", "b", "c", "d", "e", "f"] {
        index.wheel(name, "1.0", &[], &[(&format!("{name}.py"), &filler)])?;
        cluster.file(name, "requirements.txt", name)?;
        cluster.handler(name, &format!("import {name}\ndef handler(event):\n    return 1\n"))?;
        ensure!(call(&cluster, name)? == json!(1));
        // The handler goes, and with it the last who uses its package.
        fs::remove_dir_all(cluster.path().join("registry").join(name))?;
        cluster.call(name, &Value::Null)?.error(404, "handler_not_found")?;
        until("the end of its sandboxes", || Ok(cluster.instances(name)?.is_empty().then_some(())))?;
    }
    let left = installed(&cluster)?;
    let is_left = |name: &str| left.iter().any(|one| one == name);
    ensure!(left.len() < 6 && is_left("f-1.0") && !is_left("a-1.0"), "{left:?}");
    cluster.stop()
}

#[test]
fn a_lock_is_installed_as_it_is() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    // requests without anything that it needs.
    let hash = "70761cfe03c773ceb22aa2f671b4757976145175cdfca038c02654d061d6dcc6";
    cluster.file("h", "requirements.txt", &format!("requests==2.32.3 \\\n    --hash=sha256:{hash}\n"))?;
    cluster.handler("h", "import requests\ndef handler(event):\n    return 1\n")?;
    let response = until("the lock", || {
        let response = cluster.call("h", &Value::Null)?;
        Ok((response.status != 503).then_some(response))
    })?;
    let message = response.error(500, "import_failed")?;
    ensure!(message.contains("urllib3"), "{message}");
    ensure!(installed(&cluster)? == ["requests-2.32.3"]);
    cluster.stop()
}

#[test]
fn a_full_disk_and_a_missing_uv_say_so() -> Result<()> {
    for (conf, parts) in [
        (json!({"packages_size": "16Ki"}), ["DiskFull", "packages_size"]),
        (json!({"uv": "/nowhere/uv"}), ["InstallFailed", "/nowhere/uv"]),
    ] {
        let cluster = Cluster::with_worker(&conf)?;
        cluster.file("h", "requirements.txt", "idna==3.10\n")?;
        cluster.handler("h", IDNA)?;
        let message = cluster.call("h", &Value::Null)?.error(500, "install_failed")?;
        ensure!(parts.iter().all(|part| message.contains(part)), "{message}");
        cluster.stop()?;
    }
    Ok(())
}

#[test]
fn what_many_want_at_once_is_installed_once() -> Result<()> {
    let cluster = Cluster::new(&json!({}))?;
    cluster.start_workers(2)?;
    let names: Vec<_> = (0..6).map(|number| format!("h{number}")).collect();
    for name in &names {
        cluster.file(name, "requirements.txt", "idna==3.10\n")?;
        cluster.handler(name, IDNA)?;
    }
    std::thread::scope(|scope| {
        let calls: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(number, name)| {
                let port = cluster.worker_port(u16::from(number % 2 == 1));
                scope.spawn(move || Request::call(name, &Value::Null).send(port))
            })
            .collect();
        for call in calls {
            let response = call.join().map_err(|_| anyhow!("a call panicked"))??;
            ensure!(response.ok()? == json!("3.10"));
        }
        Ok(())
    })?;
    let logs = [cluster.log(0)?, cluster.log(1)?].concat();
    let count = logs.matches("installed idna==3.10").count();
    ensure!(count == 1, "installed {count} times:\n{logs}");
    cluster.stop()
}
