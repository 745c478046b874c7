//! What one host can begin with another, asked afresh: connect, exchange a datagram, be answered.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::flow::{echo_request, echo_socket};
use super::host::{Family, Host};

/// Answers what it is sent, by TCP and UDP on one port, IPv4 and IPv6. Ends when it is dropped.
pub struct Responder {
    host: Host,
    port: u16,
    _tasks: JoinSet<()>,
}

impl Responder {
    pub async fn start(host: &Host, port: u16) -> anyhow::Result<Self> {
        let any: SocketAddr = format!("[::]:{port}").parse()?;
        // A datagram is answered from the address that it was sent to, of a host that has several.
        let own = Family::BOTH.map(|family| SocketAddr::new(host.address(family), port));
        let sockets = move || {
            let tcp = std::net::TcpListener::bind(any)?;
            let udp = own.map(std::net::UdpSocket::bind);
            anyhow::Ok((tcp, udp))
        };
        let (tcp, udp) = host.inside(sockets).await??;
        tcp.set_nonblocking(true)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(answer_streams(TcpListener::from_std(tcp)?));
        for socket in udp {
            let socket = socket?;
            socket.set_nonblocking(true)?;
            tasks.spawn(answer_datagrams(UdpSocket::from_std(socket)?));
        }
        Ok(Self {
            host: host.clone(),
            port,
            _tasks: tasks,
        })
    }

    pub fn host(&self) -> &Host {
        &self.host
    }

    pub fn address(&self, family: Family) -> SocketAddr {
        SocketAddr::new(self.host.address(family), self.port)
    }
}

async fn answer_streams(listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let Ok((mut stream, _)) = accepted else {
            continue;
        };
        connections.spawn(async move {
            let (mut from, mut to) = stream.split();
            // A peer that goes away ends it, whichever way.
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
    }
}

async fn answer_datagrams(socket: UdpSocket) {
    let mut buffer = [0; 256];
    loop {
        if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            // An answer that a filter drops is what the one who asks is to notice.
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    }
}

/// How an attempt at a TCP connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// And a byte came back.
    Answered,
    /// By a reset: somebody is there.
    Refused,
    /// No answer in time, or the host's own filter said no.
    Silent,
}

/// Connects and exchanges a byte with a responder.
pub async fn connect(from: &Host, to: SocketAddr, limit: Duration) -> anyhow::Result<Connection> {
    let attempt = from.inside(move || std::net::TcpStream::connect_timeout(&to, limit));
    let stream = match attempt.await? {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Ok(Connection::Refused);
        }
        Err(_) => return Ok(Connection::Silent),
    };
    stream.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(stream)?;
    let exchange = async {
        stream.write_all(b"?").await?;
        stream.read_u8().await
    };
    Ok(match timeout(limit, exchange).await {
        Ok(Ok(b'?')) => Connection::Answered,
        _ => Connection::Silent,
    })
}

/// What is answered, by protocol and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    pub tcp4: bool,
    pub tcp6: bool,
    pub udp4: bool,
    pub udp6: bool,
    pub icmp4: bool,
    pub icmp6: bool,
}

impl Reach {
    pub const ALL: Self = Self::of(true);
    pub const NONE: Self = Self::of(false);

    const fn of(all: bool) -> Self {
        Self {
            tcp4: all,
            tcp6: all,
            udp4: all,
            udp6: all,
            icmp4: all,
            icmp6: all,
        }
    }
}

/// Tries all six at once. What is not answered within `limit` counts as unreachable.
pub async fn reach(from: &Host, to: &Responder, limit: Duration) -> anyhow::Result<Reach> {
    let tcp = async |family| {
        let outcome = connect(from, to.address(family), limit).await?;
        anyhow::Ok(outcome == Connection::Answered)
    };
    let udp = async |family| {
        let any = SocketAddr::new(from.address(family), 0);
        let socket = from
            .inside(move || std::net::UdpSocket::bind(any))
            .await??;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        socket.connect(to.address(family)).await?;
        anyhow::Ok(answered(&socket, b"?", limit).await)
    };
    let icmp = async |family| {
        let socket = from.inside(move || echo_socket(family)).await??;
        socket
            .connect(SocketAddr::new(to.address(family).ip(), 0))
            .await?;
        anyhow::Ok(answered(&socket, &echo_request(family, b"?"), limit).await)
    };
    let (tcp4, tcp6, udp4, udp6, icmp4, icmp6) = tokio::try_join!(
        tcp(Family::V4),
        tcp(Family::V6),
        udp(Family::V4),
        udp(Family::V6),
        icmp(Family::V4),
        icmp(Family::V6),
    )
    .context("trying what can be reached")?;
    Ok(Reach {
        tcp4,
        tcp6,
        udp4,
        udp6,
        icmp4,
        icmp6,
    })
}

/// Sends it, and again since datagrams may get lost, until something that ends alike comes back.
async fn answered(socket: &UdpSocket, datagram: &[u8], limit: Duration) -> bool {
    let exchange = async {
        let mut buffer = [0; 256];
        loop {
            // Refused by the host's own filter: the next try is refused as well, and time runs out.
            let _ = socket.send(datagram).await;
            let answer = timeout(limit / 4, socket.recv(&mut buffer)).await;
            if let Ok(Ok(length)) = answer
                && buffer[..length].last() == datagram.last()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(limit, exchange).await.is_ok()
}
