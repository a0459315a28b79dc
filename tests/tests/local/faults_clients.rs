//! Clients that go away, or come and do nothing. Work that had not begun for them is not begun; what runs ends, and its instance serves
//! the next call.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use openlambda_tests::books::processes;
use openlambda_tests::http::connect;
use openlambda_tests::{Cluster, Request, Response, settled, settled_as, until, until_within};
use serde_json::{Value, json};

/// Notes each call before it runs; `null` asks for the notes.
const NOTES: &str = r"
import time
notes = []
def handler(event):
    if event is None:
        return notes
    notes.append(event[0])
    time.sleep(event[1])
    return 'x' * event[2]
";

/// One instance, so that the notes are those of all calls; and a call has been made.
fn with_notes(conf: &Value) -> Result<Cluster> {
    let mut all = json!({"max_instances": 1, "pause_after": "10s"});
    if let (Some(all), Some(conf)) = (all.as_object_mut(), conf.as_object()) {
        all.extend(conf.clone());
    }
    let cluster = Cluster::with_worker(&all)?;
    cluster.handler("notes", NOTES)?;
    ensure!(cluster.call("notes", &json!(["first", 0, 1]))?.ok()? == json!("x"));
    Ok(cluster)
}

/// A call that is noted by its name, runs so many seconds and gives back so many bytes.
fn noted(name: &str, seconds: f64, bytes: usize) -> Request {
    Request::call("notes", &json!([name, seconds, bytes]))
}

fn metric(cluster: &Cluster, line: &str) -> Result<()> {
    until(line, || Ok(cluster.metrics()?.lines().any(|found| found == line).then_some(())))
}

/// Waits until a call runs, and no other that came before it.
fn running(cluster: &Cluster) -> Result<()> {
    until("the running call", || {
        Ok(cluster.instances("notes")?.iter().any(|i| i["state"] == "running").then_some(()))
    })
}

/// Closes a connection with a reset, as a client does that dies with data unread.
fn reset(stream: TcpStream) -> Result<()> {
    // Lingering for no time makes the kernel send a reset; std cannot say so, but closing with unread data does it as well.
    let _ = stream.shutdown(Shutdown::Write);
    drop(stream);
    Ok(())
}

#[test]
fn what_queues_for_a_client_that_is_gone_is_not_begun() -> Result<()> {
    let cluster = with_notes(&json!({}))?;
    let before = settled(&cluster, 0)?;
    let run = noted("runs", 1.5, 1).open(cluster.worker_port(0))?;
    running(&cluster)?;
    let gone: Vec<_> = (0..10)
        .map(|index| noted(&format!("gone {index}"), 0.0, 1).open(cluster.worker_port(0)))
        .collect::<Result<_>>()?;
    let stays = noted("stays", 0.0, 1).open(cluster.worker_port(0))?;
    metric(&cluster, "openlambda_queue_depth 11")?;
    gone.into_iter().try_for_each(reset)?;
    metric(&cluster, "openlambda_queue_depth 1")?;
    ensure!(Response::read(run)?.ok()? == json!("x"));
    ensure!(Response::read(stays)?.ok()? == json!("x"));
    ensure!(cluster.call("notes", &Value::Null)?.ok()? == json!(["first", "runs", "stays"]));
    settled_as(&cluster, 0, &before)?;
    cluster.stop()
}

#[test]
fn half_a_body_begins_nothing() -> Result<()> {
    let cluster = with_notes(&json!({}))?;
    let before = settled(&cluster, 0)?;
    for _ in 0..10 {
        let mut stream = connect(cluster.worker_port(0))?;
        stream.write_all(
            b"POST /run/notes HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n[\"half\", 0, 1",
        )?;
        running(&cluster)?;
        reset(stream)?;
        metric(&cluster, "openlambda_inflight 0")?;
    }
    ensure!(cluster.call("notes", &Value::Null)?.ok()? == json!(["first"]));
    settled_as(&cluster, 0, &before)?;
    cluster.stop()
}

#[test]
fn a_sandbox_that_is_made_for_nobody_serves_the_next() -> Result<()> {
    // Nothing is forked ahead, and Zygotes that stand still make each birth last as long as it is to.
    let cluster = Cluster::with_worker(&json!({"spares": 0, "max_instances": 1}))?;
    cluster.handler("other", "def handler(event):\n    return event\n")?;
    cluster.call("other", &json!(0))?.ok()?;
    cluster.handler("notes", NOTES)?;
    let zygotes: Vec<Pid> = processes(&cluster, 0, "z-")?.into_iter().map(Pid::from_raw).collect();
    ensure!(!zygotes.is_empty());
    let all = |signal: Signal| zygotes.iter().try_for_each(|pid| kill(*pid, signal));
    all(Signal::SIGSTOP)?;
    let gone = noted("gone", 0.0, 1).open(cluster.worker_port(0))?;
    metric(&cluster, "openlambda_inflight 1")?;
    reset(gone)?;
    metric(&cluster, "openlambda_inflight 0")?;
    all(Signal::SIGCONT)?;
    ensure!(noted("next", 0.0, 1).send(cluster.worker_port(0))?.ok()? == json!("x"));
    let notes = cluster.call("notes", &Value::Null)?.ok()?;
    ensure!(notes == json!(["next"]), "{notes}");
    cluster.stop()
}

#[test]
fn a_call_that_runs_ends_and_its_instance_is_used_again() -> Result<()> {
    let cluster = with_notes(&json!({}))?;
    let before = settled(&cluster, 0)?;
    for _ in 0..5 {
        let gone = noted("ran", 0.1, 1).open(cluster.worker_port(0))?;
        running(&cluster)?;
        reset(gone)?;
        // At once: it waits for the one that nobody waits for any more.
        ensure!(noted("next", 0.0, 1).send(cluster.worker_port(0))?.ok()? == json!("x"));
    }
    let notes = cluster.call("notes", &Value::Null)?.ok()?;
    let want: Vec<_> = std::iter::once("first").chain(["ran", "next"].repeat(5)).collect();
    ensure!(notes == json!(want), "{notes}");
    settled_as(&cluster, 0, &before)?;
    cluster.stop()
}

#[test]
fn an_answer_that_nobody_takes_is_dropped() -> Result<()> {
    let cluster = with_notes(&json!({}))?;
    let before = settled(&cluster, 0)?;
    for _ in 0..10 {
        let mut gone = noted("long", 0.0, 5 << 20).open(cluster.worker_port(0))?;
        let mut some = [0; 1000];
        gone.read_exact(&mut some)?;
        ensure!(some.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&some));
        reset(gone)?;
    }
    let notes = cluster.call("notes", &Value::Null)?.ok()?;
    ensure!(notes.as_array().is_some_and(|notes| notes.len() == 11), "{notes}");
    settled_as(&cluster, 0, &before)?;
    cluster.stop()
}

#[test]
fn a_client_that_takes_nothing_is_let_go() -> Result<()> {
    let cluster = with_notes(&json!({}))?;
    let before = settled(&cluster, 0)?;
    // More than all buffers on the way take, so that the worker has to keep the rest.
    let stuck: Vec<_> =
        (0..20).map(|_| noted("long", 0.0, 5 << 20).open(cluster.worker_port(0))).collect::<Result<_>>()?;
    until("that all have run", || {
        let notes = cluster.call("notes", &Value::Null)?.ok()?;
        Ok((notes.as_array().map_or(0, Vec::len) == 21).then_some(()))
    })?;
    // They hold no instance; after a while they hold nothing else either.
    let began = Instant::now();
    until_within(Duration::from_secs(90), "the end of their connections", || {
        let books = settled(&cluster, 0)?;
        Ok(books.grown_since(&before).is_empty().then_some(()))
    })
    .context("clients that take nothing keep their answers in the worker's memory")?;
    println!("let go after {:?}", began.elapsed());
    drop(stuck);
    cluster.stop()
}

/// Sends a byte now and then, never the end; gives how long the server let it.
fn drip(port: u16, begin: &[u8], every: Duration) -> Result<Duration> {
    let mut stream = connect(port)?;
    stream.write_all(begin)?;
    stream.set_read_timeout(Some(every))?;
    let began = Instant::now();
    let mut answer = [0; 4096];
    loop {
        // The wait between two drops: an answer, or the end, cuts it short.
        match stream.read(&mut answer) {
            Ok(_) => return Ok(began.elapsed()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return Ok(began.elapsed()),
        }
        ensure!(began.elapsed() < Duration::from_secs(90), "it may go on for ever");
        if stream.write_all(b"x").is_err() {
            return Ok(began.elapsed());
        }
    }
}

#[test]
fn dripping_heads_have_an_end_and_dripping_bodies_harm_nobody() -> Result<()> {
    let cluster = with_notes(&json!({"max_instances": 3}))?;
    let before = settled(&cluster, 0)?;
    let port = cluster.worker_port(0);
    let begin = "GET /run/notes HTTP/1.1\r\nHost: t\r\nX-Slow: ".as_bytes();
    let heads: Vec<_> =
        (0..50).map(|_| std::thread::spawn(move || drip(port, begin, Duration::from_millis(500)))).collect();
    // These would be cut off after a minute; here they leave before.
    let bodies: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = connect(port)?;
            stream.write_all(b"POST /run/notes HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n[")?;
            Ok(stream)
        })
        .collect::<Result<_>>()?;
    let mut longest = Duration::ZERO;
    while !heads.iter().all(std::thread::JoinHandle::is_finished) {
        for mut body in &bodies {
            // Refused once the worker has given it up.
            let _ = body.write_all(b"1");
        }
        let began = Instant::now();
        ensure!(cluster.call("notes", &Value::Null)?.status == 200);
        longest = longest.max(began.elapsed());
        // The pace of the dripping.
        std::thread::sleep(Duration::from_millis(200));
    }
    for one in heads {
        let lasted = one.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        ensure!(lasted < Duration::from_secs(20), "a client could drip for {lasted:?}");
    }
    ensure!(longest < Duration::from_secs(2), "a healthy call took {longest:?}");
    drop(bodies);
    settled_as(&cluster, 0, &before)?;
    cluster.stop()
}

#[test]
fn a_body_without_end_is_cut_off_at_the_limit() -> Result<()> {
    let cluster = with_notes(&json!({"limits": {"request": "64Ki"}}))?;
    let before = settled(&cluster, 0)?;
    for handler in ["notes", "nobody"] {
        let mut stream = connect(cluster.worker_port(0))?;
        stream.write_all(
            format!("POST /run/{handler} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
                .as_bytes(),
        )?;
        let chunk = [&b"10000\r\n"[..], &[b'x'; 1 << 16], b"\r\n"].concat();
        let began = Instant::now();
        let mut sent = 0_u64;
        while stream.write_all(&chunk).is_ok() {
            sent += 1 << 16;
            ensure!(began.elapsed() < Duration::from_secs(30), "{sent} bytes were taken");
        }
        ensure!(sent <= 200 << 20, "{sent} bytes were taken");
    }
    ensure!(cluster.call("notes", &Value::Null)?.ok()? == json!(["first"]));
    settled_as(&cluster, 0, &before)?;
    cluster.stop()
}
