//! The gRPC server that agents talk to, and the tasks beside it.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context;
use futures::Stream;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};
use tonic::{Request, Response, Status, Streaming};

use super::proto::fleet_server::{Fleet as FleetService, FleetServer};
use super::proto::{AgentMessage, EnrollRequest, EnrollResponse, OperatorMessage};
use super::roster::Identity;
use super::session::Conversation;
use super::witness::Happening;
use super::{Fleet, remote, tls};
use crate::domain::names::DeviceId;

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PATIENCE: Duration = Duration::from_secs(10);
/// Connections that are ready and not yet served.
const MOST_READY: usize = 64;
const LONGEST_MESSAGE: usize = 1024 * 1024;
/// A connection has one session, and for a moment the one that replaces it.
const MOST_STREAMS: u32 = 4;
const GOODBYE_PATIENCE: Duration = Duration::from_secs(3);

/// What a connection's request carries.
type Peer = TlsConnectInfo<TcpConnectInfo>;

impl Fleet {
    /// Serves agents on `listener` until `stop`; ends earlier only by an error. Everything that the
    /// fleet does in the background happens in here.
    pub async fn serve(
        &self,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let config = tls::config(self.0.keys.clone())?;
        let (ready, connections) = mpsc::channel(MOST_READY);
        // An end of any of them ends the others.
        let stop = stop.child_token();
        let _all = stop.clone().drop_guard();
        let served = tokio::try_join!(
            tls::accept(listener, config, ready, stop.clone()),
            self.serve_grpc(connections, stop.clone()),
            async {
                self.send_waves(stop.clone()).await;
                Ok(())
            },
            self.keep(stop.clone()),
        );
        self.end_sessions(&shutting_down());
        self.save()
            .await
            .context("the fleet's last standings were not saved")?;
        served.map(|_| ())
    }

    async fn serve_grpc(
        &self,
        connections: mpsc::Receiver<std::io::Result<TlsStream<TcpStream>>>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let service = FleetServer::new(Service(self.clone()))
            .max_decoding_message_size(LONGEST_MESSAGE)
            .max_encoding_message_size(usize::MAX);
        let stopping = async {
            stop.cancelled().await;
            self.end_sessions(&shutting_down());
        };
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_PATIENCE))
            .max_concurrent_streams(MOST_STREAMS)
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(connections), stopping);
        tokio::pin!(server);
        tokio::select! {
            served = &mut server => return served.context("the fleet's server ended"),
            () = stop.cancelled() => {}
        }
        // A connection that does not end is dropped with the server.
        match timeout(GOODBYE_PATIENCE, server).await {
            Ok(served) => served.context("the fleet's server ended"),
            Err(_) => Ok(()),
        }
    }
}

fn shutting_down() -> Status {
    Status::unavailable("the operator is shutting down; try again in a moment")
}

pub(super) fn revoked() -> Status {
    Status::permission_denied(
        "this device was revoked: to have it back, enrol it anew with a new join token, or let a node of the cluster in again with `seawall fleet readmit NODE`",
    )
}

struct Service(Fleet);

#[tonic::async_trait]
impl FleetService for Service {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let from = from(&request);
        let enrolled = self.0.enrol(request.into_inner(), from).await?;
        Ok(Response::new(enrolled))
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<OperatorMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let from = from(&request);
        let device = self.0.recognise(&request, from)?;
        let conversation = Conversation::new(self.0.clone(), device, from, request.into_inner());
        Ok(Response::new(Box::pin(conversation.stream())))
    }
}

fn from<T>(request: &Request<T>) -> Option<IpAddr> {
    let peer = request.extensions().get::<Peer>()?;
    peer.get_ref().remote_addr().map(|address| address.ip())
}

impl Fleet {
    /// The device whose certificate the connection showed. TLS has checked that it is ours; whose it
    /// is, and whether it still counts, is looked up each time.
    fn recognise<T>(&self, request: &Request<T>, from: Option<IpAddr>) -> Result<DeviceId, Status> {
        if !self.is_leading() {
            return Err(super::not_leading());
        }
        let peer = request.extensions().get::<Peer>();
        let shown = peer.and_then(|peer| peer.peer_certs());
        let Some(certificate) = shown.as_ref().and_then(|certificates| certificates.first()) else {
            return Err(Status::unauthenticated(
                "a session needs the certificate that enrolment gave: enrol first",
            ));
        };
        let fingerprint = Sha256::digest(certificate).into();
        let identity = self.roster().identify(&fingerprint);
        let (device, status) = match identity {
            Identity::Device(device) => return Ok(device),
            Identity::Revoked(device) => (Some(device), revoked()),
            Identity::Unknown => (None, unknown()),
        };
        if self.is_news(from) {
            let happening = Happening::SessionRefused {
                fingerprint: hex::encode(fingerprint),
                device,
            };
            self.tell(remote(from), None, happening);
        }
        Err(status)
    }

    /// Whether the witness has to hear of this stranger again.
    pub(super) fn is_news(&self, from: Option<IpAddr>) -> bool {
        let Some(address) = from else { return true };
        self.strangers().take(address, Instant::now()).is_ok()
    }
}

fn unknown() -> Status {
    Status::unauthenticated(
        "this certificate belongs to no device that is enrolled here: enrol anew with a join token",
    )
}

// The connection info of a TLS stream is what `from` and `recognise` look for.
const _: fn() = || {
    fn carries<T: Connected<ConnectInfo = Peer>>() {}
    carries::<TlsStream<TcpStream>>();
};
