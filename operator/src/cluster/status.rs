//! Last step: the status, a pure function of the cluster, its handlers and what the API server took; written only if
//! it differs.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::{Api, ResourceExt as _};
use openlambda_api::conditions::{self, ConditionReason as Reason, ConditionType as Type, Verdict};
use openlambda_api::handler::Counts;
use openlambda_api::{LambdaCluster, LambdaClusterStatus, labels};
use serde_json::json;

use super::children::{Children, Live};
use super::dereference::Found;
use super::validate::Problem;
use crate::context::{Context, Seen};

#[cfg(test)]
mod tests;

/// How the steps before ended.
pub enum Outcome {
    /// The children are as wanted.
    Applied(Box<Children<Live>>),
    /// The spec cannot be built; the children are what they were.
    Invalid(Vec<Problem>),
    /// The API server refused a child.
    Refused(String),
}

/// Computes and, if it differs, writes.
pub async fn update(
    context: &Context,
    cluster: &LambdaCluster,
    found: &Found,
    outcome: &Outcome,
) -> Result<(), kube::Error> {
    let (uid, version) = (cluster.uid().unwrap_or_default(), cluster.resource_version().unwrap_or_default());
    let old = context.written.lock().current(&uid, &version, cluster.status.as_ref()).unwrap_or_default();
    let live = match outcome {
        Outcome::Applied(live) => live,
        Outcome::Invalid(_) | Outcome::Refused(_) => &found.children,
    };
    let new = compute(cluster, &old, live, found.seen.as_ref(), outcome, &Time(Timestamp::now()));
    if new == old {
        return Ok(());
    }
    context.throttle.turn().await;
    let result = write(context, &cluster.metadata, &new).await;
    context.metrics.wrote("cluster status", result.is_ok());
    result?;
    announce(context, cluster, &old, &new);
    context.written.lock().wrote(&uid, &version, new);
    Ok(())
}

/// The object cannot be read as a `LambdaCluster`: says so in its status, the same each time.
pub async fn unreadable(context: &Context, meta: &ObjectMeta, error: &str) -> Result<(), kube::Error> {
    let since = meta.creation_timestamp.clone().unwrap_or(Time(Timestamp::UNIX_EPOCH));
    let verdict = Verdict::no(Type::Ready, Reason::Unreadable, format!("this is no LambdaCluster: {error}"));
    let status = LambdaClusterStatus {
        conditions: conditions::next(&[], &[verdict], meta.generation, &since),
        ..LambdaClusterStatus::default()
    };
    write(context, meta, &status).await
}

async fn write(
    context: &Context,
    meta: &ObjectMeta,
    status: &LambdaClusterStatus,
) -> Result<(), kube::Error> {
    let namespace = meta.namespace.clone().unwrap_or_default();
    let name = meta.name.clone().unwrap_or_default();
    // Of the answer only the metadata is read: the object may be unreadable.
    let api: Api<PartialObjectMeta<LambdaCluster>> = Api::namespaced(context.client.clone(), &namespace);
    let body = json!({
        "apiVersion": format!("{}/{}", labels::GROUP, labels::VERSION),
        "kind": "LambdaCluster",
        "metadata": {"name": name, "namespace": namespace},
        "status": status,
    });
    let parameters = PatchParams::apply(labels::MANAGER_CLUSTER_STATUS).force();
    match api.patch_status(&name, &parameters, &Patch::Apply(&body)).await {
        Ok(_) => Ok(()),
        // It was deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

fn announce(
    context: &Context,
    cluster: &LambdaCluster,
    old: &LambdaClusterStatus,
    new: &LambdaClusterStatus,
) {
    let (before, after) =
        (conditions::find(&old.conditions, Type::Ready), conditions::find(&new.conditions, Type::Ready));
    let Some(after) = after else { return };
    if before.is_some_and(|before| before.status == after.status && before.reason == after.reason) {
        return;
    }
    if before.is_some() || after.status == "True" {
        context.events.ready(cluster, after.status == "True", &after.reason, &after.message);
    }
}

/// The status that follows.
fn compute(
    cluster: &LambdaCluster,
    old: &LambdaClusterStatus,
    live: &Children<Live>,
    seen: Option<&Seen>,
    outcome: &Outcome,
    now: &Time,
) -> LambdaClusterStatus {
    let agents = agent_counts(live.agents());
    let balancer = balancer_counts(live.lard());
    let mut verdicts = vec![agents_ready(live.agents(), &agents), balancer_ready(live.lard(), &balancer)];
    verdicts.extend(registry_ready(cluster, old, seen));
    verdicts.extend(ingress_ready(cluster, live.ingresses.first()));
    let verdicts = roll_up(outcome, verdicts);
    LambdaClusterStatus {
        observed_generation: cluster.metadata.generation,
        url: Some(url(cluster, live)),
        agents: Some(agents),
        balancer: Some(balancer),
        handlers: seen.map(|seen| seen.handlers.clone()).or_else(|| old.handlers.clone()),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        conditions: conditions::next(&old.conditions, &verdicts, cluster.metadata.generation, now),
    }
}

/// Ready first, then its parts, then kstatus.
fn roll_up(outcome: &Outcome, parts: Vec<Verdict>) -> Vec<Verdict> {
    let refused = match outcome {
        Outcome::Applied(_) => None,
        Outcome::Invalid(problems) => {
            let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Some((Reason::InvalidSpec, texts.join("; "), true))
        }
        Outcome::Refused(error) => Some((Reason::ApplyFailed, error.clone(), false)),
    };
    let failing = parts.iter().find(|part| part.type_ != Type::IngressReady && !part.holds());
    let ready = match (&refused, failing) {
        (Some((reason, message, _)), _) => Verdict::no(Type::Ready, *reason, message),
        (None, Some(part)) => Verdict::no(Type::Ready, part.reason, &part.message),
        (None, None) => Verdict::yes(Type::Ready, Reason::AsExpected, "agents and balancer are ready"),
    };
    let stalled = refused.as_ref().is_some_and(|(.., for_good)| *for_good);
    // kstatus' conditions are there only while they hold.
    let kstatus = match (stalled, ready.holds()) {
        (true, _) => Some(Type::Stalled),
        (false, false) => Some(Type::Reconciling),
        (false, true) => None,
    };
    let tail = kstatus.map(|type_| Verdict::yes(type_, ready.reason, &ready.message));
    [vec![ready], parts, tail.into_iter().collect()].concat()
}

fn agent_counts(set: Option<&DaemonSet>) -> Counts {
    let status = set.and_then(|set| set.status.as_ref());
    status.map_or_else(
        || Counts::new(0, 0),
        |status| Counts::new(status.number_ready, status.desired_number_scheduled),
    )
}

fn balancer_counts(deployment: Option<&Deployment>) -> Counts {
    let desired = deployment.and_then(|d| d.spec.as_ref()?.replicas).unwrap_or_default();
    let ready = deployment.and_then(|d| d.status.as_ref()?.ready_replicas).unwrap_or_default();
    Counts::new(ready.min(desired), desired)
}

fn agents_ready(set: Option<&DaemonSet>, counts: &Counts) -> Verdict {
    let current = set.is_some_and(|set| {
        set.status.as_ref().is_some_and(|status| {
            status.observed_generation == set.metadata.generation
                && status.updated_number_scheduled.unwrap_or_default() == status.desired_number_scheduled
        })
    });
    let what = format!("{} agents are ready", counts.summary.replace('/', " of "));
    if !current {
        return Verdict::no(
            Type::AgentsReady,
            Reason::InProgress,
            format!("agents are being updated; {what}"),
        );
    }
    if counts.desired == 0 {
        let message = "no node is chosen: look at spec.agent.nodeSelector and tolerations";
        return Verdict::no(Type::AgentsReady, Reason::NoAgents, message);
    }
    if counts.ready < counts.desired {
        return Verdict::no(Type::AgentsReady, Reason::Unavailable, what);
    }
    Verdict::yes(Type::AgentsReady, Reason::AsExpected, what)
}

fn balancer_ready(deployment: Option<&Deployment>, counts: &Counts) -> Verdict {
    let current = deployment.is_some_and(|deployment| {
        deployment.status.as_ref().is_some_and(|status| {
            status.observed_generation == deployment.metadata.generation
                && status.updated_replicas.unwrap_or_default() >= counts.desired
        })
    });
    let what = format!("{} replicas of lard are ready", counts.summary.replace('/', " of "));
    if !current {
        return Verdict::no(
            Type::BalancerReady,
            Reason::InProgress,
            format!("lard is being updated; {what}"),
        );
    }
    if counts.ready < counts.desired {
        return Verdict::no(Type::BalancerReady, Reason::Unavailable, what);
    }
    Verdict::yes(Type::BalancerReady, Reason::AsExpected, what)
}

/// What agents say of it; before the first look, what was said before.
fn registry_ready(
    cluster: &LambdaCluster,
    old: &LambdaClusterStatus,
    seen: Option<&Seen>,
) -> Option<Verdict> {
    cluster.spec.registry.as_ref()?;
    if let Some(verdict) = seen.and_then(|seen| seen.registry.clone()) {
        return Some(verdict);
    }
    let before = conditions::find(&old.conditions, Type::RegistryReady);
    let pending = || Verdict::unknown(Type::RegistryReady, Reason::Pending, "no agent has asked it yet");
    Some(before.and_then(Verdict::of).unwrap_or_else(pending))
}

/// Says whether the Ingress has an address. Not every controller publishes one, so Ready does not wait for it.
fn ingress_ready(cluster: &LambdaCluster, ingress: Option<&Ingress>) -> Option<Verdict> {
    cluster.spec.ingress.as_ref()?;
    Some(match ingress.and_then(ingress_address) {
        Some(address) => Verdict::yes(Type::IngressReady, Reason::AsExpected, format!("at {address}")),
        None => Verdict::unknown(
            Type::IngressReady,
            Reason::NoAddress,
            "the Ingress controller has published no address; some never do",
        ),
    })
}

fn ingress_address(ingress: &Ingress) -> Option<String> {
    let first = ingress.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?;
    first.hostname.clone().or_else(|| first.ip.clone())
}

/// Where it answers: the Ingress host if there is one, else the Service.
fn url(cluster: &LambdaCluster, live: &Children<Live>) -> String {
    if let Some(ingress) = &cluster.spec.ingress {
        let scheme = if ingress.tls.is_some() { "https" } else { "http" };
        let address = ingress.host.clone().filter(|host| !host.starts_with('*'));
        if let Some(host) = address.or_else(|| live.ingresses.first().and_then(ingress_address)) {
            return format!("{scheme}://{host}");
        }
    }
    let service = live.services.iter().find(|service| service.name_any() == cluster.name_any());
    let host = service
        .and_then(service_address)
        .unwrap_or_else(|| format!("{}.{}.svc", cluster.name_any(), cluster.namespace().unwrap_or_default()));
    match cluster.spec.load_balancer.service.port {
        80 => format!("http://{host}"),
        port => format!("http://{host}:{port}"),
    }
}

/// The address that a cloud gave to a Service of type LoadBalancer.
fn service_address(service: &Service) -> Option<String> {
    let first = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?.first()?;
    first.hostname.clone().or_else(|| first.ip.clone())
}
