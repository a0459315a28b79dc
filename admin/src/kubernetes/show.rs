//! `admin status` of a `LambdaCluster`: its conditions, its agents and its handlers.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kube::api::ListParams;
use openlambda_api::conditions::{self, ConditionType};
use openlambda_api::labels::{self, Component};
use openlambda_api::{Handler, LambdaClusterStatus};

use super::{Connection, Place, explained, wait};
use crate::table::table;

/// Shows it; code 1 unless it and all its handlers are ready.
pub fn status(place: Place, out: &mut dyn Write) -> Result<ExitCode> {
    wait(async {
        let connection = Connection::open(place).await?;
        let cluster = connection.cluster().await?;
        let name = &connection.place.name;
        let Some(status) = cluster.status else {
            let _ = writeln!(
                out,
                "{name}: nobody looks after it: is the chart openlambda installed for this namespace?"
            );
            return Ok(ExitCode::FAILURE);
        };
        let _ = writeln!(out, "{name}: {}", summary(&status));
        let _ = table(&conditions_of(&status.conditions), out);
        let selector =
            format!("{}={name},{}={}", labels::CLUSTER, labels::COMPONENT, Component::Agent.as_str());
        let pods = connection.api::<Pod>().list(&ListParams::default().labels(&selector)).await;
        let _ = writeln!(out);
        let _ = table(&agents(&pods.map_err(|error| explained(&error))?.items), out);
        let handlers = connection.api::<Handler>().list(&ListParams::default()).await;
        let handlers = handlers.map_err(|error| explained(&error))?.items;
        // One that names none is whose the operator says: this one's, if it is served under its URL.
        let url = status.url.clone().unwrap_or_default();
        let is_ours = |handler: &&Handler| match &handler.spec.cluster {
            Some(cluster) => cluster == name,
            None => handler
                .status
                .as_ref()
                .and_then(|status| status.url.as_ref())
                .is_none_or(|at| at.starts_with(&url)),
        };
        let ours: Vec<&Handler> = handlers.iter().filter(is_ours).collect();
        if !ours.is_empty() {
            let _ = writeln!(out);
            let _ = table(&handlers_of(&ours), out);
        }
        let well = conditions::is_true(&status.conditions, ConditionType::Ready)
            && ours.iter().all(|one| is_ready(one));
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

fn summary(status: &LambdaClusterStatus) -> String {
    let counts = |counts: &Option<openlambda_api::handler::Counts>| {
        counts.as_ref().map_or_else(|| "0/0".to_owned(), |counts| counts.summary.clone())
    };
    format!(
        "{} agents, {} replicas of lard, at {}, version {}",
        counts(&status.agents),
        counts(&status.balancer),
        status.url.as_deref().unwrap_or("no address"),
        status.version.as_deref().unwrap_or("unknown")
    )
}

fn conditions_of(conditions: &[Condition]) -> Vec<[String; 4]> {
    let mut rows = vec![["CONDITION", "STATUS", "REASON", "MESSAGE"].map(str::to_owned)];
    rows.extend(conditions.iter().map(|one| {
        // A service may answer in several lines.
        let message = one.message.split_whitespace().collect::<Vec<_>>().join(" ");
        [one.type_.clone(), one.status.clone(), one.reason.clone(), message]
    }));
    rows
}

fn agents(pods: &[Pod]) -> Vec<[String; 4]> {
    let mut rows = vec![["AGENT", "NODE", "READY", "RESTARTS"].map(str::to_owned)];
    rows.extend(pods.iter().map(|pod| {
        let status = pod.status.clone().unwrap_or_default();
        let is_ready = status
            .conditions
            .unwrap_or_default()
            .iter()
            .any(|one| one.type_ == "Ready" && one.status == "True");
        let restarts: i32 =
            status.container_statuses.unwrap_or_default().iter().map(|one| one.restart_count).sum();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        [pod.name_any(), node, is_ready.to_string(), restarts.to_string()]
    }));
    rows
}

fn is_ready(handler: &Handler) -> bool {
    handler
        .status
        .as_ref()
        .is_some_and(|status| conditions::is_true(&status.conditions, ConditionType::Ready))
}

fn handlers_of(handlers: &[&Handler]) -> Vec<[String; 4]> {
    let mut rows = vec![["HANDLER", "READY", "AGENTS", "WHY"].map(str::to_owned)];
    rows.extend(handlers.iter().map(|handler| {
        let status = handler.status.clone().unwrap_or_default();
        let ready = conditions::find(&status.conditions, ConditionType::Ready);
        let text = ready.map_or("Unknown", |ready| ready.status.as_str()).to_owned();
        let why = ready.filter(|ready| ready.status != "True");
        let why = why.map(|why| format!("{}: {}", why.reason, why.message)).unwrap_or_default();
        let why = why.lines().next().unwrap_or_default().to_owned();
        let agents = status.agents.map(|agents| agents.summary).unwrap_or_default();
        [handler.name_any(), text, agents, why]
    }));
    rows
}
