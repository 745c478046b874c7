//! A device that speaks an agent's side of the protocol and acknowledges whatever it is sent, without a
//! kernel behind it: what the operator does is under test here. It reconnects, as an agent does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair};
use seawall::domain::enforcement::Bundle;
use seawall::fleet::join_token::JoinToken;
use seawall::fleet::keys::SERVER_NAME;
use seawall::fleet::proto::fleet_client::FleetClient;
use seawall::fleet::proto::{self, AgentMessage, agent_message, operator_message};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub struct Device {
    pub id: String,
    bundles: Arc<Mutex<Vec<Bundle>>>,
    session: JoinHandle<()>,
}

struct Enrolled {
    token: JoinToken,
    identity: Identity,
    facts: proto::Facts,
}

impl Device {
    /// Enrols and keeps a session open.
    pub async fn enrol(token: &str, address: &str) -> anyhow::Result<Self> {
        let token = JoinToken::decode(token)?;
        let facts = proto::Facts {
            host_name: "fake".to_owned(),
            addresses: vec![address.to_owned()],
            ..proto::Facts::default()
        };
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        let request = proto::EnrollRequest {
            token_id: token.id.clone(),
            token_secret: token.secret.to_vec(),
            certificate_request: request.der().to_vec(),
            facts: Some(facts.clone()),
            node_token: String::new(),
        };
        let answer = enroll(&token, &request).await?;
        let certificate = pem(&answer.certificate);
        let enrolled = Enrolled {
            token,
            identity: Identity::from_pem(certificate, key.serialize_pem()),
            facts,
        };
        let bundles = Arc::<Mutex<Vec<Bundle>>>::default();
        let seen = Arc::clone(&bundles);
        let session = tokio::spawn(async move {
            loop {
                // It ends with the operator; another operator may listen there a moment later.
                let _ = enrolled.session(&seen).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Ok(Self {
            id: answer.device_id,
            bundles,
            session,
        })
    }

    /// Every bundle that it was sent, oldest first.
    pub fn bundles(&self) -> Vec<Bundle> {
        self.bundles.lock().expect("nobody panics with it").clone()
    }

    /// Whether the last bundle isolates it.
    pub fn is_isolated(&self) -> bool {
        let last = self.bundles().pop();
        last.is_some_and(|bundle| bundle.state.isolation.is_some())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.session.abort();
    }
}

impl Enrolled {
    async fn session(&self, bundles: &Mutex<Vec<Bundle>>) -> anyhow::Result<()> {
        let mut client = connect(&self.token, Some(self.identity.clone())).await?;
        let (say, said) = mpsc::channel(16);
        let last = bundles
            .lock()
            .expect("nobody panics with it")
            .last()
            .cloned();
        let hello = proto::Hello {
            facts: Some(self.facts.clone()),
            applied: last.as_ref().map(applied),
        };
        say.send(message(agent_message::Message::Hello(hello)))
            .await?;
        let answer = client.session(ReceiverStream::new(said)).await?;
        let mut incoming = answer.into_inner();
        // As an agent does, or the operator gives the session up.
        let mut beats = tokio::time::interval(Duration::from_secs(15));
        loop {
            let next = tokio::select! {
                next = incoming.message() => next?,
                _ = beats.tick() => {
                    let beat = {
                        let bundles = bundles.lock().expect("nobody panics with it");
                        proto::Heartbeat {
                            applied: bundles.last().map(applied),
                            ..proto::Heartbeat::default()
                        }
                    };
                    say.send(message(agent_message::Message::Heartbeat(beat))).await?;
                    continue;
                }
            };
            let Some(next) = next else {
                return Ok(());
            };
            if let Some(operator_message::Message::Bundle(signed)) = next.message {
                let bundle: Bundle = serde_json::from_slice(&signed.payload)?;
                let ack = proto::Ack {
                    applied: Some(applied(&bundle)),
                    ..proto::Ack::default()
                };
                bundles.lock().expect("nobody panics with it").push(bundle);
                say.send(message(agent_message::Message::Ack(ack))).await?;
            }
        }
    }
}

async fn connect(
    token: &JoinToken,
    identity: Option<Identity>,
) -> anyhow::Result<FleetClient<Channel>> {
    let ca = Certificate::from_pem(pem(&token.ca_certificate));
    let mut tls = ClientTlsConfig::new()
        .domain_name(SERVER_NAME)
        .ca_certificate(ca);
    if let Some(identity) = identity {
        tls = tls.identity(identity);
    }
    let address = token.addresses.first().context("a token has an address")?;
    let channel = Endpoint::from_shared(format!("https://{address}"))?
        .connect_timeout(Duration::from_secs(2))
        .tls_config(tls)?
        .connect()
        .await?;
    Ok(FleetClient::new(channel).max_decoding_message_size(64 << 20))
}

fn message(message: agent_message::Message) -> AgentMessage {
    AgentMessage {
        message: Some(message),
    }
}

fn applied(bundle: &Bundle) -> proto::Applied {
    proto::Applied {
        epoch: bundle.epoch,
        revision: bundle.revision,
        state_hash: bundle.state_hash.clone(),
        ..proto::Applied::default()
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

/// As an agent does: where too many enrol at a time, a little later.
async fn enroll(
    token: &JoinToken,
    request: &proto::EnrollRequest,
) -> anyhow::Result<proto::EnrollResponse> {
    let mut client = connect(token, None).await?;
    loop {
        match client.enroll(request.clone()).await {
            Err(status) if status.code() == tonic::Code::ResourceExhausted => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            answer => return Ok(answer?.into_inner()),
        }
    }
}
