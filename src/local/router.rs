//! The paths of the local API. Whoever can open the socket is the sidecar: the socket's mode is the
//! authorization, and the sidecar says for which tenant it asks.

use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use tower_http::timeout::TimeoutLayer;

use super::pods::WorkloadView;
use super::types::{
    AgentRecord, Appended, AuditPage, AuditQuery, Authenticate, DeviceView, HeldIsolation,
    NOT_FOUND, Preview, Previewed, Principal, Problem, Ready, SettledQuery, Standing, UNAVAILABLE,
    VerifyReport, VerifyRequest,
};
use super::{Kind, Sources};
use crate::domain::explain::{Explanation, Question};
use crate::domain::names::ObjectKey;

/// Longer than any wait that a request may ask for.
const LONGEST: Duration = Duration::from_secs(35);
/// The longest wait for a resource to settle.
const LONGEST_SETTLE: Duration = Duration::from_secs(30);
/// Entries of the audit log in one answer.
const MOST_ENTRIES: usize = 500;
/// An audit entry is at most 60,000 bytes, a policy some more.
const LARGEST_BODY: usize = 1024 * 1024;

pub fn router(sources: Sources) -> Router {
    Router::new()
        .route("/v1/ready", get(ready))
        .route("/v1/authenticate", post(authenticate))
        .route("/v1/tenants/{tenant}/audit", post(append).get(search))
        .route("/v1/tenants/{tenant}/devices", get(devices))
        .route("/v1/tenants/{tenant}/devices/{id}", get(device))
        .route(
            "/v1/tenants/{tenant}/isolations/{name}/settled",
            get(isolation_settled),
        )
        .route(
            "/v1/tenants/{tenant}/policies/{name}/settled",
            get(policy_settled),
        )
        .route("/v1/tenants/{tenant}/held", get(held))
        .route("/v1/tenants/{tenant}/workloads", get(workloads))
        .route("/v1/tenants/{tenant}/preview", post(preview))
        .route("/v1/tenants/{tenant}/explain", post(explain))
        .route("/v1/tenants/{tenant}/verify", post(verify))
        .layer(TimeoutLayer::with_status_code(
            StatusCode::SERVICE_UNAVAILABLE,
            LONGEST,
        ))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(sources)
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match self.code.as_str() {
            NOT_FOUND => StatusCode::NOT_FOUND,
            UNAVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
            code if code.starts_with("key_") || code == "scope_refused" => StatusCode::UNAUTHORIZED,
            _ => StatusCode::BAD_REQUEST,
        };
        (status, Json(self)).into_response()
    }
}

type Answer<T> = Result<Json<T>, Problem>;

pub const NOT_SYNCED: &str =
    "the operator has not seen the cluster yet: try again in a few seconds, and see its /ready";

async fn ready(State(sources): State<Sources>) -> Answer<Ready> {
    if sources.scopes.directory().is_none() {
        return Err(Problem::unavailable(NOT_SYNCED));
    }
    Ok(Json(Ready {
        version: env!("CARGO_PKG_VERSION").into(),
    }))
}

async fn authenticate(
    State(sources): State<Sources>,
    Json(request): Json<Authenticate>,
) -> Answer<Principal> {
    let directory = sources
        .scopes
        .directory()
        .ok_or_else(|| Problem::unavailable(NOT_SYNCED))?;
    let principal = directory.lookup(&request.key_hash, Timestamp::now())?;
    let scope = ObjectKey::new(&principal.tenant, &principal.agent);
    sources.scopes.used(&scope);
    Ok(Json(principal))
}

async fn append(
    State(sources): State<Sources>,
    Path(tenant): Path<String>,
    Json(record): Json<AgentRecord>,
) -> Answer<Appended> {
    Ok(Json(sources.audit.append(&tenant, record).await?))
}

async fn search(
    State(sources): State<Sources>,
    Path(tenant): Path<String>,
    Query(mut query): Query<AuditQuery>,
) -> Answer<AuditPage> {
    query.limit = query.limit.clamp(1, MOST_ENTRIES);
    Ok(Json(sources.audit.search(&tenant, &query).await?))
}

async fn devices(
    State(sources): State<Sources>,
    Path(tenant): Path<String>,
) -> Answer<Vec<DeviceView>> {
    of_tenant(&sources, &tenant).map(Json)
}

async fn device(
    State(sources): State<Sources>,
    Path((tenant, id)): Path<(String, String)>,
) -> Answer<DeviceView> {
    of_tenant(&sources, &tenant)?
        .into_iter()
        .find(|device| device.id.as_str() == id)
        .map(Json)
        .ok_or_else(|| Problem::not_found(format!("no device {id} is enrolled in {tenant}")))
}

fn of_tenant(sources: &Sources, tenant: &str) -> Result<Vec<DeviceView>, Problem> {
    sources
        .devices
        .of_tenant(tenant)
        .ok_or_else(|| Problem::unavailable(NOT_SYNCED))
}

async fn isolation_settled(
    State(sources): State<Sources>,
    Path(resource): Path<(String, String)>,
    Query(query): Query<SettledQuery>,
) -> Answer<Standing> {
    settled(&sources, Kind::Isolation, resource, query).await
}

async fn policy_settled(
    State(sources): State<Sources>,
    Path(resource): Path<(String, String)>,
    Query(query): Query<SettledQuery>,
) -> Answer<Standing> {
    settled(&sources, Kind::Policy, resource, query).await
}

async fn settled(
    sources: &Sources,
    kind: Kind,
    (tenant, name): (String, String),
    mut query: SettledQuery,
) -> Answer<Standing> {
    let longest = LONGEST_SETTLE.as_millis() as u64;
    query.timeout_ms = query.timeout_ms.min(longest);
    let resource = ObjectKey::new(tenant, name);
    let standing = sources.enforcement.settled(kind, &resource, &query).await?;
    Ok(Json(standing))
}

async fn preview(
    State(sources): State<Sources>,
    Path(tenant): Path<String>,
    Json(preview): Json<Preview>,
) -> Answer<Previewed> {
    let previewed = sources.enforcement.preview(&tenant, &preview).await?;
    Ok(Json(previewed))
}

async fn explain(
    State(sources): State<Sources>,
    Path(tenant): Path<String>,
    Json(mut question): Json<Question>,
) -> Answer<Explanation> {
    question.tenant = Some(tenant);
    Ok(Json(sources.enforcement.explain(question).await?))
}

async fn verify(
    State(sources): State<Sources>,
    Path(tenant): Path<String>,
    Json(request): Json<VerifyRequest>,
) -> Answer<VerifyReport> {
    let report = sources.enforcement.verify(&tenant, &request).await?;
    Ok(Json(report))
}

async fn held(
    State(sources): State<Sources>,
    Path(tenant): Path<String>,
) -> Answer<Vec<HeldIsolation>> {
    sources.enforcement.held(&tenant).map(Json)
}

async fn workloads(
    State(sources): State<Sources>,
    Path(tenant): Path<String>,
) -> Answer<Vec<WorkloadView>> {
    let workloads = sources.enforcement.workloads(&tenant).await?;
    Ok(Json(workloads))
}
