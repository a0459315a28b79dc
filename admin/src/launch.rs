//! Starts a process in the background and waits until it answers.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use openlambda_config::{ClusterDir, Process};

use crate::ping;
use crate::process::{Live, program};

/// A process gets so long to answer.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Time between two questions: a worker is ready within a few hundred milliseconds.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// A process whose start failed gets so long to clean up.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// So much of a log is shown when a start fails.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 16 * 1024;

/// A process that was just started.
#[derive(Debug)]
pub struct Launched {
    /// Which one.
    pub process: Process,
    /// Its base URL.
    pub url: String,
    child: Child,
    config: PathBuf,
    log: PathBuf,
    pid_file: PathBuf,
    /// Where its own lines begin: the log is kept over restarts.
    log_begin: u64,
}

/// Starts a process whose configuration is written: detached from the terminal, with its log and its pid file.
pub fn start(cluster: &ClusterDir, process: Process, url: String) -> Result<Launched> {
    let (config, log, pid_file) = (cluster.config(process), cluster.log(process), cluster.pid(process));
    let out = OpenOptions::new().create(true).append(true).open(&log);
    let out = out.with_context(|| format!("cannot write {}", log.display()))?;
    let log_begin = out.metadata().map_or(0, |metadata| metadata.len());
    let admin = std::env::current_exe().context("cannot find admin's own file")?;
    let child = Command::new(admin)
        .args([program(process).command, "--detached", "--config"])
        .arg(&config)
        .current_dir(cluster.root())
        .stdin(Stdio::null())
        .stderr(out.try_clone()?)
        .stdout(out)
        .spawn()
        .with_context(|| format!("cannot start {process}"))?;
    let launched = Launched { process, url, child, config, log, pid_file, log_begin };
    match fs::write(&launched.pid_file, format!("{}\n", launched.pid())) {
        Ok(()) => Ok(launched),
        Err(error) => {
            let message = format!("cannot write {}", launched.pid_file.display());
            launched.stop();
            Err(error).context(message)
        }
    }
}

impl Launched {
    /// The pid: the program takes over the process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it answers. The error has the end of its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for it")? {
                bail!("{} did not start ({status}){}", self.process, self.log_tail());
            }
            let said = match ping::ask(&self.url, Duration::from_secs(2)) {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => answer.status_line,
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                let waited = READY_WITHIN.as_secs();
                bail!(
                    "{} did not get ready within {waited}s (last: {said}){}",
                    self.process,
                    self.log_tail()
                );
            }
            thread::sleep(ASK_EVERY);
        }
    }

    /// Ends it, by force if it takes too long, and removes its pid file.
    pub fn stop(mut self) {
        let pid = i32::try_from(self.pid()).unwrap_or_default();
        let live = Live::open(pid, program(self.process), &self.config).ok().flatten();
        let ended =
            live.is_some_and(|live| live.terminate().is_ok() && live.wait(STOP_WITHIN).unwrap_or(false));
        if !ended {
            // Our own child that was not waited for: the pid cannot be anybody else's.
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.pid_file);
    }

    fn log_tail(&self) -> String {
        match tail(&self.log, self.log_begin) {
            Ok(text) if text.is_empty() => format!(", and said nothing in {}", self.log.display()),
            Ok(text) => format!("; the end of {}:\n{text}", self.log.display()),
            Err(error) => format!("; {} cannot be read: {error}", self.log.display()),
        }
    }
}

/// The last lines of a log, from `begin` on, indented.
fn tail(log: &PathBuf, begin: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(begin.max(end.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    Ok(last.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_of_this_start_and_short() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "old\n").unwrap();
        assert_eq!(tail(&log, 4).unwrap(), "");
        let many: String = (0..3000).map(|n| format!("line {n}\n")).collect();
        fs::write(&log, format!("old\n{many}")).unwrap();
        let text = tail(&log, 4).unwrap();
        assert_eq!(text.lines().count(), TAIL_LINES);
        assert!(text.ends_with("  line 2999") && !text.contains("old"), "{text}");
    }
}
