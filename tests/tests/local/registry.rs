//! The registry from outside: `admin registry`, `admin upload` and what comes after, with everything that can go wrong.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use openlambda_tests::cluster::binary;
use openlambda_tests::{Cluster, Request, until};
use serde_json::{Value, json};

/// A handler that answers with this.
fn answers(text: &str) -> String {
    format!("def handler(event):\n    return {text:?}\n")
}

fn entry(source: &str) -> [(&str, &str); 1] {
    [("lambda_func.py", source)]
}

/// With a registry and so many workers.
fn with_registry(workers: u16, conf: &Value) -> Result<Cluster> {
    let cluster = Cluster::new(conf)?;
    cluster.start_registry()?;
    cluster.start_workers(workers)?;
    Ok(cluster)
}

fn call(cluster: &Cluster, handler: &str) -> Result<Value> {
    cluster.call(handler, &Value::Null)?.ok()
}

#[test]
fn what_is_uploaded_serves_on_every_worker_and_can_be_taken_back() -> Result<()> {
    let cluster = with_registry(2, &json!({}))?;
    let on_both = |expected: &str| {
        for index in 0..2 {
            let answer = Request::call("h", &Value::Null).send(cluster.worker_port(index))?.ok()?;
            ensure!(answer == json!(expected), "worker {index}: {answer}, not {expected}");
        }
        Ok(())
    };
    let said = cluster.upload("h", &entry(&answers("one")))?;
    ensure!(
        said.contains("h: revision 1, sha256:") && said.matches("serves it after").count() == 2,
        "{said}"
    );
    on_both("one")?;
    // The next call after the command has the new code.
    cluster.upload("h", &entry(&answers("two")))?;
    on_both("two")?;
    let said = cluster.upload("h", &entry(&answers("two")))?;
    ensure!(said.contains("revision 2, as before"), "{said}");
    let said = cluster.admin("rollback", &["--handler", "h"])?;
    ensure!(said.contains("revision 1 again") && said.matches("serves it after").count() == 2, "{said}");
    on_both("one")?;

    let listed = cluster.admin("list", &[])?;
    ensure!(listed.lines().count() == 2 && listed.contains("h        1"), "{listed}");
    let described = cluster.admin("describe", &["--handler", "h"])?;
    ensure!(described.contains("*  1") && described.matches("serves revision 1").count() == 2, "{described}");
    let answer = cluster.admin("invoke", &["--handler", "h", "--data", "{}"])?;
    ensure!(answer.trim() == "\"one\"", "{answer}");

    let file = cluster.path().join("h.tar.gz");
    cluster.admin("download", &["--handler", "h", "--revision", "2", "--file", &file.to_string_lossy()])?;
    let said = cluster.admin("upload", &["--handler", "h", "--file", &file.to_string_lossy()])?;
    ensure!(said.contains("revision 3"), "{said}");
    on_both("two")?;

    let said = cluster.admin("delete", &["--handler", "h"])?;
    ensure!(said.matches("has it no more").count() == 2, "{said}");
    let gone = cluster.call("h", &Value::Null)?;
    ensure!(gone.status == 404 && gone.text().contains("admin upload"), "{}", gone.text());
    cluster.stop()
}

#[test]
fn today_s_form_has_its_environment_and_its_limits() -> Result<()> {
    let cluster = with_registry(1, &json!({}))?;
    let code = "import os, time\n\ndef f(event):\n    time.sleep(event)\n    return os.environ['STAGE']\n";
    let manifest =
        "environment: {STAGE: test}\nlimits: {runtime_sec: 1}\ntriggers: {cron: [{schedule: x}]}\n";
    let folder = cluster.folder(&[("f.py", code), ("ol.yaml", manifest), ("requirements.txt", "")])?;
    let said =
        cluster.try_admin("upload", &["--handler", "h", "--file", &folder.path().to_string_lossy()])?;
    ensure!(said.status.success(), "{said:?}");
    ensure!(String::from_utf8_lossy(&said.stderr).contains("triggers.cron"), "{said:?}");
    ensure!(cluster.call("h", &json!(0))?.ok()? == json!("test"));
    let late = cluster.call("h", &json!(5))?;
    ensure!(late.status == 504, "{}: {}", late.status, late.text());
    cluster.stop()
}

#[test]
fn a_script_on_standard_input_and_a_directory_as_registry() -> Result<()> {
    let cluster = Cluster::new(&json!({"registry": "../store"}))?;
    cluster.start_workers(1)?;
    let mut upload = Command::new(binary("admin")?);
    upload.args(["upload", "--handler", "h", "--file", "-", "--cluster"]).arg(cluster.path());
    let mut upload = upload.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if let Some(mut input) = upload.stdin.take() {
        std::io::Write::write_all(&mut input, answers("piped").as_bytes())?;
    }
    ensure!(upload.wait_with_output()?.status.success());
    ensure!(call(&cluster, "h")? == json!("piped"));
    cluster.stop()
}

/// Nobody tells the workers: they look themselves.
#[test]
fn workers_that_are_not_told_find_out() -> Result<()> {
    let cluster = with_registry(1, &json!({"registry_cache_ms": 200}))?;
    cluster.upload("h", &entry(&answers("one")))?;
    ensure!(call(&cluster, "h")? == json!("one"));
    let folder = cluster.folder(&entry(&answers("two")))?;
    let path = folder.path().to_string_lossy().into_owned();
    let said = cluster.admin("upload", &["--handler", "h", "--no-wait", "--file", &path])?;
    ensure!(!said.contains("worker-0"), "{said}");
    until("the new code", || Ok((call(&cluster, "h")? == json!("two")).then_some(())))?;
    cluster.admin("delete", &["--handler", "h", "--no-wait"])?;
    until("its end", || Ok((cluster.call("h", &Value::Null)?.status == 404).then_some(())))?;
    cluster.stop()
}

#[test]
fn code_that_does_not_load_leaves_the_former_one_serving() -> Result<()> {
    let cluster = with_registry(1, &json!({}))?;
    cluster.upload("h", &entry(&answers("good")))?;
    let upload = |source: &str, more: &[&str]| {
        let folder = cluster.folder(&entry(source))?;
        let path = folder.path().to_string_lossy().into_owned();
        let mut arguments = vec!["--handler", "h", "--file", &path];
        arguments.extend_from_slice(more);
        let output = cluster.try_admin("upload", &arguments)?;
        ensure!(!output.status.success(), "it was taken: {output:?}");
        Ok([output.stdout, output.stderr].concat())
    };
    // Found before anything is sent.
    let said = String::from_utf8(upload("def handler(event)\n", &[])?)?;
    ensure!(said.contains("lambda_func.py, line 1") && said.contains("does not compile"), "{said}");
    // Found by the worker's trial.
    let said = String::from_utf8(upload("raise ValueError('not today')\n", &[])?)?;
    ensure!(said.contains("keeps what it had: ImportFailed") && said.contains("not today"), "{said}");
    ensure!(call(&cluster, "h")? == json!("good"));
    let status = cluster.admin("status", &[])?;
    ensure!(status.contains("h: ") && status.contains("not today"), "{status}");
    cluster.upload("h", &entry(&answers("better")))?;
    ensure!(call(&cluster, "h")? == json!("better"));
    ensure!(!cluster.admin("status", &[])?.contains("not today"));
    cluster.stop()
}

/// At the first call of a worker that has just started: one fetch, however many calls wait for it.
#[test]
fn a_bundle_is_fetched_once_however_many_calls_wait() -> Result<()> {
    let cluster = Cluster::new(&json!({}))?;
    cluster.start_registry()?;
    let said = cluster.upload("h", &entry(&answers("one")))?;
    ensure!(said.contains("no worker runs"), "{said}");
    cluster.start_workers(1)?;
    let port = cluster.worker_port(0);
    let calls: Vec<_> =
        (0..16).map(|_| thread::spawn(move || Request::call("h", &Value::Null).send(port)?.ok())).collect();
    for call in calls {
        let answer = call.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??;
        ensure!(answer == json!("one"), "{answer}");
    }
    let log = cluster.log(0)?;
    ensure!(log.matches("fetched a bundle").count() == 1, "{log}");
    cluster.stop()
}

#[test]
fn a_registry_that_is_away_is_not_noticed_by_calls_and_said_by_commands() -> Result<()> {
    let cluster = with_registry(1, &json!({"registry_cache_ms": 200}))?;
    cluster.upload("h", &entry(&answers("one")))?;
    let pid = cluster.registry_pid()?;
    kill(pid, Signal::SIGKILL)?;
    cluster.wait_for_worker_end(pid)?;

    let folder = cluster.folder(&entry(&answers("two")))?;
    let path = folder.path().to_string_lossy().into_owned();
    let failed = cluster.try_admin("upload", &["--handler", "h", "--file", &path])?;
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    ensure!(!failed.status.success() && said.contains("cannot be used"), "{said}");
    for _ in 0..20 {
        ensure!(call(&cluster, "h")? == json!("one"));
    }
    until("a word about it", || {
        let state = cluster.state(0)?;
        Ok(state["registry"]["trouble"].as_str().map(|_| ()))
    })?;
    let unknown = cluster.call("other", &Value::Null)?;
    ensure!(
        unknown.status == 503 && unknown.text().contains("FetchFailed"),
        "{}: {}",
        unknown.status,
        unknown.text()
    );

    // With the keys of its last start.
    cluster.admin("registry", &["--port", &registry_port(&cluster)?])?;
    cluster.admin("upload", &["--handler", "h", "--file", &path])?;
    ensure!(call(&cluster, "h")? == json!("two"));
    ensure!(cluster.state(0)?["registry"]["trouble"].is_null());
    cluster.stop()
}

/// A worker that starts while the registry is away serves what the one before it served, and finds out what is new later.
#[test]
fn a_worker_that_starts_without_the_registry_serves_what_it_had() -> Result<()> {
    let cluster = with_registry(1, &json!({"registry_cache_ms": 200}))?;
    cluster.upload("h", &entry(&answers("one")))?;
    cluster.upload("never", &entry("import nothing_of_this_name")).unwrap_err();
    for pid in [cluster.registry_pid()?, cluster.worker_pid(0)?] {
        kill(pid, Signal::SIGKILL)?;
        cluster.wait_for_worker_end(pid)?;
    }
    cluster.start_workers(1)?;
    ensure!(call(&cluster, "h")? == json!("one"));
    ensure!(cluster.call("never", &Value::Null)?.status == 503, "it has never served");

    cluster.admin("registry", &["--port", &registry_port(&cluster)?])?;
    cluster.upload("h", &entry(&answers("two")))?;
    ensure!(call(&cluster, "h")? == json!("two"));
    cluster.admin("delete", &["--handler", "h"])?;
    ensure!(cluster.call("h", &Value::Null)?.status == 404, "it is still there");
    cluster.stop()
}

fn registry_port(cluster: &Cluster) -> Result<String> {
    let text = fs::read_to_string(cluster.path().join("config/registry.json"))?;
    let config: Value = serde_json::from_str(&text)?;
    Ok(config["port"].to_string())
}

#[test]
fn short_and_wrong_keys_are_refused() -> Result<()> {
    let cluster = Cluster::new(&json!({}))?;
    let short = cluster.try_admin("registry", &["--access-key", "abc", "--secret-key", "12345678"])?;
    let said = String::from_utf8_lossy(&short.stderr).into_owned();
    ensure!(said.contains("--access-key has 3 characters: take 8 or more"), "{said}");
    let none = cluster.try_admin("registry", &[])?;
    ensure!(String::from_utf8_lossy(&none.stderr).contains("give --access-key and --secret-key"), "{none:?}");
    let folder = cluster.folder(&entry(&answers("one")))?;
    let path = folder.path().to_string_lossy().into_owned();
    let nowhere = cluster.try_admin("upload", &["--handler", "h", "--file", &path])?;
    ensure!(String::from_utf8_lossy(&nowhere.stderr).contains("admin registry --cluster"), "{nowhere:?}");

    cluster.start_registry()?;
    let wrong = [
        "--handler",
        "h",
        "--file",
        &path,
        "--access-key",
        "access-key",
        "--secret-key",
        "another-secret-key",
    ];
    let wrong = cluster.try_admin("upload", &wrong)?;
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    ensure!(!wrong.status.success() && said.contains("refuses the access key or the secret key"), "{said}");
    ensure!(!said.contains("another-secret-key"), "{said}");
    cluster.stop()
}

/// Killed at whatever it is at: the former code serves, and the next upload is none the worse.
#[test]
fn an_upload_that_is_killed_changes_nothing_or_all() -> Result<()> {
    let cluster = with_registry(1, &json!({}))?;
    cluster.upload("h", &entry(&answers("one")))?;
    let folder = cluster.folder(&entry(&answers("two")))?;
    // What does not compress, so that there is something to send.
    let noise: Vec<u8> = (0..24_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    fs::write(folder.path().join("data"), noise)?;
    for pause in [30, 150, 400, 800] {
        let mut upload = Command::new(binary("admin")?);
        upload.args(["upload", "--no-check", "--handler", "h", "--file"]).arg(folder.path());
        let mut upload = upload.arg("--cluster").arg(cluster.path()).stdout(Stdio::null()).spawn()?;
        // Not to wait for anything: to be somewhere else in its work each time.
        thread::sleep(std::time::Duration::from_millis(pause));
        upload.kill()?;
        upload.wait()?;
        let answer = call(&cluster, "h")?;
        ensure!(answer == json!("one") || answer == json!("two"), "{answer}");
    }
    cluster.admin("upload", &["--handler", "h", "--file", &folder.path().to_string_lossy()])?;
    ensure!(call(&cluster, "h")? == json!("two"));
    cluster.stop()
}

#[test]
fn two_uploads_at_once_are_two_revisions_and_one_serves() -> Result<()> {
    let cluster = with_registry(1, &json!({}))?;
    cluster.upload("h", &entry(&answers("zero")))?;
    let mut running = Vec::new();
    let mut folders = Vec::new();
    for text in ["one", "two", "three"] {
        let folder = cluster.folder(&entry(&answers(text)))?;
        let mut upload = Command::new(binary("admin")?);
        upload.args(["upload", "--no-wait", "--handler", "h", "--file"]).arg(folder.path());
        running.push(upload.arg("--cluster").arg(cluster.path()).stdout(Stdio::null()).spawn()?);
        folders.push(folder);
    }
    for mut upload in running {
        ensure!(upload.wait()?.success());
    }
    let described = cluster.admin("describe", &["--handler", "h"])?;
    ensure!(described.contains("*  4"), "{described}");
    // The record's word is what is served, whichever it was.
    cluster.admin("rollback", &["--handler", "h", "--revision", "4"])?;
    let first = call(&cluster, "h")?;
    ensure!(["one", "two", "three"].iter().any(|text| first == json!(text)), "{first}");
    cluster.stop()
}
