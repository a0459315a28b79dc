//! `POST /registry/<handler>` at the admin port: have the newest revision serve, and say what came of it.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::post;
use axum::{Json, Router};
use http::StatusCode;
use openlambda_api::HandlerName;
use serde_json::{Value, json};

use super::{Look, Registry};

/// The path.
pub fn router(registry: Arc<Registry>) -> Router {
    Router::new().route("/registry/{handler}", post(look)).with_state(registry)
}

async fn look(
    State(registry): State<Arc<Registry>>,
    Path(handler): Path<String>,
) -> (StatusCode, Json<Value>) {
    let handler = match HandlerName::parse(&handler) {
        Ok(handler) => handler,
        Err(error) => return (StatusCode::BAD_REQUEST, Json(json!({"message": error.to_string()}))),
    };
    match registry.look(handler).await {
        Look::Serves(serving) => {
            let answer = json!({"state": "Ready", "revision": serving.revision, "digest": serving.digest});
            (StatusCode::OK, Json(answer))
        }
        Look::Missing => (StatusCode::NOT_FOUND, Json(json!({"state": "Missing"}))),
        Look::Fails(trouble) => {
            let answer =
                json!({"state": "Failed", "reason": trouble.reason.to_string(), "message": trouble.message});
            (StatusCode::OK, Json(answer))
        }
    }
}
