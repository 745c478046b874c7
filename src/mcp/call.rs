//! One call of one tool, from the decision to the audit entry. Tools are given a [`Call`] and ask
//! through it; none writes before [`Call::begin`] has answered, which is when the intent is durable.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use jiff::Timestamp;
use rmcp::model::JsonObject;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::answer::{Failure, Reply};
use super::cluster::Cluster;
use super::front::Caller;
use super::metrics::Metrics;
use super::{arguments, tools};
use crate::access::decide::Decide;
use crate::access::rates::Rates;
use crate::access::{Circumstances, Decision, Intent, Principal, Rate, RefusalCode, Tool};
use crate::domain::names::DeviceId;
use crate::local::client::Client;
use crate::local::types::{
    AgentAct, AgentRecord, DeviceView, NOT_FOUND, Outcome, Program, Touched, UNAVAILABLE,
};

/// Bytes of arguments that a refusal is entered with: whoever sends more must not stay out of the log by
/// it. An entry has 60,000.
const MOST_ARGUMENTS: usize = 40_000;

/// What all calls share.
pub struct Shared {
    pub operator: Client,
    pub cluster: Cluster,
    pub decide: Decide,
    pub rates: Rates,
    pub metrics: Arc<Metrics>,
    /// To the task that enters reads in the audit log.
    pub reads: mpsc::Sender<(String, AgentRecord)>,
}

pub struct Call {
    pub tool: Tool,
    pub principal: Arc<Principal>,
    pub arguments: JsonObject,
    pub shared: Arc<Shared>,
    /// Tells this call from others in the audit log.
    id: String,
    /// The program that the agent uses, as it told.
    client: Option<Program>,
    /// What the call is about, once the tool has said so.
    about: OnceLock<String>,
    /// An action's intent or refusal is in the audit log, or is left out of it on purpose.
    accounted: AtomicBool,
    /// When its request came.
    pub arrived: Instant,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.tool.name())
    }
}

/// An action whose intent is durable.
#[derive(Debug)]
pub struct Action {
    /// The id of the intent's entry.
    pub intent: String,
    dry_run: bool,
}

/// An action that was done, or would have been.
pub struct Done {
    pub reply: Reply,
    /// What was written or deleted.
    pub resources: Vec<Touched>,
}

impl Call {
    pub fn new(
        tool: Tool,
        caller: Caller,
        client: Option<Program>,
        arguments: JsonObject,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            tool,
            client,
            about: OnceLock::new(),
            accounted: AtomicBool::new(false),
            principal: caller.principal,
            arguments,
            shared,
            id: format!("call_{}", ulid::Ulid::generate().to_string().to_lowercase()),
            arrived: caller.arrived,
        }
    }

    /// Decides, runs the tool, and enters in the audit log what the tool did not enter itself.
    pub async fn run(self) -> Result<Reply, Failure> {
        let answer = match self.admit().await {
            Err(refused) => Err(refused),
            Ok(()) => tools::run(&self).await,
        };
        let outcome = answer
            .as_ref()
            .map_or_else(|failure| failure.code, |_| "done");
        let elapsed = self.arrived.elapsed();
        self.shared
            .metrics
            .call(self.tool, outcome, elapsed.as_secs_f64());
        tracing::info!(
            call = self.id,
            tool = self.tool.name(),
            tenant = self.principal.tenant,
            agent = self.principal.agent,
            outcome,
            milliseconds = self.milliseconds(),
            "tool call"
        );
        match &answer {
            // It failed before it was begun: a wrong argument, a device that there is not.
            Err(failure) if self.tool.is_action() && !self.accounted.load(Ordering::Relaxed) => {
                self.enter_refusal(failure).await;
            }
            _ if self.tool.is_action() => {}
            _ => self.enter_read(&answer),
        }
        answer
    }

    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let definition = tools::definition(self.tool);
        arguments::read(self.tool, &definition.input_schema, &self.arguments)
    }

    /// Says what the call is about, for the audit log: a device's id, a network, a policy's name.
    pub fn about(&self, target: &str) {
        self.about.get_or_init(|| target.to_owned());
    }

    pub fn milliseconds(&self) -> u64 {
        u64::try_from(self.arrived.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A client of the API server that is this agent.
    pub fn cluster(&self) -> Result<kube::Client, Failure> {
        self.shared.cluster.as_agent(&self.principal)
    }

    /// A device of the tenant.
    pub async fn device(&self, id: &str) -> Result<DeviceView, Failure> {
        let id: DeviceId = id.parse().map_err(|error| {
            Failure::invalid(format!("{error}; list_devices gives the ids there are"))
        })?;
        let found = self
            .shared
            .operator
            .device(&self.principal.tenant, &id)
            .await;
        found.map_err(|problem| match problem.code.as_str() {
            NOT_FOUND => Failure::not_found(format!(
                "no device {id} is enrolled in {}: list_devices gives the ids there are",
                self.principal.tenant
            )),
            _ => problem.into(),
        })
    }

    /// As the call comes in, before anything is known but the tool.
    async fn admit(&self) -> Result<(), Failure> {
        let calls = self.shared.rates.call(&self.principal, Instant::now());
        self.decided(&Intent::of(self.tool), calls, Rate::Within)
            .await
    }

    /// Once it is known what would be acted on.
    pub async fn permit(&self, intent: &Intent) -> Result<(), Failure> {
        let actions = self
            .shared
            .rates
            .action_left(&self.principal, Instant::now());
        self.decided(intent, Rate::Within, actions).await
    }

    async fn decided(&self, intent: &Intent, calls: Rate, actions: Rate) -> Result<(), Failure> {
        let circumstances = Circumstances {
            now: Timestamp::now(),
            calls,
            actions,
        };
        match (self.shared.decide)(&self.principal, intent, &circumstances) {
            Decision::Allow => Ok(()),
            Decision::Refuse(refusal) => {
                let code = refusal.code;
                let failure = Failure::from(refusal);
                // A runaway agent must not be able to fill the log with refusals of its rate.
                let by_rate = matches!(
                    code,
                    RefusalCode::CallsPerMinute | RefusalCode::ActionsPerHour
                );
                if !by_rate || self.shared.rates.is_news(&self.principal, Instant::now()) {
                    self.enter_refusal(&failure).await;
                }
                self.accounted.store(true, Ordering::Relaxed);
                Err(failure)
            }
        }
    }

    /// A refusal that is no decision of the scope, such as of a target that must not be cut.
    pub async fn refuse(&self, failure: Failure) -> Failure {
        self.enter_refusal(&failure).await;
        failure
    }

    async fn enter_refusal(&self, failure: &Failure) {
        self.accounted.store(true, Ordering::Relaxed);
        let bytes = serde_json::to_vec(&self.arguments).map_or(0, |bytes| bytes.len());
        let arguments = if bytes <= MOST_ARGUMENTS {
            Value::Object(self.arguments.clone())
        } else {
            json!({ "leftOut": format!("{bytes} bytes, too long for an entry") })
        };
        let record = self.record(AgentAct::Refusal {
            arguments,
            code: failure.code.into(),
            message: failure.message.clone(),
        });
        // Nothing was done, so nothing depends on it; the operator's absence is logged by the client.
        let entered = self.shared.operator.append(&self.principal.tenant, &record);
        if let Err(problem) = entered.await {
            tracing::error!(
                call = self.id,
                problem = problem.message,
                "a refusal is not in the audit log"
            );
        }
    }

    /// Counts the action and has its intent entered. Only when this returned may anything be written.
    pub async fn begin(&self, reason: &str, dry_run: bool) -> Result<Action, Failure> {
        if !dry_run {
            let actions = self.shared.rates.action(&self.principal, Instant::now());
            // Another call may have been faster since it was permitted.
            self.decided(&Intent::of(self.tool), Rate::Within, actions)
                .await?;
        }
        let record = self.record(AgentAct::Intent {
            arguments: Value::Object(self.arguments.clone()),
            reason: reason.into(),
            dry_run,
        });
        let entered = self.shared.operator.append(&self.principal.tenant, &record);
        let appended = entered.await.map_err(|problem| {
            let words = format!(
                "nothing was done, because the audit log can't be written now: {}",
                problem.message
            );
            match problem.code.as_str() {
                UNAVAILABLE => Failure::unavailable(words),
                _ => Failure::invalid(words),
            }
        })?;
        self.accounted.store(true, Ordering::Relaxed);
        Ok(Action {
            intent: appended.id,
            dry_run,
        })
    }

    /// Has the outcome entered, and answers.
    pub async fn end(&self, action: Action, done: Result<Done, Failure>) -> Result<Reply, Failure> {
        let (outcome, resources, message) = match &done {
            Ok(done) => (
                Outcome::Done,
                done.resources.clone(),
                done.reply.text.clone(),
            ),
            Err(failure) => (failure.outcome(), Vec::new(), failure.message.clone()),
        };
        let record = self.record(AgentAct::Outcome {
            intent: action.intent,
            dry_run: action.dry_run,
            outcome,
            resources,
            message,
            milliseconds: self.milliseconds(),
        });
        let mut answer = done.map(|done| done.reply);
        let entered = self.shared.operator.append(&self.principal.tenant, &record);
        if let Err(problem) = entered.await {
            // What was done is done, and its intent is in the log: the agent is told, not refused.
            tracing::error!(
                call = self.id,
                problem = problem.message,
                "an outcome is not in the audit log"
            );
            if let Ok(reply) = &mut answer {
                reply
                    .text
                    .push_str(" The audit log has the intent, but could not take the outcome.");
            }
        }
        answer
    }

    fn record(&self, what: AgentAct) -> AgentRecord {
        AgentRecord {
            agent: self.principal.agent.clone(),
            user: self.principal.user.clone(),
            client: self.client.clone(),
            tool: self.tool.name().into(),
            call: self.id.clone(),
            target: self.about.get().cloned(),
            what,
        }
    }

    fn enter_read(&self, answer: &Result<Reply, Failure>) {
        let record = self.record(AgentAct::Read {
            arguments: Value::Object(self.arguments.clone()),
            outcome: match answer {
                Ok(_) => Outcome::Done,
                Err(failure) => failure.outcome(),
            },
            milliseconds: self.milliseconds(),
        });
        let entry = (self.principal.tenant.clone(), record);
        if self.shared.reads.try_send(entry).is_err() {
            self.shared.metrics.reads_not_audited(1);
        }
    }
}
