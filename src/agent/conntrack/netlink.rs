//! Requests to the kernel over a netlink socket, with a bound on how long an answer may take.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Big enough for what the kernel puts into one datagram of a dump.
const BUFFER: usize = 64 * 1024;
/// Answers to as many requests fit into the socket's buffer.
const AT_ONCE: usize = 64;
/// The list changed under the kernel's hands; it is asked again.
const TRIES: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error(
        "the kernel gave no answer within {} s: the host is overloaded; the agent tries again at its next check",
        TIMEOUT.as_secs()
    )]
    TimedOut,
    #[error(
        "the kernel had more to say than the socket holds (ENOBUFS): raise net.core.rmem_default, or wait until fewer connections are open"
    )]
    Overrun,
    #[error(
        "not permitted: the agent needs CAP_NET_ADMIN in its network namespace to end connections"
    )]
    NotPermitted,
    #[error("the kernel's answer was not understood: {0}")]
    Malformed(String),
    #[error("netlink: {0}")]
    Io(io::Error),
}

impl From<io::Error> for NetlinkError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error().map(nix::errno::Errno::from_raw) {
            Some(nix::errno::Errno::ENOBUFS) => Self::Overrun,
            Some(nix::errno::Errno::EPERM | nix::errno::Errno::EACCES) => Self::NotPermitted,
            Some(nix::errno::Errno::EAGAIN) => Self::TimedOut,
            _ => Self::Io(error),
        }
    }
}

pub struct Requests {
    socket: Socket,
    protocol: isize,
    sequence: u32,
    buffer: Vec<u8>,
}

enum Answer<T> {
    Item(T),
    End(Option<io::Error>),
}

/// What was kept of an answer, and how it ended: none for done.
type End<K> = (Option<K>, Option<io::Error>);

impl Requests {
    /// `protocol` is one of `netlink_sys::protocols`.
    pub fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let seconds = TimeVal::new(TIMEOUT.as_secs().cast_signed(), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &seconds).map_err(io::Error::from)?;
        Ok(Self {
            socket,
            protocol,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// All items of a list.
    pub fn dump<T>(&mut self, request: &T) -> Result<Vec<T>, NetlinkError>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        for _ in 1..TRIES {
            match self.dump_once(request) {
                Err(NetlinkError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(NetlinkError::Overrun) => {
                    // What is left in the socket belongs to the list that broke off.
                    *self = Self::open(self.protocol)?;
                }
                result => return result,
            }
        }
        self.dump_once(request)
    }

    fn dump_once<T>(&mut self, request: &T) -> Result<Vec<T>, NetlinkError>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        let sequence = self.send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut items = Vec::new();
        loop {
            for answer in self.receive::<T>(sequence..=sequence)? {
                match answer.1 {
                    Answer::Item(item) => items.push(item),
                    Answer::End(None) => return Ok(items),
                    Answer::End(Some(error)) => return Err(error.into()),
                }
            }
        }
    }

    /// Sends each request and gives what the kernel said to each: none for done.
    pub fn acknowledged<T>(
        &mut self,
        requests: &[T],
    ) -> Result<Vec<Option<io::Error>>, NetlinkError>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        let ends = self.exchange(requests, |_| ())?;
        Ok(ends.into_iter().map(|(_, error)| error).collect())
    }

    /// Asks each, and gives the kernel's answers: none where it has none.
    pub fn answered<T>(&mut self, requests: &[T]) -> Result<Vec<Option<T>>, NetlinkError>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        let ends = self.exchange(requests, |item| item)?;
        Ok(ends.into_iter().map(|(item, _)| item).collect())
    }

    /// For each request what `keep` makes of the last item of its answer, and how it ended.
    fn exchange<T, K>(
        &mut self,
        requests: &[T],
        keep: fn(T) -> K,
    ) -> Result<Vec<End<K>>, NetlinkError>
    where
        T: NetlinkSerializable + NetlinkDeserializable + Clone,
    {
        let mut results = Vec::with_capacity(requests.len());
        for batch in requests.chunks(AT_ONCE) {
            let first = self.sequence + 1;
            let mut items: Vec<Option<K>> = Vec::new();
            let mut ends: Vec<Option<Option<io::Error>>> = Vec::new();
            for request in batch {
                self.send(request, NLM_F_REQUEST | NLM_F_ACK)?;
                items.push(None);
                ends.push(None);
            }
            let last = self.sequence;
            while ends.iter().any(Option::is_none) {
                for (sequence, answer) in self.receive::<T>(first..=last)? {
                    let at = (sequence - first) as usize;
                    match answer {
                        Answer::Item(item) => items[at] = Some(keep(item)),
                        Answer::End(error) => ends[at] = Some(error),
                    }
                }
            }
            results.extend(items.into_iter().zip(ends.into_iter().flatten()));
        }
        Ok(results)
    }

    fn send<T>(&mut self, request: &T, flags: u16) -> Result<u32, NetlinkError>
    where
        T: NetlinkSerializable + Clone,
    {
        self.sequence += 1;
        let mut message = NetlinkMessage::new(
            netlink_packet_core::NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(request.clone()),
        );
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(self.sequence)
    }

    fn receive<T>(
        &mut self,
        expected: std::ops::RangeInclusive<u32>,
    ) -> Result<Vec<(u32, Answer<T>)>, NetlinkError>
    where
        T: NetlinkDeserializable,
    {
        self.buffer.clear();
        let length = self.socket.recv(&mut self.buffer, 0)?;
        let mut rest = &self.buffer[..length.min(self.buffer.len())];
        let mut answers = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::<T>::deserialize(rest)
                .map_err(|e| NetlinkError::Malformed(e.to_string()))?;
            let aligned = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(aligned..).unwrap_or_default();
            let sequence = message.header.sequence_number;
            if !expected.contains(&sequence) {
                continue;
            }
            answers.push((
                sequence,
                match message.payload {
                    NetlinkPayload::InnerMessage(item) => Answer::Item(item),
                    NetlinkPayload::Done(_) => Answer::End(None),
                    NetlinkPayload::Error(error) => Answer::End(error.code.map(|_| error.to_io())),
                    _ => continue,
                },
            ));
        }
        Ok(answers)
    }
}
