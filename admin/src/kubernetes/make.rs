//! `admin new`, `setconf` and `kill` of a `LambdaCluster`: the object is made, changed and deleted; the rest is the operator's.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use openlambda_api::labels::children;
use openlambda_api::{Handler, LambdaCluster};
use serde_json::{Value, json};

use super::{Connection, MANAGER, Place, SCHEME, explained, wait};

/// An operator that runs says something within this.
const OPERATOR_WITHIN: Duration = Duration::from_secs(10);
/// Agents and balancers end their calls first.
const GONE_WITHIN: Duration = Duration::from_secs(600);
/// Between two looks at an object.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Makes it, with the defaults.
pub fn new(place: Place, base: &str, out: &mut dyn Write) -> Result<()> {
    ensure!(base == "host", "--base {base}: on Kubernetes sandboxes see the root of the agent's image");
    wait(async {
        let connection = Connection::open(place).await?;
        let Place { name, namespace, .. } = &connection.place;
        let api = connection.api::<LambdaCluster>();
        let object: LambdaCluster = serde_json::from_value(json!({
            "apiVersion": "openlambda.dev/v1alpha1", "kind": "LambdaCluster", "metadata": {"name": name}, "spec": {},
        }))?;
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        match api.create(&parameters, &object).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => bail!(
                "there is a LambdaCluster {name} in the namespace {namespace} already: choose another name, or remove \
                 it first (admin kill --cluster {SCHEME}{namespace}/{name})"
            ),
            Err(error) => return Err(without_namespace(&connection, &error).await),
        }
        let _ = writeln!(out, "made LambdaCluster {name} in the namespace {namespace}");
        if !is_looked_after(&api, name).await? {
            let _ = writeln!(
                out,
                "nobody looks after it: is the operator installed for this namespace (the chart openlambda, its \
                 watchNamespace)?"
            );
        }
        let _ = writeln!(out, "next: admin workers --cluster {SCHEME}{namespace}/{name}");
        Ok(())
    })
}

/// What is wrong, if it is not the namespace that is missing.
async fn without_namespace(connection: &Connection, error: &kube::Error) -> anyhow::Error {
    let namespace = &connection.place.namespace;
    let all: Api<Namespace> = Api::all(connection.client.clone());
    // Who may not look is told what the API server said.
    match all.get_opt(namespace).await {
        Ok(None) => anyhow::anyhow!(
            "there is no namespace {namespace}: kubectl create namespace {namespace} (agents are privileged: where Pod \
             Security is enforced, it needs the level privileged)"
        ),
        _ => explained(error),
    }
}

/// Whether an operator has written a status.
async fn is_looked_after(api: &Api<LambdaCluster>, name: &str) -> Result<bool> {
    let until = Instant::now() + OPERATOR_WITHIN;
    loop {
        let now = api.get(name).await.map_err(|error| explained(&error))?;
        if now.status.is_some_and(|status| status.observed_generation.is_some()) {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Lays JSON over its spec.
pub fn set(place: Place, json: &str, out: &mut dyn Write) -> Result<()> {
    let patch: Value = serde_json::from_str(json).with_context(|| {
        format!(
            "{json} is no JSON: quote it for the shell, as in '{{\"loadBalancer\": {{\"replicas\": 3}}}}'"
        )
    })?;
    let keys: Vec<String> = patch
        .as_object()
        .with_context(|| format!("{patch} is no JSON object: write '{{\"key\": value}}'"))?
        .keys()
        .cloned()
        .collect();
    ensure!(!keys.is_empty(), "the JSON object is empty: nothing to set");
    wait(async {
        let connection = Connection::open(place).await?;
        connection.cluster().await?;
        let name = &connection.place.name;
        patch_spec(&connection, &patch).await.context("not changed")?;
        let _ = writeln!(out, "set {} in spec of the LambdaCluster {name}", keys.join(", "));
        Ok(())
    })
}

/// Merges into the spec; a field that there is not is an error. Gives the generation.
pub async fn patch_spec(connection: &Connection, patch: &Value) -> Result<i64> {
    let parameters =
        PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }.validation_strict();
    let patch = Patch::Merge(json!({"spec": patch}));
    let api = connection.api::<LambdaCluster>();
    let written = api.patch(&connection.place.name, &parameters, &patch).await;
    Ok(written.map_err(|error| explained(&error))?.metadata.generation.unwrap_or_default())
}

/// Deletes it and waits until all that it consisted of is gone.
pub fn end(place: Place, out: &mut dyn Write) -> Result<()> {
    wait(async {
        let connection = Connection::open(place).await?;
        let cluster = connection.cluster().await?;
        let Place { name, namespace, .. } = &connection.place;
        let api = connection.api::<LambdaCluster>();
        api.delete(name, &DeleteParams::foreground()).await.map_err(|error| explained(&error))?;
        let until = Instant::now() + GONE_WITHIN;
        while api
            .get_metadata_opt(name)
            .await
            .map_err(|error| explained(&error))?
            .is_some_and(|now| now.uid() == cluster.uid())
        {
            ensure!(
                Instant::now() < until,
                "the LambdaCluster {name} is still there after {} s: kubectl get pods --namespace {namespace}",
                GONE_WITHIN.as_secs()
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let _ = writeln!(out, "deleted LambdaCluster {name} of the namespace {namespace}");
        left(&connection, &cluster, out).await
    })
}

/// Names what stays.
async fn left(connection: &Connection, cluster: &LambdaCluster, out: &mut dyn Write) -> Result<()> {
    let name = &connection.place.name;
    let handlers = connection.api::<Handler>().list(&ListParams::default()).await;
    let handlers = handlers.map_err(|error| explained(&error))?.items;
    let ours = handlers.iter().filter(|handler| handler.spec.cluster.as_ref().is_none_or(|of| of == name));
    let names: Vec<_> = ours.map(kube::ResourceExt::name_any).collect();
    if !names.is_empty() {
        let _ = writeln!(out, "Handlers that stay, and may be served by nobody now: {}", names.join(", "));
    }
    if cluster.spec.registry.as_ref().is_some_and(|registry| registry.embedded.is_some()) {
        let claim = format!("data-{}-0", children::registry(name));
        let _ = writeln!(out, "what was uploaded stays in the PersistentVolumeClaim {claim}");
    }
    Ok(())
}
