//! `admin list`, `describe`, `rollback`, `download` and `delete`: what the registry has of handlers.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, ensure};
use openlambda_api::HandlerName;
use openlambda_config::{ClusterDir, Process};
use openlambda_store::{Record, Revision};

use crate::args::{Delete, Describe, Download, List, RevisionName, Rollback};
use crate::kubernetes::{self, Place};
use crate::status;
use crate::store::{self, Opened, Target};
use crate::table::table;

pub fn list(args: &List, out: &mut dyn Write) -> Result<()> {
    let opened = store::open(&args.registry)?;
    let handlers = opened.wait(opened.store.handlers())?;
    let mut rows = vec![["HANDLER", "REVISION", "DIGEST", "BYTES", "UPLOADED"].map(str::to_owned)];
    for listed in &handlers {
        let record = opened.wait(opened.store.record(&listed.name))?;
        // It may have been deleted since.
        let Some(serving) = record.as_ref().and_then(Record::serving) else { continue };
        rows.push([
            listed.name.as_str().to_owned(),
            serving.number.to_string(),
            serving.digest.short().to_owned(),
            serving.bytes.to_string(),
            serving.uploaded.clone(),
        ]);
    }
    // A reader that closes the pipe has seen what it wanted.
    let _ = table(&rows, out);
    Ok(())
}

pub fn describe(args: &Describe, out: &mut dyn Write) -> Result<()> {
    let opened = store::open(&args.registry)?;
    let handler = &args.handler.handler;
    let record = record(&opened, handler)?;
    let mut rows = vec![["", "REVISION", "DIGEST", "BYTES", "UPLOADED"].map(str::to_owned)];
    for revision in record.revisions.iter().rev() {
        let mark = if revision.number == record.active { "*" } else { "" };
        rows.push([
            mark.to_owned(),
            revision.number.to_string(),
            revision.digest.to_string(),
            revision.bytes.to_string(),
            revision.uploaded.clone(),
        ]);
    }
    let _ = writeln!(out, "{} in {}", handler.as_str(), opened.store.place());
    let _ = table(&rows, out);
    // On Kubernetes the Handler's status says it.
    let Target::Local(cluster) = &opened.target else { return Ok(()) };
    for process in cluster.started()? {
        if let Some(line) = at_worker(cluster, process, handler) {
            let _ = writeln!(out, "{process}: {line}");
        }
    }
    Ok(())
}

/// What a worker serves of a handler, and what keeps it from the newest.
fn at_worker(cluster: &ClusterDir, process: Process, handler: &HandlerName) -> Option<String> {
    let state = status::worker_state(cluster, process)?;
    let serving = &state["registry"]["serving"][handler.as_str()];
    let of_it = |one: &&serde_json::Value| one["name"] == handler.as_str();
    let this = state["handlers"].as_array().and_then(|all| all.iter().find(of_it));
    let trouble = this.and_then(|this| this["trouble"].as_str());
    let serves = match serving["revision"].as_u64() {
        Some(number) => format!("serves revision {number}"),
        None => "has not been asked for it yet".to_owned(),
    };
    Some(trouble.map_or(serves.clone(), |trouble| format!("{serves}; {trouble}")))
}

fn record(opened: &Opened, handler: &HandlerName) -> Result<Record> {
    let record = opened.wait(opened.store.record(handler))?;
    record.ok_or_else(|| {
        anyhow!("the registry has no handler \"{}\": admin list shows those that it has", handler.as_str())
    })
}

pub fn roll_back(args: &Rollback, out: &mut dyn Write) -> Result<ExitCode> {
    let handler = &args.handler.handler;
    let (number, name) = match &args.revision {
        Some(RevisionName::Number(number)) => (Some(*number), None),
        Some(RevisionName::Name(name)) => (None, Some(name.as_str())),
        None => (None, None),
    };
    match Place::of(&args.registry.cluster.cluster)? {
        Some(place) if number.is_none() => {
            if let Some(code) = kubernetes::roll_back(place, handler, name, args.no_wait, out)? {
                return Ok(code);
            }
        }
        Some(_) => {}
        None => ensure!(name.is_none(), "--revision: revisions of a cluster on one machine are numbers"),
    }
    let opened = store::open(&args.registry)?;
    let revision = opened.wait(opened.store.roll_back(handler, number))?;
    let _ = writeln!(out, "{}: revision {} again, {}", handler.as_str(), revision.number, revision.digest);
    opened.serve(handler, &revision, args.no_wait, out)
}

pub fn delete(args: &Delete, out: &mut dyn Write) -> Result<ExitCode> {
    let opened = store::open(&args.registry)?;
    let handler = &args.handler.handler;
    if !opened.wait(opened.store.delete(handler))? {
        anyhow::bail!(
            "the registry has no handler \"{}\": admin list shows those that it has",
            handler.as_str()
        );
    }
    let _ = writeln!(out, "{}: deleted", handler.as_str());
    opened.end(handler, args.no_wait, out)
}

pub fn download(args: &Download, out: &mut dyn Write) -> Result<()> {
    let opened = store::open(&args.registry)?;
    let handler = &args.handler.handler;
    let record = record(&opened, handler)?;
    let number = args.revision.unwrap_or(record.active);
    let revision = record.find(number).with_context(|| {
        let kept: Vec<_> = record.revisions.iter().map(|one| one.number.to_string()).collect();
        format!("there is no revision {number} of \"{}\": kept are {}", handler.as_str(), kept.join(", "))
    })?;
    let to = args.file.clone().unwrap_or_else(|| PathBuf::from(format!("{}.tar.gz", handler.as_str())));
    if to == Path::new("-") {
        let work = tempfile::tempdir().context("no room for temporary files")?;
        let file = work.path().join("bundle");
        fetch(&opened, revision, &file)?;
        io::copy(&mut fs::File::open(&file)?, out).context("cannot write to standard output")?;
        return Ok(());
    }
    // Beside it first: what is there already stays until the new one is whole.
    let mut beside = to.clone().into_os_string();
    beside.push(format!(".{}.part", std::process::id()));
    let beside = PathBuf::from(beside);
    fetch(&opened, revision, &beside)?;
    fs::rename(&beside, &to).with_context(|| format!("cannot write {}", to.display()))?;
    let _ =
        writeln!(out, "{}: revision {number}, {}, {} bytes", to.display(), revision.digest, revision.bytes);
    Ok(())
}

fn fetch(opened: &Opened, revision: &Revision, to: &Path) -> Result<()> {
    opened.wait(opened.store.fetch(&revision.key, &revision.digest, to))?;
    Ok(())
}
