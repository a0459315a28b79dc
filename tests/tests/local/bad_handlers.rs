//! Hostile and broken handlers: each gets a clear answer, hurts nobody, and leaves nothing.

use anyhow::{Result, ensure};
use openlambda_tests::{Cluster, Request, Response, until};
use serde_json::{Value, json};

/// Calls the bad handler, then checks that it and its neighbour still serve.
fn survive(source: &str, conf: &Value, check: impl FnOnce(&Cluster, Response) -> Result<()>) -> Result<()> {
    let cluster = Cluster::with_worker(conf)?;
    let guarded = format!("{source}\ndef handler(event):\n    return bad() if event == 'bad' else 'good'\n");
    cluster.handler("bad", &guarded)?;
    cluster.handler("neighbour", "def handler(event):\n    return event\n")?;
    ensure!(cluster.call("neighbour", &json!(1))?.ok()? == json!(1));
    let response = cluster.call("bad", &json!("bad"))?;
    check(&cluster, response)?;
    ensure!(cluster.call("bad", &json!("good"))?.ok()? == json!("good"));
    ensure!(cluster.call("neighbour", &json!(2))?.ok()? == json!(2));
    cluster.stop()
}

#[test]
fn endless_loop() -> Result<()> {
    let source = "def bad():\n    while True:\n        pass\n";
    survive(source, &json!({"limits": {"timeout": "1s"}}), |_, response| {
        response.error(504, "function_timeout").map(|_| ())
    })
}

#[test]
fn exit_in_mid_call() -> Result<()> {
    survive("import os\ndef bad():\n    os._exit(1)\n", &json!({}), |_, response| {
        let message = response.error(500, "function_crashed")?;
        ensure!(message.contains("exited with status 1"), "{message}");
        Ok(())
    })
}

#[test]
fn crash_in_native_code() -> Result<()> {
    survive("import ctypes\ndef bad():\n    ctypes.string_at(1)\n", &json!({}), |_, response| {
        let message = response.error(500, "function_crashed")?;
        ensure!(message.contains("SIGSEGV"), "{message}");
        Ok(())
    })
}

#[test]
fn allocation_without_end() -> Result<()> {
    let source = "def bad():\n    keep = []\n    while True:\n        keep.append(bytearray(1 << 20))\n";
    survive(source, &json!({"limits": {"memory": "64Mi"}}), |_, response| {
        let message = response.error(500, "out_of_memory")?;
        ensure!(message.contains("64"), "{message}");
        Ok(())
    })
}

#[test]
fn fork_bomb() -> Result<()> {
    let source = "import os\ndef bad():\n    while True:\n        try:\n            os.fork()\n        except OSError:\n            pass\n";
    survive(source, &json!({"limits": {"timeout": "2s", "pids": 32}}), |cluster, response| {
        ensure!([500, 504].contains(&response.status), "{response:?}");
        // The Zygote, its spares, the neighbour, and another instance in place of the bad one.
        until("only idle sandboxes", || Ok((cluster.sandboxed_processes(0)?.len() <= 5).then_some(())))
    })
}

#[test]
fn all_descriptors_closed() -> Result<()> {
    survive("import os\ndef bad():\n    os.closerange(0, 1024)\n", &json!({}), |_, response| {
        response.error(500, "function_crashed").map(|_| ())
    })
}

#[test]
fn garbage_on_the_stream() -> Result<()> {
    let source = "import os, time\ndef bad():\n    os.write(3, b'garbage' * 1000)\n    time.sleep(60)\n";
    survive(source, &json!({}), |_, response| response.error(500, "function_crashed").map(|_| ()))
}

#[test]
fn two_replies_to_one_call() -> Result<()> {
    // A forked copy of the runtime answers as well: the second answer must never reach another caller.
    let source = "import os\ndef bad():\n    os.fork()\n    return 'twice'\n";
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler(
        "bad",
        &format!("{source}\ndef handler(event):\n    return bad() if event == 'bad' else event\n"),
    )?;
    for round in 0..20 {
        let response = cluster.call("bad", &json!("bad"))?;
        ensure!([200, 500].contains(&response.status), "{response:?}");
        let next = cluster.call("bad", &json!(round))?;
        // Honest failure is allowed once (the stream is out of step, the sandbox is replaced); a stranger's answer is not.
        ensure!(next.status == 500 || next.ok()? == json!(round), "{next:?}");
    }
    ensure!(
        cluster.call("bad", &json!("end"))?.status == 200
            || cluster.call("bad", &json!("end"))?.status == 200
    );
    cluster.stop()
}

#[test]
fn a_gibibyte_of_output() -> Result<()> {
    let source = "import sys\ndef bad():\n    for _ in range(1024):\n        sys.stdout.write('x' * 1023 + '\\n' + ('y' * 1023 + '\\n') * 1023)\n    return 'written'\n";
    survive(source, &json!({"limits": {"timeout": "60s"}}), |cluster, response| {
        ensure!(response.ok()? == json!("written"));
        let log = cluster.log(0)?;
        ensure!(log.len() < 1 << 20, "the log has {} bytes", log.len());
        ensure!(log.contains("dropped"), "{}", &log[log.len().saturating_sub(2000)..]);
        Ok(())
    })
}

#[test]
fn an_answer_over_the_limit() -> Result<()> {
    let source = "def bad():\n    return 'x' * (8 << 20)\n";
    survive(source, &json!({}), |_, response| response.error(500, "response_too_large").map(|_| ()))
}

#[test]
fn unknown_handlers_cost_nothing_and_wedge_nothing() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    for _ in 0..2 {
        let message = cluster.call("nobody", &Value::Null)?.error(404, "handler_not_found")?;
        ensure!(message.contains("nobody"), "{message}");
    }
    for index in 0..200 {
        cluster.send(&Request::get(&format!("/run/nobody-{index}")))?.error(404, "handler_not_found")?;
    }
    cluster.handler("nobody", "def handler(event):\n    return 'here now'\n")?;
    until("the new handler", || Ok((cluster.call("nobody", &Value::Null)?.status == 200).then_some(())))?;
    cluster.stop()
}
