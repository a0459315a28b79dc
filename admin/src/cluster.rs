//! Opening a cluster directory: it must be one, and two commands do not work on it at once.

use std::fs::{self, File};
use std::io::{self, Write};

use anyhow::{Context, Result, ensure};
use openlambda_config::ClusterDir;

use crate::args::ClusterArg;
use crate::kubernetes;

/// The directory that a command names, whether or not it exists.
pub fn named(arg: &ClusterArg) -> Result<ClusterDir> {
    ensure!(
        !arg.cluster.to_string_lossy().starts_with(kubernetes::SCHEME),
        "{} is on Kubernetes, where this is done with kubectl: admin has new, workers, setconf, status, kill, upload, list, \
         describe, rollback, download and delete there",
        arg.cluster.display()
    );
    ClusterDir::new(&arg.cluster).with_context(|| format!("{} is no usable path", arg.cluster.display()))
}

/// An existing cluster.
pub fn open(arg: &ClusterArg) -> Result<ClusterDir> {
    let cluster = named(arg)?;
    let shown = cluster.root().display();
    // A directory of mode 0700 hides its files from others: that is not the same as having none.
    let seen = fs::metadata(cluster.template());
    if let Err(error) = &seen {
        ensure!(
            error.kind() != io::ErrorKind::PermissionDenied,
            "{shown} belongs to another user: call admin as that user, or with sudo"
        );
    }
    ensure!(
        cluster.exists(),
        "{shown} is no cluster, because it has no config/template.json: make one with admin new --cluster {shown}"
    );
    Ok(cluster)
}

/// Keeps other commands off the cluster until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

/// Waits for other commands on this cluster to end. Only to be held while files or processes change.
pub fn lock(cluster: &ClusterDir) -> Result<Lock> {
    let context = || format!("cannot lock {}", cluster.root().display());
    let directory = File::open(cluster.root()).with_context(context)?;
    if directory.try_lock().is_err() {
        let _ = writeln!(io::stderr(), "admin: waiting for another admin command on this cluster to end");
        directory.lock().with_context(context)?;
    }
    Ok(Lock { _directory: directory })
}
