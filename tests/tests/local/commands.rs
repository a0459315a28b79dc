//! The original's commands, as its README has them.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use openlambda_tests::cluster::binary;
use openlambda_tests::{Cluster, Request, until};
use serde_json::{Value, json};

fn run(program: &str, arguments: &[&str], dir: &Path) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(dir).output().context("run")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

/// Word for word, with the default port.
#[test]
fn the_quickstart() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let here = dir.path();
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../quickstart");
    run("cp", &["-r", &quickstart.to_string_lossy(), "quickstart"], here)?;
    let admin = binary("admin")?;
    let admin = admin.to_string_lossy();
    run(&admin, &["new", "-cluster", "my-cluster"], here)?;
    let result = (|| {
        run(&admin, &["workers", "-cluster=my-cluster"], here)?;
        run("cp", &["-r", "quickstart/handlers/hello", "my-cluster/registry/hello"], here)?;
        let curl = ["-sS", "-X", "POST", "localhost:8080/runLambda/hello", "-d", "{\"name\": \"Alice\"}"];
        let answer = run("curl", &curl, here)?;
        ensure!(answer.trim() == "\"Hello, Alice!\"", "{answer}");
        let status = run(&admin, &["status", "--cluster=my-cluster"], here)?;
        ensure!(status.contains("ready") && status.contains("200"), "{status}");
        for part in ["config", "logs", "base", "packages", "registry", "workers"] {
            ensure!(here.join("my-cluster").join(part).is_dir(), "no {part}");
        }
        for file in ["config/template.json", "config/worker-0.json", "logs/worker-0.out", "logs/worker-0.pid"]
        {
            ensure!(here.join("my-cluster").join(file).is_file(), "no {file}");
        }
        Ok(())
    })();
    run(&admin, &["kill", "--cluster", "my-cluster"], here)?;
    result
}

#[test]
fn new_code_serves_at_the_next_call_or_the_one_after() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    for version in 0..20 {
        cluster.handler("edited", &format!("def handler(event):\n    return {version}\n"))?;
        let first = cluster.call("edited", &Value::Null)?.ok()?;
        let second = cluster.call("edited", &Value::Null)?.ok()?;
        ensure!(
            first == json!(version) || second == json!(version),
            "version {version}: {first}, then {second}"
        );
    }
    // In place, within the same second and of the same length.
    let file = cluster.path().join("registry/edited/lambda_func.py");
    for letter in ["a", "b", "c"] {
        fs::write(&file, format!("def handler(event):\n    return '{letter}'\n"))?;
        until("the edit", || {
            Ok((cluster.call("edited", &Value::Null)?.ok()? == json!(letter)).then_some(()))
        })?;
    }
    fs::remove_dir_all(cluster.path().join("registry/edited"))?;
    until("the end of the handler", || {
        Ok((cluster.call("edited", &Value::Null)?.status == 404).then_some(()))
    })?;
    cluster.stop()
}

#[test]
fn workers_start_again_on_the_same_directory() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("echo", "def handler(event):\n    return event\n")?;
    for round in 0..3 {
        ensure!(cluster.call("echo", &json!(round))?.ok()? == json!(round));
        cluster.admin("kill", &[])?;
        cluster.start_workers(1)?;
    }
    // A second start while it runs is refused, and the first serves on.
    let port = cluster.worker_port(0).to_string();
    let again = cluster.try_admin("workers", &["--port", &port])?;
    ensure!(!again.status.success());
    ensure!(cluster.call("echo", &json!(1))?.ok()? == json!(1));
    cluster.stop()
}

#[test]
fn a_port_in_use_is_named() -> Result<()> {
    let cluster = Cluster::new(&json!({}))?;
    let taken = TcpListener::bind(("0.0.0.0", cluster.worker_port(0)))?;
    let port = cluster.worker_port(0).to_string();
    let output = cluster.try_admin("workers", &["--port", &port])?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && text.contains(&port), "{text}");
    // The worker itself says so as well.
    let config = cluster.path().join("config/worker-0.json");
    if config.exists() {
        let output =
            Command::new(binary("admin")?).arg("worker-exec").arg("--config").arg(&config).output()?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && text.contains(&port), "{text}");
    }
    drop(taken);
    cluster.stop()
}

#[test]
fn configuration_mistakes_are_named_with_the_remedy() -> Result<()> {
    let cluster = Cluster::new(&json!({}))?;
    let refused = |conf: Value, words: &[&str]| -> Result<()> {
        let output = cluster.try_admin("setconf", &[&conf.to_string()])?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{conf} was taken");
        for word in words {
            ensure!(text.contains(word), "{conf}: no {word:?} in {text}");
        }
        Ok(())
    };
    refused(json!({"handler_cach_size": 1}), &["handler_cach_size", "handler_cache_size"])?;
    refused(json!({"sandbox": "docker"}), &["docker", "sock"])?;
    refused(json!({"limits": {"memroy": "1Mi"}}), &["memroy", "memory"])?;
    refused(json!({"limits": {"memory": "lots"}}), &["lots"])?;
    // The same from the worker, where somebody edited the file by hand.
    let config = cluster.path().join("config/broken.json");
    let mut broken: Value =
        serde_json::from_str(&fs::read_to_string(cluster.path().join("config/template.json"))?)?;
    broken["wroker_port"] = json!(1);
    broken["worker_dir"] = json!("../workers/broken");
    fs::write(&config, broken.to_string())?;
    let output = Command::new(binary("admin")?).arg("worker-exec").arg("-config").arg(&config).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && text.contains("wroker_port") && text.contains("worker_port"),
        "{text}"
    );
    // Sizes in both spellings.
    cluster.admin("setconf", &[&json!({"handler_cache_size": "512Mi"}).to_string()])?;
    cluster.admin("setconf", &[&json!({"handler_cache_size": 524_288}).to_string()])?;
    cluster.stop()
}

#[test]
fn without_root_it_says_what_is_missing() -> Result<()> {
    let cluster = Cluster::new(&json!({}))?;
    cluster.start_workers(1)?;
    cluster.admin("kill", &[])?;
    // Somebody else, with the same files.
    let open = Command::new("chmod").args(["-R", "a+rwX"]).arg(cluster.path()).status()?;
    ensure!(open.success());
    let parent = cluster.path();
    let parent = parent.parent().context("no parent")?;
    ensure!(Command::new("chmod").arg("a+rx").arg(parent).status()?.success());
    let bin = tempfile::tempdir()?;
    ensure!(Command::new("chmod").arg("a+rx").arg(bin.path()).status()?.success());
    let agent = bin.path().join("openlambda-node-agent");
    fs::copy(binary("openlambda-node-agent")?, &agent)?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&agent);
    let output =
        command.args(["run", "--config"]).arg(cluster.path().join("config/worker-0.json")).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && text.contains("root"), "{text}");
    cluster.stop()
}

#[test]
fn an_unpacked_root_as_base() -> Result<()> {
    let root = tempfile::tempdir()?;
    let script = r#"
set -e
cd "$1"
mkdir -p usr/bin usr/lib etc
ln -s usr/bin bin; ln -s usr/lib lib; ln -s usr/lib64 lib64; mkdir -p usr/lib64
python=$(readlink -f /usr/bin/python3)
cp "$python" usr/bin/python3
version=$(basename "$python")
cp -a /usr/lib/$version usr/lib/
for file in "$python" "$2"/*.so $(find /usr/lib/$version/lib-dynload -name '*.so'); do ldd "$file" 2>/dev/null; done |
  grep -o '/[^ ]*' | sort -u | while read -r library; do
    mkdir -p ".$(dirname "$library")"; cp -nL "$library" ".$library"; done
echo only here > usr/marker
chmod -R a+rX .
"#;
    ensure!(
        Command::new("bash")
            .args(["-c", script, "-"])
            .arg(root.path())
            .arg(std::env::var("OPENLAMBDA_RUNTIME_DIR")?)
            .status()?
            .success()
    );
    let cluster = Cluster::new_with(&json!({}), &["--base", &root.path().to_string_lossy()])?;
    cluster.start_workers(1)?;
    let source = "import os\ndef handler(event):\n    return [open('/usr/marker').read(), os.path.exists('/usr/bin/env')]\n";
    cluster.handler("marker", source)?;
    ensure!(cluster.call("marker", &Value::Null)?.ok()? == json!(["only here\n", false]));
    cluster.stop()
}

#[test]
fn status_and_kill_tell_the_truth() -> Result<()> {
    let cluster = Cluster::new(&json!({}))?;
    ensure!(!cluster.try_admin("status", &[])?.status.success());
    cluster.start_workers(2)?;
    cluster.start_balancer()?;
    let status = cluster.admin("status", &[])?;
    ensure!(status.matches("ready").count() >= 3, "{status}");
    ensure!(Request::get("/status").send(cluster.balancer_port())?.text() == "ready\n");
    cluster.admin("kill", &[])?;
    ensure!(!cluster.try_admin("status", &[])?.status.success());
    cluster.stop()
}
