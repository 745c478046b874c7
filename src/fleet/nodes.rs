//! Enrolment of the cluster's nodes: an agent shows the token that the API server made for its pod, and
//! the API server says on which node that pod runs. Nothing that the agent says of itself counts.
//!
//! A node is one device for as long as the store remembers it: who enrols again under its name gets the
//! same id with a new certificate, and the one before counts no more.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tonic::Status;

use super::administration::{AdministrationError, Done};
use super::enrol::{Failure, check_length, newcomer, refuse};
use super::proto::{EnrollRequest, EnrollResponse};
use super::records::{DeviceRecord, Fingerprint};
use super::roster::KnownNode;
use super::witness::{EnrolmentRefusal, Happening};
use super::{Fleet, clean, records, remote};
use crate::domain::names::DeviceId;

/// Asks whose token it is. The fleet has no client for the API server; the operator brings one.
#[async_trait]
pub trait NodeTokens: Send + Sync {
    /// The node of the pod that the token was made for.
    async fn node_of(&self, token: &str) -> Result<String, NodeTokenError>;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeTokenError {
    /// It is no token of an agent on a node.
    #[error("{0}")]
    Refused(String),
    /// Nobody could say; another time somebody can.
    #[error("{0}")]
    Unavailable(String),
}

/// How nodes enrol.
pub struct Nodes {
    tokens: Arc<dyn NodeTokens>,
    /// Where their devices belong.
    tenant: String,
    /// Held while a node is looked up and stored.
    turn: tokio::sync::Mutex<()>,
}

impl Nodes {
    pub fn new(tokens: Arc<dyn NodeTokens>, tenant: String) -> Self {
        Self {
            tokens,
            tenant,
            turn: tokio::sync::Mutex::default(),
        }
    }
}

impl Fleet {
    pub(super) async fn enrol_node(
        &self,
        request: &EnrollRequest,
        from: Option<IpAddr>,
    ) -> Result<EnrollResponse, Failure> {
        let Some(nodes) = &self.0.nodes else {
            return Err(no_nodes());
        };
        check_length(&request.node_token, "the node's token", None)?;
        let node = nodes.tokens.node_of(&request.node_token).await;
        let node = node.map_err(not_a_node)?;
        let tenant = Some(nodes.tenant.clone());
        check_length(
            &request.certificate_request,
            "the certificate request",
            tenant.clone(),
        )?;
        let _turn = nodes.turn.lock().await;
        let known = self.known_node(&node).await?;
        let (id, again) = match known {
            Some(KnownNode::Revoked) => return Err(revoked(&node, tenant)),
            Some(KnownNode::Member(id)) => (id, true),
            None => (DeviceId::from_ulid(ulid::Ulid::generate()), false),
        };
        let certificate = self.certify(&id, request, tenant)?;
        let mut device = newcomer(&id, request, from, records::now());
        device.tenant = nodes.tenant.clone();
        device.fingerprint = Sha256::digest(&certificate).into();
        device.node = Some(node);
        match again {
            true => self.renew(&device, from).await?,
            false => {
                self.0.store.insert_node(&device).await?;
                self.welcome(device, from);
            }
        }
        Ok(self.enrolled(&id, &nodes.tenant, certificate))
    }

    /// An enrolment may have been stored although its answer was lost: then the store knows of it alone.
    async fn known_node(&self, node: &str) -> anyhow::Result<Option<KnownNode>> {
        if let Some(known) = self.roster().node(node) {
            return Ok(Some(known));
        }
        let Some(stored) = self.0.store.of_node(node).await? else {
            return Ok(None);
        };
        self.roster().insert(stored);
        self.facts_changed();
        Ok(self.roster().node(node))
    }

    /// The same device with another certificate. Its stream, if it has one, ends.
    async fn renew(&self, device: &DeviceRecord, from: Option<IpAddr>) -> anyhow::Result<()> {
        let (fingerprint, at) = (device.fingerprint, device.enrolled_at);
        self.0.store.renew(&device.id, fingerprint, at).await?;
        let over = Status::aborted("this node enrolled again, with another certificate");
        self.roster().renew(&device.id, fingerprint, at, over);
        self.changed();
        self.greet(device, from);
        Ok(())
    }

    /// Lets a node enrol again that was revoked. The certificate that it had counts no more.
    pub async fn readmit(&self, node: &str, by: &str) -> Done<DeviceId> {
        self.check_leading()?;
        let no_such = || AdministrationError::NoSuchNode(clean::line(node, 253));
        let nodes = self.0.nodes.as_ref().ok_or_else(no_such)?;
        let _turn = nodes.turn.lock().await;
        let device = self.roster().revoked_node(node).ok_or_else(no_such)?;
        // Of no certificate: the node has to enrol before it is served.
        let nobody: Fingerprint = rand::random();
        self.0.store.readmit(&device.id, nobody).await?;
        self.roster().readmit(node, nobody);
        let happening = Happening::DeviceReadmitted {
            device: device.id.clone(),
            node: clean::line(node, 253),
        };
        self.tell(by.to_owned(), Some(device.tenant), happening);
        self.facts_changed();
        Ok(device.id)
    }

    /// Tells of an enrolment.
    pub(super) fn greet(&self, device: &DeviceRecord, from: Option<IpAddr>) {
        let node = device.node.clone();
        tracing::info!(device = %device.id, tenant = device.tenant, node, ?from, "a device enrolled");
        let happening = Happening::Enrolled {
            device: device.id.clone(),
            token: device.token.clone(),
            node,
            host_name: device.standing.facts.host_name.clone(),
            tags: device.tags.clone(),
        };
        self.tell(remote(from), Some(device.tenant.clone()), happening);
    }
}

fn no_nodes() -> Failure {
    let words = "this operator enrols no nodes: start it with --node-service-account (the chart does, with agent.enabled), or enrol with a join token";
    refuse(
        EnrolmentRefusal::NodesNotEnrolled,
        None,
        Status::failed_precondition(words),
    )
}

fn not_a_node(error: NodeTokenError) -> Failure {
    match error {
        NodeTokenError::Unavailable(why) => Failure::NobodyToAsk(why),
        NodeTokenError::Refused(why) => refuse(
            EnrolmentRefusal::NodeTokenNotAccepted,
            None,
            Status::unauthenticated(format!("the node's token is not accepted: {why}")),
        ),
    }
}

fn revoked(node: &str, tenant: Option<String>) -> Failure {
    let words = format!(
        "the node {node} was revoked and does not come back by itself: run `seawall fleet readmit {node}` to let it in again"
    );
    let status = Status::failed_precondition(words);
    refuse(EnrolmentRefusal::NodeRevoked, tenant, status)
}
