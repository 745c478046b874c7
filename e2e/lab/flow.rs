//! Traffic that goes on until it is dropped: a TCP connection or datagrams with data in both directions,
//! or echo requests; one packet each interval.
//!
//! Sockets are made in the hosts' namespaces and served by the tests' own runtime, so hundreds of flows
//! cost no threads.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::host::{Family, Host};
use super::record::{Cut, FRAME, Record, decode, encode};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Tcp,
    Udp,
    /// Echo requests; what is recorded is their answers.
    Icmp,
}

impl Transport {
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];
}

/// Ends when it is dropped.
pub struct Flow {
    records: Vec<Record>,
    tasks: JoinSet<()>,
    /// They must not go while it flows.
    _ends: [Host; 2],
}

impl Flow {
    /// Opens a flow and waits until packets arrive in each of its directions.
    pub async fn open(
        transport: Transport,
        family: Family,
        from: &Host,
        to: &Host,
        every: Duration,
    ) -> anyhow::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let record = |a: &Host, b: &Host, how: &str| {
            Record::new(format!(
                "{transport:?}{family:?} {} → {}{how}",
                a.name(),
                b.name()
            ))
        };
        let mut flow = Self {
            records: vec![record(from, to, "")],
            tasks: JoinSet::new(),
            _ends: [from.clone(), to.clone()],
        };
        if transport != Transport::Icmp {
            flow.records.push(record(to, from, " (answers)"));
        }
        let opened = match transport {
            Transport::Tcp => flow.open_tcp(id, family, from, to, every).await,
            Transport::Udp => flow.open_udp(id, family, from, to, every).await,
            Transport::Icmp => flow.open_icmp(id, family, from, to, every).await,
        };
        opened.with_context(|| flow.records[0].label().to_owned())?;
        flow.flows(Duration::from_secs(5)).await?;
        Ok(flow)
    }

    /// Its directions: there, and back where it has one.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Waits until packets that are sent from now on arrive in each direction.
    pub async fn flows(&self, limit: Duration) -> anyhow::Result<()> {
        for record in &self.records {
            record.flows(limit).await?;
        }
        Ok(())
    }

    /// That each direction flowed until the action, and that nothing sent since `done` has arrived until
    /// now. The last direction to die counts.
    pub fn cut(&self, action: Instant, done: Instant) -> anyhow::Result<Cut> {
        let cuts: anyhow::Result<Vec<Cut>> = self
            .records
            .iter()
            .map(|record| record.cut(action, done))
            .collect();
        let latest = cuts?.into_iter().max_by_key(|cut| cut.latency);
        latest.context("a flow has a direction")
    }

    /// Stops sending, as a program that has nothing more to say does.
    pub async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    async fn open_tcp(
        &mut self,
        id: u64,
        family: Family,
        from: &Host,
        to: &Host,
        every: Duration,
    ) -> anyhow::Result<()> {
        let address = SocketAddr::new(to.address(family), 0);
        let listener = to
            .inside(move || std::net::TcpListener::bind(address))
            .await??;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        let limit = Duration::from_secs(3);
        let connect = move || std::net::TcpStream::connect_timeout(&address, limit);
        let client = from.inside(connect).await??;
        client.set_nonblocking(true)?;
        let client = TcpStream::from_std(client)?;
        let (server, _) = listener.accept().await?;

        let [there, back] = [&self.records[0], &self.records[1]].map(Record::clone);
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (client_in, client_out) = client.into_split();
        let (server_in, server_out) = server.into_split();
        self.tasks
            .spawn(write_frames(id, client_out, there.clone(), every));
        self.tasks.spawn(read_frames(id, server_in, there));
        self.tasks
            .spawn(write_frames(id, server_out, back.clone(), every));
        self.tasks.spawn(read_frames(id, client_in, back));
        Ok(())
    }

    async fn open_udp(
        &mut self,
        id: u64,
        family: Family,
        from: &Host,
        to: &Host,
        every: Duration,
    ) -> anyhow::Result<()> {
        let bind = async |host: &Host| {
            let address = SocketAddr::new(host.address(family), 0);
            let socket = host
                .inside(move || std::net::UdpSocket::bind(address))
                .await??;
            socket.set_nonblocking(true)?;
            anyhow::Ok(UdpSocket::from_std(socket)?)
        };
        let (client, server) = (bind(from).await?, bind(to).await?);
        // Connected both ways, so that each end sends without waiting for the other.
        client.connect(server.local_addr()?).await?;
        server.connect(client.local_addr()?).await?;
        // Whoever sends first has opened it, for those who track connections.
        client.send(&encode(id, Instant::now())).await?;
        let mut frame = [0; FRAME];
        let first = tokio::time::timeout(Duration::from_secs(3), server.recv(&mut frame));
        first.await.context("the first datagram did not arrive")??;
        let [there, back] = [&self.records[0], &self.records[1]].map(Record::clone);
        self.tasks.spawn(datagrams(
            id,
            client,
            there.clone(),
            back.clone(),
            every,
            |f| f.to_vec(),
        ));
        self.tasks
            .spawn(datagrams(id, server, back, there, every, |f| f.to_vec()));
        Ok(())
    }

    async fn open_icmp(
        &mut self,
        id: u64,
        family: Family,
        from: &Host,
        to: &Host,
        every: Duration,
    ) -> anyhow::Result<()> {
        let address = to.address(family);
        let socket = from.inside(move || echo_socket(family)).await??;
        socket.connect(SocketAddr::new(address, 0)).await?;
        let record = self.records[0].clone();
        self.tasks.spawn(datagrams(
            id,
            socket,
            record.clone(),
            record,
            every,
            move |frame| echo_request(family, frame),
        ));
        Ok(())
    }
}

/// A socket for echo requests; the kernel gives them its own identifier and checksum.
pub fn echo_socket(family: Family) -> anyhow::Result<UdpSocket> {
    let (domain, protocol) = match family {
        Family::V4 => (AddressFamily::Inet, SockProtocol::Icmp),
        Family::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(domain, SockType::Datagram, flags, protocol)?;
    let _inside = crate::harness::runtime().enter();
    Ok(UdpSocket::from_std(fd.into())?)
}

/// Type, code, checksum, identifier, sequence, and then the frame.
pub fn echo_request(family: Family, frame: &[u8]) -> Vec<u8> {
    let kind = match family {
        Family::V4 => 8,
        Family::V6 => 128,
    };
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    message.extend_from_slice(frame);
    message
}

async fn write_frames(id: u64, mut to: OwnedWriteHalf, record: Record, every: Duration) {
    let mut tick = ticks(every);
    loop {
        tick.tick().await;
        let now = Instant::now();
        record.tried(now);
        let frame = encode(id, now);
        let write = to.write_all(&frame);
        tokio::pin!(write);
        // Once the buffer is full nothing more is taken, and what is in it is what the kernel tries to
        // send, again and again.
        let written = loop {
            tokio::select! {
                written = &mut write => break written,
                _ = tick.tick() => record.tried(Instant::now()),
            }
        };
        if let Err(error) = written {
            return record.ended(error);
        }
    }
}

async fn read_frames(id: u64, mut from: OwnedReadHalf, record: Record) {
    let mut frame = [0; FRAME];
    loop {
        if let Err(error) = from.read_exact(&mut frame).await {
            return record.ended(error);
        }
        match decode(id, &frame) {
            Some(sent) => record.received(sent),
            None => return record.ended("a frame of another flow"),
        }
    }
}

/// Sends a datagram each interval, whatever becomes of it, and records those that arrive.
async fn datagrams(
    id: u64,
    socket: UdpSocket,
    outgoing: Record,
    incoming: Record,
    every: Duration,
    wrap: impl Fn(&[u8]) -> Vec<u8>,
) {
    let mut tick = ticks(every);
    let mut buffer = [0; 256];
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let now = Instant::now();
                outgoing.tried(now);
                // A filter that drops it on its way out is told as an error. The next is sent all the same.
                let _ = socket.try_send(&wrap(&encode(id, now)));
            }
            received = socket.recv(&mut buffer) => {
                // An error here is an answer to what was sent before, such as "port unreachable".
                let Ok(length) = received else { continue };
                let frame = buffer[..length].last_chunk::<FRAME>();
                if let Some(sent) = frame.and_then(|frame| decode(id, frame)) {
                    incoming.received(sent);
                }
            }
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(every);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
