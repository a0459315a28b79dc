//! Makes, marks and gives up the objects of revisions that are kept.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Resource as _, ResourceExt as _};
use openlambda_api::labels::{self, MANAGED_BY, MANAGED_BY_OPERATOR};
use openlambda_api::{Handler, HandlerSpec, revision};
use serde_json::json;

use super::revisions::{Due, Kept};
use super::view::HandlerView;
use crate::context::Context;
use crate::failure;

/// So many at a time.
const AT_ONCE: usize = 8;
/// Handlers in one round; and as long as others wait for their status, which people wait for.
const PER_ROUND: [usize; 2] = [64, 8];
/// An API server that does not answer within this is tried again in the next round.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What is to be done about a handler's revisions.
pub struct Work {
    /// The handler.
    pub handler: HandlerView,
    /// A generation that is to be kept.
    pub due: Option<Due>,
    /// Revisions that are to be given up.
    pub excess: Vec<String>,
    /// Those that are kept.
    pub kept: Vec<Kept>,
}

/// What was done about a handler's revisions.
#[derive(Default)]
pub struct Done {
    /// The handler's uid.
    pub uid: String,
    /// The generation is this one now.
    pub kept: Option<Kept>,
    /// The generation is no revision.
    pub none: Option<i64>,
    /// These are gone.
    pub gave_up: Vec<String>,
    /// Whether something is still to be done.
    pub is_open: bool,
}

/// Does all of it, as far as one round goes.
pub async fn all(context: &Context, mut work: Vec<Work>, others_wait: bool) -> Vec<Done> {
    let rest = work.split_off(work.len().min(PER_ROUND[usize::from(others_wait)]));
    let later = rest.into_iter().map(|work| Done {
        uid: work.handler.uid().unwrap_or_default(),
        is_open: true,
        ..Done::default()
    });
    let done = stream::iter(work).map(|work| one(context, work)).buffer_unordered(AT_ONCE);
    let mut done: Vec<Done> = done.collect().await;
    done.extend(later);
    done
}

async fn one(context: &Context, work: Work) -> Done {
    let mut done = Done { uid: work.handler.uid().unwrap_or_default(), ..Done::default() };
    match keep(context, &work).await {
        Ok(Kind::Kept(kept)) => done.kept = Some(kept),
        Ok(Kind::None(generation)) => done.none = Some(generation),
        Ok(Kind::Nothing) => {}
        Err(error) => {
            let handler = work.handler.name_any();
            tracing::warn!(handler, error, "a revision is not kept");
            done.is_open = true;
        }
    }
    let api: Api<ControllerRevision> = api(context, &work.handler);
    for name in work.excess {
        let gone = write(context, async {
            match api.delete(&name, &DeleteParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => other.map(drop),
            }
        });
        match gone.await {
            Ok(()) => done.gave_up.push(name),
            Err(error) => {
                tracing::warn!(revision = name, error, "a revision is not given up");
                done.is_open = true;
            }
        }
    }
    done
}

/// What a generation is.
enum Kind {
    Kept(Kept),
    None(i64),
    /// The handler has been edited meanwhile, or nothing was asked.
    Nothing,
}

fn api<K>(context: &Context, handler: &HandlerView) -> Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    Api::namespaced(context.client.clone(), &handler.namespace().unwrap_or_default())
}

async fn keep(context: &Context, work: &Work) -> Result<Kind, String> {
    let Some(due) = &work.due else { return Ok(Kind::Nothing) };
    // The code is not in our memory.
    let handlers: Api<Handler> = api(context, &work.handler);
    let read = tokio::time::timeout(TIMEOUT, handlers.get_opt(&work.handler.name_any())).await;
    let read = read.map_err(|_| late())?.map_err(|error| failure::text(&error))?;
    let is_it = |handler: &Handler| {
        handler.uid() == work.handler.uid() && handler.meta().generation == Some(due.generation)
    };
    let Some(handler) = read.filter(is_it) else { return Ok(Kind::Nothing) };
    let template = revision::digest(&handler.spec);
    if let Some(kept) = work.kept.iter().find(|kept| kept.template == template) {
        let kept = Kept { generation: due.generation, ..kept.clone() };
        return mark(context, work, &kept).await.map(|()| Kind::Kept(kept));
    }
    match &due.code {
        Some(code) => make(context, &handler, due, code, template).await.map(Kind::Kept),
        None => Ok(Kind::None(due.generation)),
    }
}

/// Notes at one that is kept that the handler has its spec again.
async fn mark(context: &Context, work: &Work, kept: &Kept) -> Result<(), String> {
    let api: Api<ControllerRevision> = api(context, &work.handler);
    let patch = json!({"metadata": {"annotations": {revision::GENERATION: kept.generation.to_string()}}});
    let parameters =
        PatchParams { field_manager: Some(labels::MANAGER_REVISIONS.into()), ..PatchParams::default() };
    let patch = Patch::Merge(&patch);
    write(context, async { api.patch_metadata(&kept.name, &parameters, &patch).await.map(drop) }).await
}

async fn make(
    context: &Context,
    handler: &Handler,
    due: &Due,
    code: &str,
    template: String,
) -> Result<Kept, String> {
    let object = object(handler, due, code, &template).map_err(|error| error.to_string())?;
    let api: Api<ControllerRevision> =
        Api::namespaced(context.client.clone(), &handler.namespace().unwrap_or_default());
    let parameters =
        PostParams { field_manager: Some(labels::MANAGER_REVISIONS.into()), ..PostParams::default() };
    write(context, async { api.create(&parameters, &object).await.map(drop) }).await?;
    Ok(Kept {
        name: object.name_any(),
        template,
        generation: due.generation,
        code: code.to_owned(),
        created_at: Time(Timestamp::now()),
    })
}

/// The object of a revision. Its end is its handler's.
fn object(
    handler: &Handler,
    due: &Due,
    code: &str,
    template: &str,
) -> Result<ControllerRevision, serde_json::Error> {
    let (name, spec): (_, HandlerSpec) = (handler.name_any(), revision::template(&handler.spec));
    let mut annotations = json!({
        revision::GENERATION: due.generation.to_string(),
        revision::CODE: code,
    });
    if let Some(packages) = &due.packages {
        annotations[revision::PACKAGES] = json!(serde_json::to_string(packages)?);
    }
    serde_json::from_value(json!({
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": revision::name(&name, due.generation),
            "namespace": handler.namespace(),
            "labels": {
                revision::HANDLER: name,
                revision::TEMPLATE: template,
                MANAGED_BY: MANAGED_BY_OPERATOR,
            },
            "annotations": annotations,
            "ownerReferences": [handler.controller_owner_ref(&())],
        },
        "data": spec,
        "revision": due.generation,
    }))
}

async fn write(context: &Context, request: impl Future<Output = kube::Result<()>>) -> Result<(), String> {
    context.throttle.turn().await;
    let result = match tokio::time::timeout(TIMEOUT, request).await {
        Ok(result) => result.map_err(|error| failure::text(&error)),
        Err(_) => Err(late()),
    };
    context.metrics.wrote("revision", result.is_ok());
    result
}

fn late() -> String {
    format!("no answer within {TIMEOUT:?}")
}
