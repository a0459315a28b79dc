//! The checker that ends each test finds what is left and what does not add up: else it would prove nothing.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use openlambda_tests::{Books, Cluster, settled, settled_as, until};
use serde_json::json;

/// Ends with the test.
struct Stranger(Child);

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stranger(command: &mut Command) -> Result<Stranger> {
    Ok(Stranger(command.spawn()?))
}

fn an_empty_group(cluster: &Cluster) -> Result<PathBuf> {
    let roots = cluster.cgroups(0)?;
    let root = roots.last().context("no cgroups")?;
    let all = fs::read_dir(root)?.flatten().map(|entry| entry.path());
    let mut groups =
        all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("s-")));
    let is_empty =
        |path: &PathBuf| fs::read_to_string(path.join("cgroup.procs")).is_ok_and(|procs| procs.is_empty());
    groups.find(is_empty).context("no empty group")
}

#[test]
fn a_process_that_no_one_knows_unbalances_the_books() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    let before = settled(&cluster, 0)?;
    let extra = stranger(Command::new("sleep").arg("60"))?;
    let group = an_empty_group(&cluster)?;
    fs::write(group.join("cgroup.procs"), extra.0.id().to_string())?;
    let wrong = Books::take(&cluster, 0)?.disagreements(16);
    ensure!(wrong.len() == 1 && wrong[0].contains("the kernel has"), "{wrong:?}");
    drop(extra);
    settled_as(&cluster, 0, &before)?;
    // A connection that stays open is a descriptor more.
    let open = openlambda_tests::http::connect(cluster.worker_port(0))?;
    until("that it is found", || {
        let grown = Books::take(&cluster, 0)?.grown_since(&before);
        Ok(grown.iter().any(|line| line.contains("agent socket")).then_some(()))
    })?;
    drop(open);
    cluster.stop()
}

#[test]
fn what_is_left_of_a_cluster_is_found_wherever_it_is() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    let (traces, folder) = (cluster.traces(), cluster.path());
    ensure!(!traces.cgroups.is_empty() && !traces.left().is_empty(), "a worker that lives is nothing?");
    cluster.admin("kill", &[])?;
    traces.are_gone()?;
    let found =
        |what: &str| until(what, || Ok(traces.left().iter().any(|line| line.contains(what)).then_some(())));
    let stands = stranger(Command::new("sleep").arg("60").current_dir(&folder))?;
    found("stands in the directory")?;
    drop(stands);
    // In a mount namespace of its own, and with nothing in its command line.
    let script = "mount -t tmpfs none \"$FOLDER\" && exec sleep 60";
    let mounted = Command::new("unshare").args(["-m", "sh", "-c", script]).env("FOLDER", &folder).spawn()?;
    let mounted = Stranger(mounted);
    found("has a mount")?;
    drop(mounted);
    let socket = std::os::unix::net::UnixListener::bind(folder.join("socket"))?;
    found("socket ")?;
    drop(socket);
    fs::write(folder.join("logs/worker-0.pid"), "1")?;
    found("file ")?;
    fs::remove_file(folder.join("logs/worker-0.pid"))?;
    cluster.stop()
}
