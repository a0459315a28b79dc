//! Birth, calls, pause, death.

use anyhow::{Result, ensure};
use openlambda_sandbox::Limits;
use serde_json::json;

use crate::fixture::{Fixture, Test};

pub const TESTS: &[(&str, Test)] = &[
    ("life::answers_and_keeps_state", |f| Box::pin(answers_and_keeps_state(f))),
    ("life::a_frozen_sandbox_answers_after_the_thaw", |f| Box::pin(frozen(f))),
    ("life::a_frozen_sandbox_does_not_hold_up_the_end", |f| Box::pin(frozen_shutdown(f))),
    ("life::the_exit_status_is_reported", |f| Box::pin(exit_status(f))),
    ("life::a_crash_leaves_the_zygote_alive", |f| Box::pin(crash(f))),
    ("life::a_dropped_sandbox_is_gone_with_all_its_processes", |f| Box::pin(dropped(f))),
    ("life::sandboxes_outlive_their_zygote", |f| Box::pin(outlive(f))),
    ("life::a_dead_zygote_is_reported", |f| Box::pin(dead_zygote(f))),
];

const COUNTER: &str = "n = 0\ndef handler(event):\n    global n\n    n += 1\n    return [n, event]\n";

async fn answers_and_keeps_state(f: Fixture) -> Result<()> {
    let mut caller = f.start(COUNTER, Limits::default()).await?;
    ensure!(caller.call(json!({"name": "Alice"})).await? == json!([1, {"name": "Alice"}]));
    ensure!(caller.call(json!(null)).await? == json!([2, null]));
    // Large events cross in many reads, and both ways.
    let large = json!("x".repeat(3 << 20));
    ensure!(caller.call(large.clone()).await? == json!([3, large]));
    Ok(())
}

async fn frozen(f: Fixture) -> Result<()> {
    let mut caller = f.start(COUNTER, Limits::default()).await?;
    caller.call(json!(1)).await?;
    caller.sandbox.handle.freeze()?;
    ensure!(caller.sandbox.handle.memory_bytes()? > 0);
    caller.sandbox.handle.thaw()?;
    ensure!(caller.call(json!(2)).await? == json!([2, 2]));
    // A frozen sandbox can be killed.
    caller.sandbox.handle.freeze()?;
    caller.sandbox.handle.kill();
    let exit = caller.sandbox.handle.exited().await;
    ensure!(exit.to_string() == "was killed by signal 9 (SIGKILL)", "{exit}");
    Ok(())
}

/// What a worker with paused instances leaves when it is killed must not keep the next one from starting.
async fn frozen_shutdown(f: Fixture) -> Result<()> {
    f.keep_frozen(f.start(COUNTER, Limits::default()).await?)
}

async fn exit_status(f: Fixture) -> Result<()> {
    let mut caller =
        f.start("import os\ndef handler(event):\n    os._exit(event)\n", Limits::default()).await?;
    ensure!(caller.call(json!(7)).await.is_err());
    let exit = caller.sandbox.handle.exited().await;
    ensure!(exit.to_string() == "exited with status 7" && !exit.oom_killed, "{exit:?}");
    Ok(())
}

async fn crash(f: Fixture) -> Result<()> {
    let source = "import ctypes\ndef handler(event):\n    ctypes.string_at(1)\n";
    let mut caller = f.start(source, Limits::default()).await?;
    ensure!(caller.call(json!(0)).await.is_err());
    let exit = caller.sandbox.handle.exited().await;
    ensure!(exit.to_string() == "was killed by signal 11 (SIGSEGV)", "{exit}");
    ensure!(f.answer(COUNTER, json!(0)).await? == json!([1, 0]));
    Ok(())
}

async fn dropped(f: Fixture) -> Result<()> {
    // A grandchild that ignores signals and has left the session.
    let source = "import os, signal, time\ndef handler(event):\n    if os.fork() == 0:\n        os.setsid()\n        \
                  signal.signal(signal.SIGTERM, signal.SIG_IGN)\n        time.sleep(3600)\n    return os.listdir('/proc')\n";
    let mut caller = f.start(source, Limits::default()).await?;
    caller.call(json!(0)).await?;
    let handle = caller.sandbox.handle.clone();
    let killed = tokio::spawn(async move { handle.exited().await });
    caller.sandbox.handle.kill();
    // Its pid namespace is empty when this resolves; the pool then takes the cgroup back, which fails if a process is left.
    killed.await?;
    Ok(())
}

async fn outlive(f: Fixture) -> Result<()> {
    let zygote = f.nursery().zygote().await?;
    let mut caller = f.start_from(&zygote, COUNTER, Limits::default()).await?;
    caller.call(json!(0)).await?;
    zygote.kill();
    zygote.exited().await;
    ensure!(caller.call(json!(0)).await? == json!([2, 0]));
    Ok(())
}

async fn dead_zygote(f: Fixture) -> Result<()> {
    let zygote = f.nursery().zygote().await?;
    zygote.kill();
    zygote.exited().await;
    let mut failed = 0;
    // The first request may still fit into a socket that is about to close: then the sandbox itself says it never came to be.
    for _ in 0..2 {
        match f.start_from(&zygote, COUNTER, Limits::default()).await {
            Err(_) => failed += 1,
            Ok(mut caller) => failed += usize::from(caller.call(json!(0)).await.is_err()),
        }
    }
    ensure!(failed == 2);
    Ok(())
}
