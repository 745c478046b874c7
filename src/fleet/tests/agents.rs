//! A client that speaks an agent's side of the protocol.

use std::net::SocketAddr;
use std::time::Duration;

use ed25519_dalek::{Signature, VerifyingKey};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Status, Streaming};

use super::lab::{Lab, PATIENCE};
use crate::domain::enforcement::{BUNDLE_CONTEXT, Bundle};
use crate::domain::names::DeviceId;
use crate::fleet::join_token::JoinToken;
use crate::fleet::keys::SERVER_NAME;
use crate::fleet::proto::fleet_client::FleetClient;
use crate::fleet::proto::{self, AgentMessage, agent_message, operator_message};

/// What enrolment left on the device.
#[derive(Clone)]
pub struct Device {
    pub id: DeviceId,
    pub identity: Identity,
    pub bundle_key: VerifyingKey,
}

/// An open session.
pub struct Agent {
    outgoing: mpsc::Sender<AgentMessage>,
    pub incoming: Streaming<proto::OperatorMessage>,
    bundle_key: VerifyingKey,
}

pub async fn connect(
    lab: &Lab,
    identity: Option<Identity>,
) -> Result<FleetClient<Channel>, tonic::transport::Error> {
    let ca = Certificate::from_pem(lab.keys.authority.certificate_pem());
    let mut tls = ClientTlsConfig::new()
        .domain_name(SERVER_NAME)
        .ca_certificate(ca);
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let address: SocketAddr = lab.address;
    let channel = Endpoint::from_shared(format!("https://{address}"))?
        .connect_timeout(Duration::from_secs(5))
        .tls_config(tls)?
        .connect()
        .await?;
    Ok(FleetClient::new(channel).max_decoding_message_size(64 << 20))
}

pub fn facts(addresses: &[&str]) -> proto::Facts {
    proto::Facts {
        host_name: "lap\u{1b}top".to_owned(),
        os: "Debian 12".to_owned(),
        addresses: addresses.iter().map(|text| text.to_string()).collect(),
        ..Default::default()
    }
}

pub fn request(token: &JoinToken, key: &KeyPair) -> proto::EnrollRequest {
    let csr = CertificateParams::default().serialize_request(key).unwrap();
    proto::EnrollRequest {
        token_id: token.id.clone(),
        token_secret: token.secret.to_vec(),
        certificate_request: csr.der().to_vec(),
        facts: Some(facts(&["10.0.0.1"])),
        node_token: String::new(),
    }
}

impl Device {
    pub async fn enrol(lab: &Lab, token: &JoinToken) -> Result<Self, Status> {
        let key = KeyPair::generate().unwrap();
        let mut client = connect(lab, None).await.unwrap();
        let answer = client.enroll(request(token, &key)).await?.into_inner();
        Ok(Self::of(answer, &key))
    }

    pub fn of(answer: proto::EnrollResponse, key: &KeyPair) -> Self {
        let certificate = pem("CERTIFICATE", &answer.certificate);
        let bundle_key = answer.bundle_keys[0].as_slice().try_into().unwrap();
        Self {
            id: answer.device_id.parse().unwrap(),
            identity: Identity::from_pem(certificate, key.serialize_pem()),
            bundle_key: VerifyingKey::from_bytes(bundle_key).unwrap(),
        }
    }

    pub async fn new(lab: &Lab) -> Self {
        let token = lab.token(1).await;
        Self::enrol(lab, &token).await.unwrap()
    }

    /// Opens a session and says hello with what is applied.
    pub async fn hello(&self, lab: &Lab, applied: Option<proto::Applied>) -> Agent {
        let agent = self.open(lab).await.unwrap();
        let hello = proto::Hello {
            facts: Some(facts(&["10.0.0.1"])),
            applied,
        };
        agent.say(agent_message::Message::Hello(hello)).await;
        agent
    }

    /// A session that is not greeted yet.
    pub async fn open(&self, lab: &Lab) -> Result<Agent, Status> {
        let mut client = connect(lab, Some(self.identity.clone())).await.unwrap();
        let (outgoing, messages) = mpsc::channel(1000);
        let answer = client.session(ReceiverStream::new(messages)).await?;
        Ok(Agent {
            outgoing,
            incoming: answer.into_inner(),
            bundle_key: self.bundle_key,
        })
    }
}

impl Agent {
    pub async fn say(&self, message: agent_message::Message) {
        let message = AgentMessage {
            message: Some(message),
        };
        let said = self.outgoing.send(message).await;
        said.expect("the stream is open");
    }

    /// Says much until the operator has enough of it.
    pub async fn chatter(&self, message: agent_message::Message) {
        for _ in 0..1000 {
            let message = Some(message.clone());
            if self.outgoing.send(AgentMessage { message }).await.is_err() {
                return;
            }
        }
    }

    pub async fn acknowledge(&self, bundle: &Bundle, connections_cut: u32) {
        let ack = proto::Ack {
            applied: Some(applied(bundle)),
            connections_cut,
            ..Default::default()
        };
        self.say(agent_message::Message::Ack(ack)).await;
    }

    pub async fn next(&mut self) -> Result<operator_message::Message, Status> {
        let next = timeout(PATIENCE, self.incoming.message()).await;
        let next = next.expect("the operator says something")?;
        next.and_then(|next| next.message)
            .ok_or_else(|| Status::cancelled("the stream ended without a reason"))
    }

    /// The next message, which is a bundle that the pinned key signed.
    pub async fn bundle(&mut self) -> Bundle {
        let operator_message::Message::Bundle(signed) = self.next().await.unwrap() else {
            panic!("not a bundle");
        };
        let message = [BUNDLE_CONTEXT, &signed.payload].concat();
        let signature = Signature::from_slice(&signed.signature).unwrap();
        let checked = self.bundle_key.verify_strict(&message, &signature);
        checked.expect("the operator signed it");
        serde_json::from_slice(&signed.payload).unwrap()
    }

    /// Why the stream ends, whatever else is said before.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    /// Nothing is said for a while.
    pub async fn silence(&mut self, while_: Duration) {
        if let Ok(said) = timeout(while_, self.incoming.message()).await {
            panic!("silence was expected, and this came: {said:?}");
        }
    }
}

pub fn applied(bundle: &Bundle) -> proto::Applied {
    proto::Applied {
        epoch: bundle.epoch,
        revision: bundle.revision,
        state_hash: bundle.state_hash.clone(),
        ..proto::Applied::default()
    }
}

pub fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}
