//! What the paths of the admin socket do.

use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, FromRequest, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::socket::Caller;
use super::{
    AdvanceEpoch, DeviceDetail, Epoch, JoinTokenRequest, JoinTokenView, NewToken, Tagging,
};
use crate::domain::names::{DeviceId, NotADeviceId};
use crate::fleet::Fleet;
use crate::fleet::administration::{AdministrationError, NewJoinToken, TagChange};
use crate::local::types::{DeviceView, Problem};

/// The paths, to be served by [`super::socket::serve`].
pub fn router(fleet: Fleet) -> Router {
    Router::new()
        .route("/v1/devices", get(devices))
        .route("/v1/devices/{id}", get(device))
        .route("/v1/devices/{id}/tags", post(tag))
        .route("/v1/devices/{id}/revoke", post(revoke))
        .route("/v1/nodes/{node}/readmit", post(readmit))
        .route("/v1/join-tokens", get(join_tokens).post(create_join_token))
        .route("/v1/join-tokens/{id}/revoke", post(revoke_join_token))
        .route("/v1/epoch", post(advance_epoch))
        .with_state(fleet)
}

#[derive(Deserialize)]
struct Filter {
    tenant: Option<String>,
}

async fn devices(
    State(fleet): State<Fleet>,
    Query(filter): Query<Filter>,
) -> Json<Vec<DeviceView>> {
    Json(fleet.view(filter.tenant.as_deref()))
}

async fn device(
    State(fleet): State<Fleet>,
    Path(id): Path<String>,
) -> Result<Json<DeviceDetail>, Refused> {
    let id = DeviceId::try_from(id)?;
    let no_such = || AdministrationError::NoSuchDevice(id.clone());
    let view = fleet.view_of(&id).ok_or_else(no_such)?;
    let applied = fleet.applied_of(&id).ok_or_else(no_such)?;
    let in_force = applied.sources.iter();
    Ok(Json(DeviceDetail {
        view,
        state_hash: applied.state_hash,
        applied_at: applied.at,
        in_force: in_force
            .map(|source| format!("{:?} {}/{}", source.kind, source.namespace, source.name))
            .collect(),
        refused: applied.refused,
        counts: fleet.counts(&id),
    }))
}

async fn tag(
    State(fleet): State<Fleet>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path(id): Path<String>,
    Body(tagging): Body<Tagging>,
) -> Result<Response, Refused> {
    let change = TagChange {
        set: tagging.set,
        remove: tagging.remove,
    };
    let id = DeviceId::try_from(id)?;
    let tags = fleet.change_tags(&id, change, &caller.to_string()).await?;
    Ok(Json(tags).into_response())
}

#[derive(Deserialize)]
struct Revoking {
    /// Also a device that is isolated.
    #[serde(default)]
    release: bool,
}

async fn revoke(
    State(fleet): State<Fleet>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path(id): Path<String>,
    Query(revoking): Query<Revoking>,
) -> Result<StatusCode, Refused> {
    let id = DeviceId::try_from(id)?;
    let by = caller.to_string();
    fleet.revoke(&id, revoking.release, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn readmit(
    State(fleet): State<Fleet>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path(node): Path<String>,
) -> Result<Json<DeviceId>, Refused> {
    Ok(Json(fleet.readmit(&node, &caller.to_string()).await?))
}

async fn join_tokens(
    State(fleet): State<Fleet>,
    Query(filter): Query<Filter>,
) -> Result<Json<Vec<JoinTokenView>>, Refused> {
    let tokens = fleet.join_tokens().await?.into_iter();
    let of_tenant = |view: &JoinTokenView| filter.tenant.as_ref().is_none_or(|t| *t == view.tenant);
    let views = tokens.map(JoinTokenView::from).filter(of_tenant);
    Ok(Json(views.collect()))
}

async fn create_join_token(
    State(fleet): State<Fleet>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(request): Body<JoinTokenRequest>,
) -> Result<Json<NewToken>, Refused> {
    let new = NewJoinToken {
        tenant: request.tenant,
        tags: request.tags,
        uses: request.uses,
        ttl: Duration::from_secs(request.ttl_seconds),
    };
    let (record, token) = fleet.create_join_token(new, &caller.to_string()).await?;
    let view = record.into();
    Ok(Json(NewToken { view, token }))
}

async fn revoke_join_token(
    State(fleet): State<Fleet>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refused> {
    fleet.revoke_join_token(&id, &caller.to_string()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn advance_epoch(
    State(fleet): State<Fleet>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    Body(AdvanceEpoch { beyond }): Body<AdvanceEpoch>,
) -> Result<Json<Epoch>, Refused> {
    let epoch = fleet.advance_epoch(beyond, &caller.to_string()).await?;
    Ok(Json(Epoch { epoch }))
}

/// JSON, or a [`Problem`] that says what is wrong with it.
struct Body<T>(T);

impl<S: Send + Sync, T> FromRequest<S> for Body<T>
where
    Json<T>: FromRequest<S, Rejection = JsonRejection>,
{
    type Rejection = Refused;

    async fn from_request(request: axum::extract::Request, state: &S) -> Result<Self, Refused> {
        let Json(body) = Json::from_request(request, state).await?;
        Ok(Self(body))
    }
}

/// An error as the client reads it.
struct Refused(StatusCode, Problem);

impl Refused {
    fn new(status: StatusCode, code: &str, message: String) -> Self {
        let code = code.to_owned();
        Self(status, Problem { code, message })
    }
}

impl From<AdministrationError> for Refused {
    fn from(error: AdministrationError) -> Self {
        let (status, code) = match &error {
            AdministrationError::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid"),
            AdministrationError::NoSuchDevice(_)
            | AdministrationError::NoSuchToken(_)
            | AdministrationError::NoSuchNode(_) => (StatusCode::NOT_FOUND, "not_found"),
            AdministrationError::Isolated(_) => (StatusCode::CONFLICT, "isolated"),
            AdministrationError::NotLeading | AdministrationError::Store(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<NotADeviceId> for Refused {
    fn from(error: NotADeviceId) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", error.to_string())
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), "invalid", rejection.body_text())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(self.1)).into_response()
    }
}
