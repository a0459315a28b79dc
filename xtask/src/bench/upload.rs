//! `bench upload`: from `admin upload` to the first answer with the new code on three workers, what a large bundle takes
//! of memory, and what a thousand uploads leave behind.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Bench;
use super::report::{Bound, Report};
use crate::cluster::LocalCluster;
use crate::http::{Connection, Request};
use crate::ports;

const WORKERS: u16 = 3;
/// Uploads of each kind in a round.
const UPLOADS: u32 = 10;
/// A handler with its data, about.
const SMALL: usize = 10 << 10;
const LARGE: usize = 100 << 20;
/// One after the other.
const MANY: u32 = 1000;
/// What unpacked bundles may take on a worker's disk besides the one that serves.
const BUDGET: &str = "256Ki";
/// Between two looks at a process that runs.
const LOOK: Duration = Duration::from_millis(2);
const MIB: f64 = (1 << 20) as f64;
const PATH: &str = "/run/h";

/// A cluster with a registry.
struct Subject {
    cluster: LocalCluster,
    admin: PathBuf,
    workers: Vec<SocketAddr>,
    folder: PathBuf,
}

/// Measures.
pub fn run(bench: &Bench) -> Result<Report> {
    let subject = Subject::start(bench)?;
    let mut report = Report::new("upload");
    let mut number = 0;
    for round in 1..=bench.rounds {
        eprintln!("round {round} of {}", bench.rounds);
        for (name, arguments) in [
            ("upload to first answer on 3 workers", &[][..]),
            ("the same without the check by Python", &["--no-check"]),
        ] {
            let mut times = Vec::new();
            for _ in 0..UPLOADS {
                number += 1;
                times.push(subject.upload_to_answer(number, arguments)?);
            }
            report.add(name, "ms", times);
        }
        number += 1;
        let (admin, worker) = subject.large(number)?;
        report.add("admin, 100 MB bundle, above idle", "MiB", vec![admin]);
        report.add("worker, 100 MB bundle, above idle", "MiB", vec![worker]);
    }
    subject.many(&mut report)?;
    report.figure("upload to first answer on 3 workers", Bound::AtMost(300.0));
    report.figure("admin, 100 MB bundle, above idle", Bound::AtMost(64.0));
    report.figure("worker, 100 MB bundle, above idle", Bound::AtMost(64.0));
    report.figure("bundles in the store after 1,000 uploads", Bound::AtMost(10.0));
    report.figure("files in the store after 1,000 uploads", Bound::AtMost(33.0));
    report.figure("disk of a worker's bundles after 1,000 uploads", Bound::AtMost(1.0));
    report.note(format!(
        "Registry, {WORKERS} workers and admin share the machine; each upload is a process of its own."
    ));
    Ok(report)
}

impl Subject {
    fn start(bench: &Bench) -> Result<Self> {
        let cluster = LocalCluster::new(&bench.built, "bench-upload")?;
        cluster.configure(&json!({"registry_cache_size": BUDGET}))?;
        let keys = ["--access-key=access-key", "--secret-key=secret-key-of-a-bench"].map(str::to_owned);
        let port = [format!("--port={}", ports::free(19_000, 1)?)];
        cluster.admin("registry", &[&keys[..], &port].concat())?;
        let workers = cluster.workers(WORKERS, ports::free(18_080, WORKERS)?)?;
        let folder = cluster.directory().join("upload");
        fs::create_dir(&folder)?;
        Ok(Self { admin: bench.built.binary("admin"), cluster, workers, folder })
    }

    /// Writes a handler that answers with its number, and as much that does not compress.
    fn write(&self, number: u32, bytes: usize) -> Result<()> {
        let code = format!("def handler(event):\n    return {number}\n");
        fs::write(self.folder.join("lambda_func.py"), code)?;
        let mut state = u64::from(number) | 1;
        let mut data = std::io::BufWriter::new(fs::File::create(self.folder.join("data"))?);
        for _ in 0..bytes / 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            data.write_all(&state.to_le_bytes())?;
        }
        Ok(data.flush()?)
    }

    fn upload(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.admin);
        command.args(["upload", "--handler", "h", "--file"]).arg(&self.folder);
        command.arg("--cluster").arg(self.cluster.directory()).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Milliseconds from the start of the command until every worker has answered with the new code.
    fn upload_to_answer(&self, number: u32, arguments: &[&str]) -> Result<f64> {
        self.write(number, SMALL)?;
        let start = Instant::now();
        let status = self.upload(arguments).status().context("cannot run admin")?;
        ensure!(status.success(), "admin upload: {status}");
        for worker in &self.workers {
            let answer = Connection::open(*worker)?.call(&Request::post(PATH, "null"))?;
            ensure!(answer.text() == number.to_string(), "{worker} answers {}, not {number}", answer.text());
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    /// MiB that admin, and the worker that took most, took for a large bundle above what they have without one.
    fn large(&self, number: u32) -> Result<(f64, f64)> {
        let mut list = Command::new(&self.admin);
        list.arg("list").arg("--cluster").arg(self.cluster.directory()).stdout(Stdio::null());
        let idle = peak_of(list)?;
        self.write(number, LARGE)?;
        let pids: Vec<u32> = (0..WORKERS).map(|worker| self.pid(worker)).collect::<Result<_>>()?;
        let before: Vec<f64> = pids.iter().map(|pid| status(*pid, "VmRSS:")).collect::<Result<_>>()?;
        for pid in &pids {
            // Makes the kernel forget the peak.
            fs::write(format!("/proc/{pid}/clear_refs"), "5")?;
        }
        let admin = peak_of(self.upload(&[]))? - idle;
        let after = pids.iter().map(|pid| status(*pid, "VmHWM:")).collect::<Result<Vec<_>>>()?;
        let worker = after.iter().zip(before).map(|(after, before)| after - before).fold(0.0, f64::max);
        Ok((admin, worker))
    }

    fn pid(&self, worker: u16) -> Result<u32> {
        let file = self.cluster.directory().join(format!("logs/worker-{worker}.pid"));
        Ok(fs::read_to_string(file)?.trim().parse()?)
    }

    /// What a thousand uploads leave.
    fn many(&self, report: &mut Report) -> Result<()> {
        eprintln!("{MANY} uploads");
        for number in 0..MANY {
            self.write(1_000_000 + number, 64)?;
            let status = self.upload(&["--no-check"]).status()?;
            ensure!(status.success(), "admin upload: {status}");
        }
        let store = files(&self.cluster.directory().join("store"))?;
        let bundles = store.iter().filter(|(path, _)| path.to_string_lossy().ends_with(".tar.gz")).count();
        report.add("bundles in the store after 1,000 uploads", "", vec![bundles as f64]);
        report.add("files in the store after 1,000 uploads", "", vec![store.len() as f64]);
        // What was let go is removed by a thread of the worker.
        std::thread::sleep(Duration::from_secs(1));
        let disk = files(&self.cluster.directory().join("workers/worker-0/bundles"))?;
        let bytes: u64 = disk.iter().map(|(_, bytes)| bytes).sum();
        report.add("disk of a worker's bundles after 1,000 uploads", "MiB", vec![bytes as f64 / MIB]);
        Ok(())
    }
}

/// The largest that a process becomes, in MiB.
fn peak_of(mut command: Command) -> Result<f64> {
    let mut child = command.spawn().context("cannot run admin")?;
    let mut peak = 0.0;
    loop {
        let ended = child.try_wait()?;
        if let Some(ended) = ended {
            ensure!(ended.success(), "admin: {ended}");
            return Ok(peak);
        }
        // It may end in this moment.
        peak = status(child.id(), "VmHWM:").unwrap_or(peak).max(peak);
        // Between two looks.
        std::thread::sleep(LOOK);
    }
}

/// A line of a process's status, in MiB.
fn status(pid: u32, name: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

/// All files below a folder, with what they have.
fn files(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(found)
}
