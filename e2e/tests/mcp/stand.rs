//! What the tests stand on: an MCP server in this process, in front of the shared API server, and in
//! place of the operator one that answers as the test says, behind the product's own local API.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use async_trait::async_trait;
use http::HeaderValue;
use http::header::USER_AGENT;
use jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rmcp::model::{CallToolRequestParams, CallToolResult, ClientConfig, ProtocolVersion};
use rmcp::service::RunningService;
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientLifecycleMode, ClientServiceExt, RoleClient};
use seawall::access::decide::Decide;
use seawall::access::{Directory, key};
use seawall::api::isolation::WorkloadTarget;
use seawall::api::{ApiKeyScopeSpec, IsolationSpec, TrustLevel};
use seawall::audit::trail::entry_of;
use seawall::domain::compile::compile;
use seawall::domain::explain::{Explanation, Known, Question, explain};
use seawall::domain::labels::selects;
use seawall::domain::names::{DeviceId, ObjectKey};
use seawall::domain::verdict::ScopeVerdict;
use seawall::domain::world::{Resource, World};
use seawall::local::client::Client;
use seawall::local::pods::{PodReadBack, PodStanding, PodsStanding, WorkloadView};
use seawall::local::types::{
    AgentRecord, Appended, AuditEntry, AuditPage, AuditQuery, DeviceReadBack, DeviceView,
    HeldIsolation, INVALID, Preview, Previewed, Problem, SettledQuery, Standing, Unwritten,
    VerifyReport, VerifyRequest,
};
use seawall::local::users::{AccountStanding, UserStanding};
use seawall::local::{self, AuditTrail, Devices, Kind, Scopes, Sources, Standings};
use seawall::mcp::{Cluster, Server, Settings};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::charts::SYSTEM;
use crate::harness::eventually;
use crate::tests::admission::tenant::{DEVICE, Tenant};

/// The operator as the test wants it.
#[derive(Default)]
pub struct Operator {
    scopes: Mutex<BTreeMap<ObjectKey, (ApiKeyScopeSpec, Vec<DeviceId>)>>,
    devices: Mutex<Vec<DeviceView>>,
    workloads: Mutex<Vec<WorkloadView>>,
    /// What was previewed last: it is what will be asked about when it is written.
    pods: Mutex<Option<PodsStanding>>,
    user: Mutex<Option<UserStanding>>,
    /// Isolations that suspend the user that is asked about too, by namespace and name.
    pub also: Mutex<Vec<String>>,
    /// With the tenant of each.
    log: Mutex<Vec<(String, Value)>>,
    /// The audit log takes nothing.
    pub full: AtomicBool,
    /// What explanations are read from.
    pub world: Mutex<World>,
    /// A device that must not be cut.
    pub protected: Mutex<Option<DeviceId>>,
}

impl Operator {
    pub fn enrol(&self, tenant: &str, id: &str) {
        self.devices
            .lock()
            .expect("not poisoned")
            .push(device(tenant, id));
    }

    pub fn change(&self, tenant: &str, agent: &str, change: impl FnOnce(&mut ApiKeyScopeSpec)) {
        let mut scopes = self.scopes.lock().expect("not poisoned");
        let scope = scopes
            .get_mut(&ObjectKey::new(tenant, agent))
            .expect("a scope of this test");
        change(&mut scope.0);
    }

    /// A pod of the test's tenant; `obstacle` is why nothing isolates it, if nothing does.
    pub fn run_pod(&self, name: &str, app: &str, obstacle: &str, isolated_by: &[&str]) {
        let pod = WorkloadView {
            name: name.into(),
            labels: [("app".to_owned(), app.to_owned())].into(),
            node: Some("node-1".into()),
            addresses: vec!["10.244.0.7".into()],
            controller: Some(format!("ReplicaSet/{app}")),
            covered: obstacle.is_empty(),
            obstacle: obstacle.into(),
            isolated_by: isolated_by.iter().map(|name| (*name).to_owned()).collect(),
            held: Vec::new(),
            policies: Vec::new(),
            replaced_by: None,
        };
        self.workloads.lock().expect("not poisoned").push(pod);
    }

    /// The pod has no agent, and this Deployment replaces it; `isolated_by` is what isolates it by now.
    pub fn strip_pod(&self, name: &str, deployment: &str, isolated_by: &[&str]) {
        let mut pods = self.workloads.lock().expect("not poisoned");
        let mut pods = pods.iter_mut();
        let pod = pods.find(|pod| pod.name == name).expect("it runs");
        pod.replaced_by = Some(deployment.into());
        pod.isolated_by = isolated_by.iter().map(|name| (*name).to_owned()).collect();
    }

    /// How pods would stand, or do: those that are covered at once.
    fn stand(&self, target: &WorkloadTarget) -> PodsStanding {
        let pods = self.workloads.lock().expect("not poisoned");
        let chosen = pods.iter().filter(|pod| match &target.pod_selector {
            Some(selector) => selects(selector, &pod.labels),
            None => target.pod.as_deref() == Some(&*pod.name),
        });
        let pods: Vec<PodStanding> = chosen
            .map(|pod| PodStanding {
                pod: pod.name.clone(),
                covered: pod.covered,
                why: pod.obstacle.clone(),
                replaced_by: pod.replaced_by.clone(),
            })
            .collect();
        PodsStanding {
            chosen: pods.len(),
            covered: pods.iter().filter(|pod| pod.covered).count(),
            by_policy: pods
                .iter()
                .filter(|pod| pod.covered && pod.replaced_by.is_some())
                .count(),
            left_out: 0,
            evidence_at_risk: pods.iter().map(|pod| pod.pod.clone()).collect(),
            pods,
        }
    }

    fn target_pods(&self, spec: &ApiKeyScopeSpec) -> BTreeSet<String> {
        let targets = spec.targets.as_ref().and_then(|t| t.workloads.as_ref());
        let standing = targets.map(|workloads| {
            self.stand(&WorkloadTarget {
                pod: None,
                pod_selector: Some(workloads.pod_selector.clone()),
            })
        });
        let pods = standing.into_iter().flat_map(|standing| standing.pods);
        pods.map(|pod| pod.pod).collect()
    }

    fn verified(&self, names: &[String], everything: bool) -> Vec<PodReadBack> {
        let pods = self.workloads.lock().expect("not poisoned");
        let asked = pods
            .iter()
            .filter(|pod| everything || names.contains(&pod.name));
        let answers = asked.map(|pod| PodReadBack {
            pod: pod.name.clone(),
            matches: pod.covered,
            detail: pod.obstacle.clone(),
        });
        answers.collect()
    }

    /// Entries of a kind, oldest first.
    pub fn logged(&self, kind: &str) -> Vec<Value> {
        let log = self.log.lock().expect("not poisoned");
        let entries = log.iter().map(|(_, entry)| entry);
        entries
            .filter(|entry| entry["kind"] == kind)
            .cloned()
            .collect()
    }
}

/// How the user of an Isolation stands, with one device and all of it in force.
fn suspended(spec: &IsolationSpec) -> Option<UserStanding> {
    let user = spec.target.user.clone()?;
    let names = spec.user_names.clone().unwrap_or_default();
    let called = |names: Option<Vec<String>>| names.unwrap_or_else(|| vec![user.clone()]);
    let kubernetes = called(names.kubernetes);
    let on_device = AccountStanding {
        device: DEVICE.parse().expect("an id"),
        programmed: true,
        connected: true,
        dropped: called(names.os),
        spared: Vec::new(),
    };
    Some(UserStanding {
        devices: 1,
        programmed: 1,
        offline: 0,
        each: vec![on_device],
        left_out: 0,
        nodes: 2,
        writes_refused: !kubernetes.is_empty(),
        kubernetes,
        scopes: Vec::new(),
        outside: vec!["sessions at an identity provider".into()],
    })
}

fn device(tenant: &str, id: &str) -> DeviceView {
    DeviceView {
        id: id.parse().expect("an id"),
        tenant: tenant.into(),
        tags: [("kind".to_owned(), "camera".to_owned())].into(),
        trust: TrustLevel::Standard,
        connected: true,
        up_to_date: true,
        addresses: vec!["10.1.0.7".into()],
        addresses_left_out: 0,
        connects_from: None,
        node: None,
        host_name: "cam\u{202e}era\n".into(),
        os: "Debian 12".into(),
        kernel: "6.18".into(),
        agent_version: "0.1.0".into(),
        enrolled_at: Timestamp::UNIX_EPOCH,
        last_seen: None,
        isolated_by: Vec::new(),
        held: Vec::new(),
        policies: Vec::new(),
    }
}

impl Scopes for Operator {
    fn directory(&self) -> Option<Arc<Directory>> {
        let scopes = self.scopes.lock().expect("not poisoned");
        let resources = scopes.iter().map(|(key, (spec, _))| {
            let resource = Resource {
                uid: key.to_string(),
                generation: 1,
                written_by: None,
                created: None,
                spec: spec.clone(),
            };
            (key.clone(), resource)
        });
        let verdicts = scopes.iter().map(|(key, (spec, devices))| {
            let targets = spec.targets.as_ref().and_then(|t| t.devices.as_ref());
            let verdict = ScopeVerdict {
                devices: devices.iter().cloned().collect(),
                all_devices: targets.is_some_and(|devices| devices.all),
                pods: self.target_pods(spec),
                ..ScopeVerdict::default()
            };
            (key.clone(), verdict)
        });
        Some(Arc::new(Directory::new(
            &resources.collect(),
            &verdicts.collect(),
        )))
    }

    fn used(&self, _: &ObjectKey) {}
}

impl Devices for Operator {
    fn of_tenant(&self, tenant: &str) -> Option<Vec<DeviceView>> {
        let devices = self.devices.lock().expect("not poisoned");
        let own = devices.iter().filter(|device| device.tenant == tenant);
        Some(own.cloned().collect())
    }
}

#[async_trait]
impl Standings for Operator {
    async fn settled(
        &self,
        kind: Kind,
        _: &ObjectKey,
        query: &SettledQuery,
    ) -> Result<Standing, Problem> {
        Ok(Standing {
            uid: query.uid.clone(),
            generation: query.generation,
            accepted: true,
            reason: "Accepted".into(),
            message: String::new(),
            programmed: true,
            self_programmed: (kind == Kind::Isolation && !query.gone).then_some(true),
            matched: 2,
            programmed_points: 2,
            offline: 0,
            connections_cut: 3,
            still_isolated_by: self.also.lock().expect("not poisoned").clone(),
            pods: self.pods.lock().expect("not poisoned").clone(),
            user: self.user.lock().expect("not poisoned").clone(),
            moments: None,
        })
    }

    async fn preview(&self, _: &str, preview: &Preview) -> Result<Previewed, Problem> {
        let protected = self.protected.lock().expect("not poisoned").clone();
        let pods = match &preview.resource {
            Unwritten::Isolation(spec) => spec.target.workload.as_ref().map(|it| self.stand(it)),
            Unwritten::Policy(_) => None,
        };
        self.pods.lock().expect("not poisoned").clone_from(&pods);
        let user = match &preview.resource {
            Unwritten::Isolation(spec) => suspended(spec),
            Unwritten::Policy(_) => None,
        };
        self.user.lock().expect("not poisoned").clone_from(&user);
        let cuts = match &preview.resource {
            Unwritten::Isolation(spec) => {
                protected.is_some() && spec.target.device == protected.map(String::from)
            }
            Unwritten::Policy(_) => false,
        };
        let words = "this device runs the operator, which would be cut off";
        Ok(Previewed {
            accepted: !cuts,
            reason: if cuts {
                "WouldCutOperator".into()
            } else {
                String::new()
            },
            message: if cuts { words.into() } else { String::new() },
            devices: 3,
            pods,
            user,
        })
    }

    async fn explain(&self, question: Question) -> Result<Explanation, Problem> {
        let world = self.world.lock().expect("not poisoned").clone();
        let known = Known {
            world: &world,
            compiled: &compile(&world, Timestamp::now()),
            applied: None,
        };
        explain(&known, &question).map_err(|unanswerable| Problem {
            code: INVALID.into(),
            message: unanswerable.0,
        })
    }

    async fn verify(&self, tenant: &str, request: &VerifyRequest) -> Result<VerifyReport, Problem> {
        let VerifyRequest { devices, pods } = request;
        let all = self.of_tenant(tenant).unwrap_or_default();
        let everything = devices.is_empty() && pods.is_empty();
        let asked = all
            .into_iter()
            .filter(|device| everything || devices.contains(&device.id));
        let answers = asked.map(|device| DeviceReadBack {
            device: device.id,
            connected: true,
            matches: true,
            kernel: Some(true),
            detail: String::new(),
            counts: Vec::new(),
        });
        Ok(VerifyReport {
            devices: answers.collect(),
            pods: self.verified(pods, everything),
        })
    }

    fn held(&self, _: &str) -> Result<Vec<HeldIsolation>, Problem> {
        Ok(Vec::new())
    }

    async fn workloads(&self, _: &str) -> Result<Vec<WorkloadView>, Problem> {
        Ok(self.workloads.lock().expect("not poisoned").clone())
    }
}

#[async_trait]
impl AuditTrail for Operator {
    async fn append(&self, tenant: &str, record: AgentRecord) -> Result<Appended, Problem> {
        if self.full.load(Ordering::Relaxed) {
            return Err(Problem::unavailable("the disk of the audit log is full"));
        }
        let mut log = self.log.lock().expect("not poisoned");
        let index = log.len() as u64;
        let entry = entry_of(tenant, record, &[0; 32]);
        let id = entry.id.clone();
        log.push((
            tenant.to_owned(),
            serde_json::to_value(entry).expect("JSON"),
        ));
        Ok(Appended { id, index })
    }

    async fn search(&self, tenant: &str, query: &AuditQuery) -> Result<AuditPage, Problem> {
        let log = self.log.lock().expect("not poisoned");
        let found = log.iter().enumerate().rev().filter(|(index, (of, entry))| {
            let kind = query
                .kind
                .as_ref()
                .is_none_or(|kind| entry["kind"] == **kind);
            let before = query.before.is_none_or(|before| (*index as u64) < before);
            of == tenant && kind && before
        });
        let entries: Vec<AuditEntry> = found
            .take(query.limit)
            .map(|(index, (_, entry))| AuditEntry {
                index: index as u64,
                entry: entry.clone(),
            })
            .collect();
        let full = entries.len() == query.limit;
        Ok(AuditPage {
            before: entries.last().filter(|_| full).map(|last| last.index),
            entries,
        })
    }
}

pub struct Stand {
    pub tenant: Tenant,
    pub operator: Arc<Operator>,
    pub url: String,
    cancel: CancellationToken,
    local: CancellationToken,
    tasks: JoinSet<anyhow::Result<()>>,
    _folder: tempfile::TempDir,
}

impl Stand {
    pub async fn new(namespace: &'static str) -> anyhow::Result<Self> {
        Self::asking(seawall::access::decide::decide, namespace, None).await
    }

    /// With another decision than the product's. What the API server refuses then is no lack of rights, so such a
    /// server has a user agent of its own.
    pub async fn deciding_by(decide: Decide, namespace: &'static str) -> anyhow::Result<Self> {
        Self::asking(decide, namespace, Some("e2e-decides-otherwise")).await
    }

    async fn asking(
        decide: Decide,
        namespace: &'static str,
        user_agent: Option<&'static str>,
    ) -> anyhow::Result<Self> {
        let tenant = Tenant::new(namespace).await?;
        let operator = Arc::new(Operator::default());
        let (cancel, local) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = JoinSet::new();

        let folder = tempfile::tempdir()?;
        let path = folder.path().join("local.sock");
        let socket = local::socket::bind(&path).await?;
        let sources = Sources {
            scopes: operator.clone(),
            devices: operator.clone(),
            enforcement: operator.clone(),
            audit: operator.clone(),
        };
        let stop = local.clone();
        tasks.spawn(async move {
            let router = local::router::router(sources);
            let served = axum::serve(socket, router);
            stop.run_until_cancelled_owned(async { served.await }).await;
            Ok(())
        });

        let kubeconfig = tenant.cluster.kubeconfig_for(SYSTEM, "seawall-mcp").await?;
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        let user_agent = user_agent.map(HeaderValue::from_static);
        config
            .headers
            .extend(user_agent.map(|value| (USER_AGENT, value)));
        let server = Server::deciding_by(
            decide,
            Settings {
                hosts: vec!["seawall.example".into()],
                origins: vec!["https://console.example:443".into()],
            },
            Client::new(&path)?,
            Cluster::new(config)?,
            cancel.clone(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/mcp", listener.local_addr()?);
        tasks.spawn(server.serve(listener, None));
        Ok(Self {
            tenant,
            operator,
            url,
            cancel,
            local,
            tasks,
            _folder: folder,
        })
    }

    /// An agent with a scope, in Kubernetes and with the operator, and its key.
    pub async fn agent(
        &self,
        name: &str,
        mut spec: Value,
        devices: &[&str],
    ) -> anyhow::Result<String> {
        let key = key::generate();
        spec["credentials"] = json!({"keyHashes": [key::hash(&key)]});
        let role = match spec["access"].as_str() {
            Some("Investigate") => "seawall-agent-investigate",
            Some("Contain") => "seawall-agent-contain",
            _ => "seawall-agent-manage",
        };
        let agent = self.tenant.scope(name, spec.clone(), devices).await?;
        let read: ApiKeyScopeSpec = serde_json::from_value(spec.clone())?;
        let pods = self.operator.target_pods(&read);
        let targets = json!({"devices": devices, "pods": pods});
        self.tenant.resolve_to(&agent, targets).await?;
        self.tenant.bind(&agent, role).await?;
        let path = format!(
            "/apis/seawall.dev/v1alpha1/namespaces/{}/policies",
            self.tenant.namespace
        );
        eventually("the agent's rights", Duration::from_secs(10), || async {
            Ok(agent.caller.get_path(&path).await.ok())
        })
        .await?;
        let devices = devices
            .iter()
            .map(|id| id.parse())
            .collect::<Result<_, _>>()?;
        let scope = (serde_json::from_value(spec)?, devices);
        self.operator
            .scopes
            .lock()
            .expect("not poisoned")
            .insert(ObjectKey::new(self.tenant.namespace, name), scope);
        Ok(key)
    }

    /// A client that speaks 2025-11-25, in a session.
    pub async fn client(&self, key: &str) -> anyhow::Result<Agent> {
        self.connect(key, ClientLifecycleMode::Initialize).await
    }

    /// A client that speaks 2026-07-28, without.
    pub async fn modern(&self, key: &str) -> anyhow::Result<Agent> {
        let preferred_versions = vec![ProtocolVersion::V_2026_07_28];
        self.connect(key, ClientLifecycleMode::Discover { preferred_versions })
            .await
    }

    async fn connect(&self, key: &str, mode: ClientLifecycleMode) -> anyhow::Result<Agent> {
        let config =
            StreamableHttpClientTransportConfig::with_uri(self.url.clone()).auth_header(key);
        let transport = StreamableHttpClientTransport::from_config(config);
        let client = ClientConfig::default()
            .serve_with_lifecycle(transport, mode)
            .await?;
        Ok(Agent { client })
    }

    /// The operator's socket is there and nobody answers.
    pub fn send_operator_away(&self) {
        self.local.cancel();
    }

    /// Ends the server as a signal does, and waits until all it started has ended.
    pub async fn end(mut self) -> anyhow::Result<()> {
        self.cancel.cancel();
        self.local.cancel();
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(25), all)
            .await
            .context("the server did not end")?
    }
}

pub struct Agent {
    pub client: RunningService<RoleClient, ClientConfig>,
}

impl Agent {
    /// The structured content of a call that succeeds.
    pub async fn call(&self, tool: &'static str, arguments: Value) -> anyhow::Result<Value> {
        let result = self.ask(tool, arguments).await?;
        let words = words(&result);
        ensure!(result.is_error != Some(true), "{tool} failed: {words}");
        ensure!(!words.is_empty(), "{tool} answered without words");
        result.structured_content.context("structured content")
    }

    /// Code and words of a call that fails.
    pub async fn failure(
        &self,
        tool: &'static str,
        arguments: Value,
    ) -> anyhow::Result<(String, String)> {
        let result = self.ask(tool, arguments).await?;
        let words = words(&result);
        ensure!(
            result.is_error == Some(true),
            "{tool} did not fail: {words}"
        );
        let meta = serde_json::to_value(&result.meta)?;
        let code = meta["seawall.dev/code"].as_str().context("a code")?;
        Ok((code.to_owned(), words))
    }

    pub async fn ask(
        &self,
        tool: &'static str,
        arguments: Value,
    ) -> anyhow::Result<CallToolResult> {
        let mut call = CallToolRequestParams::new(tool);
        call.arguments = arguments.as_object().cloned();
        Ok(self.client.call_tool(call).await?)
    }

    pub async fn tools(&self) -> anyhow::Result<Vec<String>> {
        let tools = self.client.list_all_tools().await?;
        Ok(tools.into_iter().map(|tool| tool.name.into()).collect())
    }
}

pub fn words(result: &CallToolResult) -> String {
    let content = serde_json::to_value(&result.content).unwrap_or_default();
    let texts = content.as_array().into_iter().flatten();
    texts
        .filter_map(|block| block["text"].as_str())
        .collect::<Vec<_>>()
        .join("\n")
}
