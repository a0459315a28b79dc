//! What a worker needs is used up: disk, pids, descriptors. It says so, what it has goes on serving, and it is well again when there is
//! more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use openlambda_tests::books::processes;
use openlambda_tests::http::connect;
use openlambda_tests::{Cluster, Request, settled, settled_as, until};
use serde_json::{Value, json};

const ECHO: &str = "def handler(event):\n    return event\n";
const COUNT: &str = "n = 0\ndef handler(event):\n    global n\n    n += 1\n    return n\n";

/// A small file system over a folder, until this is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn over(folder: &Path, size: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let options = format!("size={size},mode=755");
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))?;
        Ok(Self(folder.to_owned()))
    }

    /// Uses up what is left of it.
    fn fill(&self) -> Result<()> {
        let filler = fs::File::create(self.0.join("filler"))?;
        let chunk = [0; 4096];
        while std::io::Write::write_all(&mut &filler, &chunk).is_ok() {}
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A worker whose own folder is on a small disk.
fn on_small_disk() -> Result<(Cluster, SmallDisk)> {
    let cluster = Cluster::new(&json!({}))?;
    let disk = SmallDisk::over(&cluster.path().join("workers"), "1m")?;
    cluster.start_workers(1)?;
    cluster.handler("count", COUNT)?;
    ensure!(cluster.call("count", &Value::Null)?.ok()? == json!(1));
    Ok((cluster, disk))
}

/// What is served goes on; what is new is refused with the disk as the reason; and is served as soon as it can be.
fn without_room(cluster: &Cluster, why: &str, mend: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = settled(cluster, 0)?;
    cluster.handler("new", ECHO)?;
    for round in 2..5 {
        let message = cluster.call("new", &json!(1))?.error(500, "internal")?;
        ensure!(message.contains(why), "{message}");
        ensure!(
            cluster.call("count", &Value::Null)?.ok()? == json!(round),
            "the one that served serves no more"
        );
    }
    mend()?;
    until("the new handler", || Ok((cluster.call("new", &json!(1))?.status == 200).then_some(())))?;
    settled_as(cluster, 0, &before)?;
    Ok(())
}

#[test]
fn a_full_disk_stops_only_what_is_new() -> Result<()> {
    let (cluster, disk) = on_small_disk()?;
    disk.fill()?;
    without_room(&cluster, "No space left", || Ok(fs::remove_file(disk.0.join("filler"))?))?;
    cluster.admin("kill", &[])?;
    drop(disk);
    cluster.stop()
}

#[test]
fn a_read_only_disk_stops_only_what_is_new() -> Result<()> {
    let (cluster, disk) = on_small_disk()?;
    // The worker has its mounts for itself, and the one of its own folder is switched.
    let switch = |how: &str| {
        let pid = cluster.worker_pid(0)?.to_string();
        let status = Command::new("nsenter")
            .args(["-t", &pid, "-m", "mount", "-o", &format!("remount,bind,{how}")])
            .arg(&disk.0)
            .status()?;
        ensure!(status.success(), "mount -o remount,bind,{how}: {status}");
        Ok(())
    };
    switch("ro")?;
    without_room(&cluster, "Read-only file system", || switch("rw"))?;
    cluster.admin("kill", &[])?;
    drop(disk);
    cluster.stop()
}

/// The file with the most pids that a worker and what it has forked may have.
fn pids_of(cluster: &Cluster) -> Result<(PathBuf, PathBuf)> {
    let all = cluster.cgroups(0)?;
    let root = all.iter().find(|root| root.join("pids.max").exists()).context("no cgroup with pids")?;
    Ok((root.join("pids.max"), root.join("pids.current")))
}

#[test]
fn without_a_free_pid_what_is_warm_serves_and_the_rest_is_told() -> Result<()> {
    // Without spares each new instance is a fork.
    let cluster = Cluster::with_worker(&json!({"spares": 0}))?;
    cluster.handler("count", COUNT)?;
    ensure!(cluster.call("count", &Value::Null)?.ok()? == json!(1));
    let before = settled(&cluster, 0)?;
    let (most, now) = pids_of(&cluster)?;
    fs::write(&most, fs::read_to_string(&now)?.trim())?;
    cluster.handler("new", ECHO)?;
    for round in 2..5 {
        let refused = cluster.call("new", &json!(1))?;
        let message = refused.error(503, "no_capacity")?;
        ensure!(refused.header("retry-after").is_some(), "{message}");
        ensure!(
            cluster.call("count", &Value::Null)?.ok()? == json!(round),
            "the one that served serves no more"
        );
    }
    fs::write(&most, "max")?;
    until("the new handler", || Ok((cluster.call("new", &json!(1))?.status == 200).then_some(())))?;
    settled_as(&cluster, 0, &before)?;
    cluster.stop()
}

/// Sets the soft limit of open files of a running process.
fn limit_files(pid: nix::unistd::Pid, soft: usize) -> Result<()> {
    let status =
        Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={soft}:")]).status()?;
    ensure!(status.success(), "prlimit: {status}");
    Ok(())
}

/// The Zygote dies while there are too few descriptors for another: attempts fail, each at another step.
fn without_a_zygote(cluster: &Cluster, pid: nix::unistd::Pid) -> Result<()> {
    let downs = || Ok::<_, anyhow::Error>(cluster.log(0)?.matches("the root Zygote is down").count());
    let used = || Ok::<_, anyhow::Error>(fs::read_dir(format!("/proc/{pid}/fd"))?.count());
    limit_files(pid, used()?)?;
    for zygote in processes(cluster, 0, "z-")? {
        kill(nix::unistd::Pid::from_raw(zygote), Signal::SIGKILL)?;
    }
    for free in [0, 2, 4, 6] {
        limit_files(pid, used()? + free)?;
        let before = downs()?;
        until(&format!("an attempt that fails with {free} to spare"), || {
            Ok((downs()? > before).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn without_a_free_descriptor_a_worker_recovers() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("count", COUNT)?;
    ensure!(cluster.call("count", &Value::Null)?.ok()? == json!(1));
    let before = settled(&cluster, 0)?;
    let pid = cluster.worker_pid(0)?;
    let used = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    limit_files(pid, used + 6)?;
    // A call that is let in has an answer: a warm one its own, a new one perhaps that there are no descriptors for it.
    let mut idle = Vec::new();
    for index in 0..5 {
        let name = format!("new-{index}");
        cluster.handler(&name, ECHO)?;
        let answer = cluster.call(&name, &json!(index))?;
        ensure!(answer.status == 200 || answer.json()?["reason"].is_string(), "{answer:?}");
        idle.push(connect(cluster.worker_port(0))?);
    }
    let refused: Vec<_> =
        idle.iter().map(|_| Request::call("count", &Value::Null).open(cluster.worker_port(0))).collect();
    until("that it says what it lacks", || {
        Ok(cluster.log(0)?.contains("Too many open files").then_some(()))
    })?;
    without_a_zygote(&cluster, pid)?;
    drop((idle, refused));
    limit_files(pid, 20_000)?;
    until("a call", || Ok((cluster.call("count", &Value::Null)?.status == 200).then_some(())))?;
    for index in 0..5 {
        let name = format!("new-{index}");
        ensure!(cluster.call(&name, &json!(index))?.ok()? == json!(index));
    }
    settled_as(&cluster, 0, &before)?;
    cluster.stop()
}
