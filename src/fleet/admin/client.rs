//! The other end: what `seawall fleet` asks over the admin socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    AdvanceEpoch, DeviceDetail, Epoch, JoinTokenRequest, JoinTokenView, NewToken, Tagging,
};
use crate::domain::explain::{Explanation, Question};
use crate::domain::names::DeviceId;
use crate::local::types::{DeviceView, Problem};

const PATIENCE: Duration = Duration::from_secs(15);
/// The host is not looked at: the socket is the operator.
const ROOT: &str = "http://operator/v1";

pub struct AdminClient {
    socket: PathBuf,
    http: reqwest::Client,
}

impl AdminClient {
    pub fn new(socket: &Path) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .timeout(PATIENCE)
            .build()
            .context("making the client of the admin socket")?;
        Ok(Self {
            socket: socket.to_owned(),
            http,
        })
    }

    pub async fn devices(&self, tenant: Option<&str>) -> anyhow::Result<Vec<DeviceView>> {
        self.list("devices", tenant).await
    }

    pub async fn device(&self, id: &DeviceId) -> anyhow::Result<DeviceDetail> {
        self.answer(self.request(Method::GET, &format!("devices/{id}")))
            .await
    }

    pub async fn tag(
        &self,
        id: &DeviceId,
        tagging: &Tagging,
    ) -> anyhow::Result<std::collections::BTreeMap<String, String>> {
        self.post(&format!("devices/{id}/tags"), tagging).await
    }

    pub async fn revoke(&self, id: &DeviceId, release: bool) -> anyhow::Result<()> {
        let path = format!("devices/{id}/revoke?release={release}");
        let request = self.request(Method::POST, &path);
        self.done(request).await
    }

    pub async fn readmit(&self, node: &str) -> anyhow::Result<DeviceId> {
        let mut url = Url::parse(&format!("{ROOT}/nodes"))?;
        let segments = url.path_segments_mut();
        let mut segments = segments.map_err(|()| anyhow::anyhow!("{ROOT} has a path"))?;
        segments.push(node).push("readmit");
        drop(segments);
        self.answer(self.http.post(url)).await
    }

    pub async fn join_tokens(&self, tenant: Option<&str>) -> anyhow::Result<Vec<JoinTokenView>> {
        self.list("join-tokens", tenant).await
    }

    pub async fn create_join_token(&self, new: &JoinTokenRequest) -> anyhow::Result<NewToken> {
        self.post("join-tokens", new).await
    }

    pub async fn revoke_join_token(&self, id: &str) -> anyhow::Result<()> {
        let request = self.request(Method::POST, &format!("join-tokens/{id}/revoke"));
        self.done(request).await
    }

    /// Answered by the operator's side of the socket that is not the fleet's.
    pub async fn explain(&self, question: &Question) -> anyhow::Result<Explanation> {
        self.post("explain", question).await
    }

    pub async fn advance_epoch(&self, beyond: u64) -> anyhow::Result<Epoch> {
        self.post("epoch", &AdvanceEpoch { beyond }).await
    }

    async fn list<T: DeserializeOwned>(
        &self,
        what: &str,
        tenant: Option<&str>,
    ) -> anyhow::Result<T> {
        let filter = tenant.map(|tenant| ("tenant", tenant));
        let url = Url::parse_with_params(&format!("{ROOT}/{what}"), filter)?;
        self.answer(self.http.get(url)).await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{ROOT}/{path}"))
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        self.answer(self.request(Method::POST, path).json(body))
            .await
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let response = self.send(request).await?;
        response.json().await.with_context(|| {
            format!(
                "the operator at {} answered with something else than was asked: is it the same version as this command?",
                self.socket.display()
            )
        })
    }

    async fn done(&self, request: RequestBuilder) -> anyhow::Result<()> {
        self.send(request).await.map(|_| ())
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<reqwest::Response> {
        let response = request.send().await.with_context(|| {
            format!(
                "no operator answers at {}: run this where the operator runs, as its user, such as `kubectl exec -n seawall-system deploy/seawall -c operator -- seawall fleet list`, or name its socket with --socket",
                self.socket.display()
            )
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        match response.json::<Problem>().await {
            Ok(problem) => bail!(problem.message),
            Err(_) if status == StatusCode::NOT_FOUND => {
                bail!("the operator does not know this request: is it older than this command?")
            }
            Err(_) => bail!("the operator answered {status}; its log says why"),
        }
    }
}
