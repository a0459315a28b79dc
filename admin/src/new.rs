//! `admin new`: the directory of a cluster.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use openlambda_config::{BalancerConfig, ClusterDir, Process, WorkerConfig, file};

use crate::args::New;
use crate::cluster;

pub fn run(args: &New, out: &mut dyn Write) -> Result<()> {
    let cluster = cluster::named(&args.cluster)?;
    let base = base(&args.base)?;
    require_empty(cluster.root())?;
    make_layout(&cluster).with_context(|| format!("cannot make {}", cluster.root().display()))?;
    let template = WorkerConfig::template(&cluster, &base);
    WorkerConfig::check_template(&template, &cluster.template())?;
    file::write(&cluster.config(Process::Balancer), &BalancerConfig::template())?;
    // Last, because it is what makes the directory a cluster.
    file::write(&cluster.template(), &template)?;
    // A reader that closes the pipe does not undo what was made.
    let _ = describe(&cluster, &args.cluster.cluster, &base, out);
    Ok(())
}

/// The base root as it stands in the template: `host`, or the absolute path of a directory that looks like a root.
fn base(text: &str) -> Result<String> {
    if text == "host" {
        return Ok(text.to_owned());
    }
    let path = fs::canonicalize(text)
        .with_context(|| format!("--base {text}: give host, or the directory of an unpacked root"))?;
    let looks_like_root = path.join("usr").is_dir() || path.join("bin").is_dir();
    ensure!(
        looks_like_root,
        "--base {}: has neither usr nor bin, so it is no unpacked root (for this machine's own system, say host)",
        path.display()
    );
    path.into_os_string().into_string().map_err(|path| anyhow::anyhow!("--base {path:?}: is not UTF-8"))
}

fn require_empty(root: &Path) -> Result<()> {
    let shown = root.display();
    match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            anyhow::bail!(
                "{shown} (or a part of that path) is a file, not a directory: choose another --cluster"
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {shown}")),
        Ok(mut entries) => {
            ensure!(
                entries.next().is_none(),
                "{shown} exists and is not empty: choose another --cluster, or remove it first (after admin kill)"
            );
            Ok(())
        }
    }
}

/// The root is for its owner only, as in the original; what is below needs no more than that.
fn make_layout(cluster: &ClusterDir) -> io::Result<()> {
    fs::create_dir_all(cluster.root())?;
    fs::set_permissions(cluster.root(), Permissions::from_mode(0o700))?;
    ClusterDir::LAYOUT.iter().try_for_each(|name| fs::create_dir(cluster.root().join(name)))
}

fn describe(cluster: &ClusterDir, typed: &Path, base: &str, out: &mut dyn Write) -> io::Result<()> {
    let typed = typed.display();
    let base = if base == "host" { "this machine's own system, read-only" } else { base };
    writeln!(out, "made cluster {}", cluster.root().display())?;
    writeln!(out, "  config/template.json        configuration of workers: change it with admin setconf")?;
    writeln!(out, "  config/load_balancer.json   configuration of the load balancer")?;
    writeln!(out, "  registry/                   handlers: registry/<handler>/lambda_func.py")?;
    writeln!(out, "  packages/ workers/ logs/    filled by the workers")?;
    writeln!(out, "sandboxes see {base}")?;
    writeln!(out, "\nnext:")?;
    writeln!(out, "  cp -r quickstart/handlers/hello {typed}/registry/hello")?;
    writeln!(out, "  admin workers --cluster {typed}")?;
    writeln!(out, "  curl -X POST localhost:8080/runLambda/hello -d '{{\"name\": \"Alice\"}}'")?;
    writeln!(out, "and with the load balancer:")?;
    writeln!(out, "  admin load-balancer --cluster {typed}")?;
    writeln!(out, "  curl -X POST localhost:7079/runLambda/hello -d '{{\"name\": \"Alice\"}}'")
}
