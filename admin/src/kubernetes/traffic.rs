//! `admin rollback` of a `Handler` to a revision that its operator keeps: `spec.traffic` points to it, and nothing else
//! is changed.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use kube::Api;
use kube::api::{Patch, PatchParams};
use openlambda_api::{Handler, HandlerName, HandlerStatus};
use serde_json::json;

use super::{Connection, Place, bundles, explained, wait};

/// Has a revision get all calls: the one of this name, or the one before that which serves. None if the handler's code is
/// a bundle and no name is given: then the registry knows what was before.
pub fn roll_back(
    place: Place,
    handler: &HandlerName,
    name: Option<&str>,
    no_wait: bool,
    out: &mut dyn Write,
) -> Result<Option<ExitCode>> {
    wait(async {
        let connection = Connection::open(place).await?;
        let api: Api<Handler> = connection.api();
        let there = api.get_opt(handler.as_str()).await.map_err(|error| explained(&error))?;
        let there = there.with_context(|| format!("there is no Handler {}", handler.as_str()))?;
        if name.is_none() && there.spec.source.bundle.is_some() {
            return Ok(None);
        }
        let to = target(handler, &there.status.unwrap_or_default(), name)?;
        let patch = json!({"spec": {"traffic": [{"revision": to, "percent": 100}]}});
        let written = api.patch(handler.as_str(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        let generation = written.map_err(|error| explained(&error))?.metadata.generation.unwrap_or_default();
        let _ = writeln!(out, "{}: {to} again; spec.traffic says so until it is removed", handler.as_str());
        let code = if no_wait {
            ExitCode::SUCCESS
        } else {
            bundles::await_status(&connection, handler, generation, out).await?
        };
        Ok(Some(code))
    })
}

/// The name of the revision that is meant.
fn target(handler: &HandlerName, status: &HandlerStatus, name: Option<&str>) -> Result<String> {
    let names = || status.revisions.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
    let active = status.revisions.iter().find(|one| Some(&one.name) == status.active_revision.as_ref());
    let found = match (name, active) {
        (Some(name), _) => status.revisions.iter().find(|one| one.name == name),
        (None, Some(active)) => {
            let older = status.revisions.iter().filter(|one| one.generation < active.generation);
            older.max_by_key(|one| one.generation)
        }
        (None, None) => None,
    };
    match (found, name) {
        (Some(found), _) => Ok(found.name.clone()),
        (None, Some(name)) => bail!("{} has no revision {name}; it has {}", handler.as_str(), names()),
        (None, None) => {
            bail!("{} has no revision before the one that serves; it has {}", handler.as_str(), names())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_before_or_the_one_that_is_named() {
        let row = |generation: i64| {
            json!({
                "name": format!("h-{generation}"), "digest": "d", "generation": generation,
                "createdAt": "2026-01-01T00:00:00Z", "percent": 0,
            })
        };
        let status = json!({"activeRevision": "h-4", "revisions": [row(7), row(4), row(3), row(1)]});
        let status: HandlerStatus = serde_json::from_value(status).unwrap();
        let handler = HandlerName::parse("h").unwrap();
        let to = |name: Option<&str>| target(&handler, &status, name).map_err(|error| error.to_string());
        assert_eq!(to(None).as_deref(), Ok("h-3"));
        assert_eq!(to(Some("h-7")).as_deref(), Ok("h-7"));
        assert_eq!(to(Some("h-2")).unwrap_err(), "h has no revision h-2; it has h-7, h-4, h-3, h-1");
        let first = HandlerStatus { active_revision: Some("h-1".into()), ..status.clone() };
        let none = target(&handler, &first, None).unwrap_err().to_string();
        assert_eq!(none, "h has no revision before the one that serves; it has h-7, h-4, h-3, h-1");
    }
}
