//! Handlers that fight back. Each gets a clear answer, what it began ends with its sandbox, and no other call is touched.

use anyhow::{Context, Result, ensure};
use openlambda_tests::books::processes;
use openlambda_tests::{Books, Cluster, Request, Response, settled, settled_as, until};
use serde_json::{Value, json};

/// A worker with a bad handler, which echoes all events but `"bad"`, and a good one; and its books.
struct Fight {
    cluster: Cluster,
    before: Books,
}

impl Fight {
    fn new(conf: &Value, source: &str) -> Result<Self> {
        let cluster = Cluster::with_worker(conf)?;
        let guarded =
            format!("{source}\ndef handler(event):\n    return bad() if event == 'bad' else event\n");
        cluster.handler("bad", &guarded)?;
        cluster.handler("good", "def handler(event):\n    return event\n")?;
        for name in ["bad", "good"] {
            ensure!(cluster.call(name, &json!(1))?.ok()? == json!(1));
        }
        let before = settled(&cluster, 0)?;
        Ok(Self { cluster, before })
    }

    fn strike(&self) -> Result<Response> {
        self.cluster.call("bad", &json!("bad"))
    }

    /// Both handlers answer, more than once, and nothing has grown.
    fn end(self) -> Result<()> {
        for round in 0..5 {
            for name in ["bad", "good"] {
                let event = json!(format!("{name} {round}"));
                ensure!(self.cluster.call(name, &event)?.ok()? == event);
            }
        }
        settled_as(&self.cluster, 0, &self.before)?;
        self.cluster.stop()
    }
}

#[test]
fn one_that_ignores_every_signal_ends_at_its_time() -> Result<()> {
    let source = r"
import signal, time
def bad():
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1)
";
    let fight = Fight::new(&json!({"limits": {"timeout": "500ms"}}), source)?;
    fight.strike()?.error(504, "function_timeout")?;
    fight.end()
}

#[test]
fn a_daemon_ends_with_the_sandbox_that_it_is_in() -> Result<()> {
    // It has left its session, its parent and its descriptors, and still is in the cgroup and the pid namespace.
    let source = r"
import os, signal, time
def bad():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 100)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(1)
        os._exit(0)
    return 'left alone'
";
    let fight = Fight::new(&json!({}), source)?;
    ensure!(fight.strike()?.ok()? == json!("left alone"));
    let cluster = &fight.cluster;
    let with_daemon = until("the daemon", || {
        let now = processes(cluster, 0, "s-")?;
        Ok((now.len() > fight.before.sandboxes).then_some(now))
    })?;
    // An edit gives up the instance; the daemon goes with it.
    cluster.handler("bad", "def handler(event):\n    return event\n")?;
    ensure!(cluster.call("bad", &json!("new"))?.ok()? == json!("new"));
    until("the end of the daemon", || {
        let now = processes(cluster, 0, "s-")?;
        Ok((now.len() <= fight.before.sandboxes).then_some(()))
    })
    .with_context(|| format!("{with_daemon:?}"))?;
    fight.end()
}

#[test]
fn one_that_fills_its_stream_is_killed_and_believed_nothing() -> Result<()> {
    // Within the call, and behind its answer, where the next call would find it.
    for place in
        ["    fill()\n    return 'filled'\n", "    threading.Timer(0.05, fill).start()\n    return 'later'\n"]
    {
        let source = format!(
            "import os, threading\ndef fill():\n    while True:\n        os.write(3, bytes(1 << 16))\ndef bad():\n{place}"
        );
        let fight = Fight::new(&json!({"pause_after": "10s"}), &source)?;
        let answer = fight.strike()?;
        if answer.status != 200 {
            answer.error(500, "function_crashed")?;
        }
        fight.end()?;
    }
    Ok(())
}

#[test]
fn one_that_reads_slowly_runs_out_of_its_time() -> Result<()> {
    let source = r"
import os, time
def bad():
    read = os.read
    def slowly(descriptor, count):
        time.sleep(0.02)
        return read(descriptor, min(count, 512))
    os.read = slowly
    return 'slow from now on'
";
    let fight = Fight::new(&json!({"limits": {"timeout": "1s"}}), source)?;
    ensure!(fight.strike()?.ok()? == json!("slow from now on"));
    // More than the socket's buffers take.
    let long = json!("x".repeat(4 << 20));
    fight.cluster.call("bad", &long)?.error(504, "function_timeout")?;
    ensure!(fight.cluster.call("bad", &long)?.ok()? == long);
    fight.end()
}

#[test]
fn a_late_reply_reaches_nobody() -> Result<()> {
    let source = "import time\ndef bad():\n    time.sleep(0.6)\n    return 'too late'\n";
    let fight = Fight::new(&json!({"limits": {"timeout": "500ms"}, "max_instances": 1}), source)?;
    for round in 0..4 {
        // Sent together: the second is in the queue when the first is given up, and gets the next instance.
        let late = Request::call("bad", &json!("bad")).open(fight.cluster.worker_port(0))?;
        let next = Request::call("bad", &json!(round)).open(fight.cluster.worker_port(0))?;
        let (late, next) = (Response::read(late)?, Response::read(next)?);
        late.error(504, "function_timeout")?;
        ensure!(next.ok()? == json!(round), "{next:?}");
    }
    fight.end()
}

#[test]
fn one_that_closes_its_output_still_answers() -> Result<()> {
    let source = "import os\ndef bad():\n    os.close(1)\n    os.close(2)\n    return 'closed'\n";
    let fight = Fight::new(&json!({}), source)?;
    ensure!(fight.strike()?.ok()? == json!("closed"));
    fight.end()
}

#[test]
fn one_that_takes_all_its_descriptors_harms_itself() -> Result<()> {
    let source = r"
import os
held = []
def bad():
    while True:
        held.append(os.open('/dev/null', os.O_RDONLY))
";
    let fight = Fight::new(&json!({}), source)?;
    let message = fight.strike()?.error(500, "function_error")?;
    ensure!(message.contains("Too many open files"), "{message}");
    fight.end()
}

#[test]
fn one_that_takes_all_its_pids_harms_itself() -> Result<()> {
    let source = r"
import os, time
def bad():
    try:
        while True:
            if os.fork() == 0:
                time.sleep(3600)
    except BlockingIOError as error:
        return str(error)
";
    let fight = Fight::new(&json!({"limits": {"pids": 10}}), source)?;
    let answer = fight.strike()?.ok()?;
    ensure!(answer.as_str().is_some_and(|text| text.contains("temporarily unavailable")), "{answer}");
    // With no pid free it is paused, taken up again, and given up like any other.
    until("the pause", || {
        Ok(fight.cluster.instances("bad")?.iter().any(|i| i["state"] == "paused").then_some(()))
    })?;
    ensure!(fight.cluster.call("bad", &json!("still"))?.ok()? == json!("still"));
    fight.cluster.handler("bad", "def handler(event):\n    return event\n")?;
    fight.end()
}
