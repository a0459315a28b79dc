//! Each limit holds, and what runs into it hurts nobody else.

use anyhow::{Result, ensure};
use openlambda_sandbox::Limits;
use serde_json::{Value, json};

use crate::fixture::{Fixture, Test};

pub const TESTS: &[(&str, Test)] = &[
    ("limits::memory", |f| Box::pin(memory(f))),
    ("limits::processes", |f| Box::pin(processes(f))),
    ("limits::scratch", |f| Box::pin(scratch(f))),
    ("limits::open_files", |f| Box::pin(open_files(f))),
    ("limits::a_recycled_cgroup_takes_new_limits", |f| Box::pin(recycled(f))),
];

const HOG: &str = "def handler(event):\n    return len(bytearray(event << 20))\n";

async fn memory(f: Fixture) -> Result<()> {
    let limits = Limits { memory: 64 << 20, ..Limits::default() };
    let mut caller = f.start(HOG, limits).await?;
    ensure!(caller.call(json!(8)).await? == json!(8 << 20));
    ensure!(caller.call(json!(512)).await.is_err());
    let exit = caller.sandbox.handle.exited().await;
    ensure!(exit.oom_killed, "{exit:?}");
    ensure!(f.answer(HOG, json!(8)).await? == json!(8 << 20));
    Ok(())
}

async fn processes(f: Fixture) -> Result<()> {
    let source = r"
import os, time
def handler(event):
    started = 0
    for _ in range(event):
        try:
            if os.fork() == 0:
                time.sleep(3600)
            started += 1
        except BlockingIOError:
            break
    return started
";
    let mut caller = f.start(source, Limits { pids: 10, ..Limits::default() }).await?;
    ensure!(caller.call(json!(100)).await? == json!(9));
    Ok(())
}

async fn scratch(f: Fixture) -> Result<()> {
    let source = r"
import errno
def handler(event):
    written = 0
    try:
        for path in ('/host/a', '/tmp/b'):
            with open(path, 'wb', buffering=0) as file:
                for _ in range(64):
                    written += file.write(bytes(1 << 16))
    except OSError as error:
        return [written, errno.errorcode[error.errno]]
    return [written, None]
";
    let mut caller = f.start(source, Limits { scratch: 1 << 20, ..Limits::default() }).await?;
    let answer = caller.call(Value::Null).await?;
    ensure!(answer[1] == "ENOSPC" && answer[0].as_u64() <= Some(1 << 20), "{answer}");
    Ok(())
}

async fn open_files(f: Fixture) -> Result<()> {
    let source =
        "import resource, os\ndef handler(event):\n    return resource.getrlimit(resource.RLIMIT_NOFILE)\n";
    let mut caller = f.start(source, Limits { open_files: 77, ..Limits::default() }).await?;
    ensure!(caller.call(Value::Null).await? == json!([77, 77]));
    Ok(())
}

async fn recycled(f: Fixture) -> Result<()> {
    // More sandboxes than the pool has groups, each with its own limit, so that groups come back into use.
    for round in 0..12u64 {
        let limits = Limits { memory: (32 + 4 * round) << 20, ..Limits::default() };
        let mut caller = f.start(HOG, limits).await?;
        ensure!(caller.call(json!(8)).await? == json!(8 << 20), "round {round}");
        let big = caller.call(json!(64 + 4 * round)).await;
        ensure!(big.is_err(), "round {round}: {big:?}");
        let exit = caller.sandbox.handle.exited().await;
        ensure!(exit.oom_killed, "round {round}: {exit:?}");
    }
    Ok(())
}
