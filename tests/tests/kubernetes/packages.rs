//! Handlers with packages, from an index inside the cluster: installed on every node, recorded, imported in Zygotes ahead of the first call.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use openlambda_tests::kubernetes::{Release, handler, image_tag, repository};
use openlambda_tests::loopback_index::{hex, wheel};
use openlambda_tests::until;
use serde_json::{Value, json};

/// How long a package takes to import that is slow.
const SLOW: Duration = Duration::from_secs(2);

/// Starts the index with these packages, each of one module.
fn serve(release: &Release, packages: &[(&str, String)]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut arguments = vec!["create".to_owned(), "configmap".into(), "wheels".into()];
    for (name, source) in packages {
        let file = format!("{name}-1.0-py3-none-any.whl");
        let bytes = wheel(name, "1.0", &[], &[(&format!("{name}.py"), source)])?;
        let link = format!("<a href=\"/files/{file}#sha256={}\">{file}</a>\n", hex(&bytes));
        for (key, contents) in
            [(format!("files--{file}"), bytes), (format!("simple--{name}"), link.into_bytes())]
        {
            let path = folder.path().join(&key);
            fs::write(&path, contents)?;
            arguments.push(format!("--from-file={key}={}", path.display()));
        }
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    release.namespace.kubectl(&arguments)?;
    let manifest = fs::read_to_string(repository().join("tests/tests/kubernetes/index.yaml"))?;
    release.namespace.apply(&manifest.replace("TAG", &image_tag()))?;
    release.namespace.wait_ready("pod/index")
}

fn with_packages(name: &str, packages: &[&str], code: &str) -> Value {
    let mut object = handler(name, code);
    object["spec"]["requirements"] = json!(packages);
    object
}

/// The import caches of all agents.
fn caches(release: &Release) -> Result<Vec<Value>> {
    release
        .agents()?
        .iter()
        .map(|pod| Ok(release.namespace.admin(pod, "/debug/state")?["import_cache"].clone()))
        .collect()
}

/// Waits until each agent has a Zygote with just these packages.
fn await_zygotes(release: &Release, packages: &[&str]) -> Result<()> {
    until("a Zygote on every node", || {
        let caches = caches(release)?;
        let holds = |cache: &Value| {
            let nodes = cache["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
            nodes.iter().any(|node| node["packages"] == json!(packages) && node["state"] == "ready")
        };
        Ok((caches.len() == 2 && caches.iter().all(holds)).then_some(()))
    })
    .with_context(|| format!("{:?}", caches(release)))
}

#[test]
fn a_given_tree_is_there_before_any_handler_and_waits_for_the_index() -> Result<()> {
    let release = Release::without_cluster("tree")?;
    let tree = r#"{"packages": [], "children": [{"packages": ["base"], "children": [{"packages": ["above==1.0"]}]}]}"#;
    let tree = format!("--from-literal=tree.json={tree}");
    release.namespace.kubectl(&["create", "configmap", "zygotes", &tree])?;
    let spec = json!({
        "packages": {"indexURL": "http://index/simple"},
        "agent": {"importCache": {"mode": "Tree", "tree": {"configMap": {"name": "zygotes"}}}},
    });
    release.upgrade(&spec, &[])?;
    release.namespace.wait_ready("lambdacluster/demo")?;
    serve(&release, &[("base", "VALUE = 1\n".to_owned()), ("above", "import sys\nVALUE = 2\n".to_owned())])?;
    await_zygotes(&release, &["base-1.0"])?;
    await_zygotes(&release, &["above-1.0"])
}

#[test]
fn a_handler_with_packages_starts_from_a_zygote_at_its_first_call() -> Result<()> {
    let spec = json!({"packages": {"indexURL": "http://index/simple"}});
    let release = Release::install_with("packages", &spec)?;
    let slow = format!("import time\ntime.sleep({})\nVALUE = 'slow'\n", SLOW.as_secs());
    let breaks = "import os\nif os.getuid() == 0: os.abort()\n".to_owned();
    serve(&release, &[("slow", slow), ("breaks", breaks)])?;

    let code = "import slow\ndef handler(event):\n    return slow.VALUE\n";
    release.namespace.apply(&with_packages("h", &["slow"], code).to_string())?;
    release.namespace.wait_ready("handler/h")?;
    let status = release.namespace.get("handler/h")?["status"].clone();
    ensure!(status["packages"]["locked"] == json!(["slow==1.0"]), "{status}");
    await_zygotes(&release, &["slow-1.0"])?;
    let began = Instant::now();
    ensure!(release.call("h", &json!(null))?.ok()? == json!("slow"));
    // Without a Zygote it would have taken all of that, and more.
    ensure!(began.elapsed() < SLOW, "the first call took {:?}", began.elapsed());

    // One that no Zygote can hold serves all the same, and its Handler is told why it starts slowly.
    let code = "import breaks\ndef handler(event):\n    return 7\n";
    release.namespace.apply(&with_packages("b", &["breaks"], code).to_string())?;
    release.namespace.wait_ready("handler/b")?;
    ensure!(release.call("b", &json!(null))?.ok()? == json!(7));
    until("the event", || {
        let events =
            release.namespace.kubectl(&["get", "events", "--field-selector=reason=PackageNotCached"])?;
        Ok(events.contains("breaks==1.0").then_some(()))
    })?;

    // What is not to be had is told, and the old revision serves on.
    let code = "import slow, none\ndef handler(event):\n    return 'new'\n";
    release.namespace.apply(&with_packages("h", &["slow", "none"], code).to_string())?;
    until("the reason", || {
        let installed = release.namespace.condition("handler/h", "PackagesInstalled")?;
        Ok((installed["status"] == "False" && installed["reason"] == "Unsatisfiable").then_some(()))
    })?;
    ensure!(release.call("h", &json!(null))?.ok()? == json!("slow"));
    Ok(())
}
