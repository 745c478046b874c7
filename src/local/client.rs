//! The sidecar's side of the local API. Every request has a timeout; nothing is retried here, because
//! whoever asks must know at once that the operator is away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use reqwest::RequestBuilder;
use serde::de::DeserializeOwned;

use super::Kind;
use super::pods::WorkloadView;
use super::types::{
    AgentRecord, Appended, AuditPage, AuditQuery, Authenticate, DeviceView, HeldIsolation, Preview,
    Previewed, Principal, Problem, Ready, SettledQuery, Standing, VerifyReport, VerifyRequest,
};
use crate::domain::explain::{Explanation, Question};
use crate::domain::names::{DeviceId, ObjectKey};

/// What the operator answers from memory.
const QUICK: Duration = Duration::from_secs(3);
/// A commit to disk, or a search.
const DISK: Duration = Duration::from_secs(10);
/// Devices that have to answer.
const FLEET: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: &Path) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .connect_timeout(Duration::from_secs(2))
            .build()?;
        Ok(Self {
            http,
            socket: socket.to_owned(),
        })
    }

    pub async fn ready(&self) -> Result<Ready, Problem> {
        self.ask(self.http.get(url(&["ready"])), QUICK).await
    }

    pub async fn authenticate(&self, key_hash: String) -> Result<Principal, Problem> {
        let request = Authenticate { key_hash };
        let post = self.http.post(url(&["authenticate"])).json(&request);
        self.ask(post, QUICK).await
    }

    pub async fn append(&self, tenant: &str, record: &AgentRecord) -> Result<Appended, Problem> {
        let path = url(&["tenants", tenant, "audit"]);
        self.ask(self.http.post(path).json(record), DISK).await
    }

    pub async fn search(&self, tenant: &str, query: &AuditQuery) -> Result<AuditPage, Problem> {
        let path = url(&["tenants", tenant, "audit"]);
        self.ask(self.http.get(with_query(path, query)?), DISK)
            .await
    }

    pub async fn devices(&self, tenant: &str) -> Result<Vec<DeviceView>, Problem> {
        let path = url(&["tenants", tenant, "devices"]);
        self.ask(self.http.get(path), QUICK).await
    }

    pub async fn device(&self, tenant: &str, id: &DeviceId) -> Result<DeviceView, Problem> {
        let path = url(&["tenants", tenant, "devices", id.as_str()]);
        self.ask(self.http.get(path), QUICK).await
    }

    pub async fn settled(
        &self,
        kind: Kind,
        resource: &ObjectKey,
        query: &SettledQuery,
    ) -> Result<Standing, Problem> {
        let kind = match kind {
            Kind::Isolation => "isolations",
            Kind::Policy => "policies",
        };
        let path = url(&[
            "tenants",
            &resource.namespace,
            kind,
            &resource.name,
            "settled",
        ]);
        let longest = QUICK + Duration::from_millis(query.timeout_ms);
        self.ask(self.http.get(with_query(path, query)?), longest)
            .await
    }

    pub async fn preview(&self, tenant: &str, preview: &Preview) -> Result<Previewed, Problem> {
        let path = url(&["tenants", tenant, "preview"]);
        self.ask(self.http.post(path).json(preview), DISK).await
    }

    pub async fn explain(&self, tenant: &str, question: &Question) -> Result<Explanation, Problem> {
        let path = url(&["tenants", tenant, "explain"]);
        self.ask(self.http.post(path).json(question), DISK).await
    }

    pub async fn verify(
        &self,
        tenant: &str,
        request: &VerifyRequest,
    ) -> Result<VerifyReport, Problem> {
        let path = url(&["tenants", tenant, "verify"]);
        self.ask(self.http.post(path).json(request), FLEET).await
    }

    pub async fn held(&self, tenant: &str) -> Result<Vec<HeldIsolation>, Problem> {
        let path = url(&["tenants", tenant, "held"]);
        self.ask(self.http.get(path), QUICK).await
    }

    pub async fn workloads(&self, tenant: &str) -> Result<Vec<WorkloadView>, Problem> {
        let path = url(&["tenants", tenant, "workloads"]);
        self.ask(self.http.get(path), DISK).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
        timeout: Duration,
    ) -> Result<T, Problem> {
        let away = |error: reqwest::Error| {
            tracing::warn!(socket = %self.socket.display(), %error, "the operator did not answer");
            Problem::unavailable(
                "the operator does not answer on its local socket: try again in a moment; \
                 if it lasts, a person should look at the operator's pod",
            )
        };
        let answer = request.timeout(timeout).send().await.map_err(away)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(away)?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| {
                tracing::error!(%error, "the operator's answer can't be read");
                Problem::unavailable("the operator and this MCP server are of different versions")
            });
        }
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| {
            tracing::error!(%status, "the operator answered without words");
            Problem::unavailable(format!("the operator answered {status}"))
        }))
    }
}

/// The host is of no account over a socket; each part is escaped.
fn url(parts: &[&str]) -> reqwest::Url {
    let mut url = reqwest::Url::parse("http://operator/v1").expect("a constant");
    url.path_segments_mut()
        .expect("http URLs have paths")
        .extend(parts);
    url
}

fn with_query<T: serde::Serialize>(
    mut url: reqwest::Url,
    query: &T,
) -> Result<reqwest::Url, Problem> {
    let value = serde_json::to_value(query)
        .map_err(|error| Problem::unavailable(format!("a query can't be written: {error}")))?;
    let pairs = value.as_object().into_iter().flatten();
    for (name, value) in pairs.filter(|(_, value)| !value.is_null()) {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        url.query_pairs_mut().append_pair(name, &text);
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_can_not_leave_their_place_in_the_path() {
        let url = url(&["tenants", "../../v1/authenticate?x=", "audit"]);
        assert_eq!(
            url.path(),
            "/v1/tenants/..%2F..%2Fv1%2Fauthenticate%3Fx=/audit"
        );
    }

    #[test]
    fn a_query_holds_what_is_given_and_nothing_else() {
        let query = AuditQuery {
            text: Some("a&b".into()),
            limit: 5,
            ..AuditQuery::default()
        };
        let url = with_query(url(&["x"]), &query).expect("a query");
        assert_eq!(url.query(), Some("limit=5&text=a%26b"));
    }
}
