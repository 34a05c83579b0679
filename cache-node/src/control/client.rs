//! Talking to another node's control port.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::resp::{Reply, take_reply};
use crate::cluster::state::NodeState;
use crate::cluster::topology::Member;
use crate::store::effect::write_command;

const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(5);

/// An authenticated connection.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
}

fn late(what: &str, limit: Duration) -> io::Error {
    let text = format!("{what}: no answer in {} s", limit.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

impl Peer {
    /// Connects to a member by its address or its name, whichever answers as that member: an address may be another pod's by now.
    pub async fn reach(member: &Member, password: &[u8]) -> io::Result<Self> {
        Self::reach_and_hear(member, password)
            .await
            .map(|(peer, _)| peer)
    }

    /// As [`Peer::reach`], with what the member said of itself.
    pub async fn reach_and_hear(member: &Member, password: &[u8]) -> io::Result<(Self, NodeState)> {
        let mut failed = io::Error::other(format!("{} has no host in the topology", member.name));
        for host in member.hosts() {
            match Self::reach_at(host, member, password).await {
                Ok(reached) => return Ok(reached),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn reach_at(
        host: &str,
        member: &Member,
        password: &[u8],
    ) -> io::Result<(Self, NodeState)> {
        let mut peer = Self::connect(&(host.to_owned(), member.control_port), password).await?;
        let state = peer.ask_text(&[b"CACHE.NODE", b"HELLO"]).await?;
        let state: NodeState = serde_json::from_str(&state.unwrap_or_default())?;
        if state.member != member.name {
            let text = format!("{host} is member {:?}, not {:?}", state.member, member.name);
            return Err(io::Error::new(io::ErrorKind::NotConnected, text));
        }
        Ok((peer, state))
    }

    /// `address`: host and control port.
    pub async fn connect(address: &(String, u16), password: &[u8]) -> io::Result<Self> {
        let (host, port) = address;
        let what = format!("{host}:{port}");
        let connect = TcpStream::connect((host.as_str(), *port));
        let stream = timeout(CONNECT, connect)
            .await
            .map_err(|_| late(&what, CONNECT))?
            .map_err(|e| io::Error::new(e.kind(), format!("{what}: {e}")))?;
        stream.set_nodelay(true)?;
        let mut peer = Self {
            stream,
            buffer: BytesMut::new(),
        };
        peer.ask(&[b"AUTH", password]).await?;
        Ok(peer)
    }

    /// Sends a command and waits for its reply; an error reply is an error.
    pub async fn ask(&mut self, command: &[&[u8]]) -> io::Result<Reply> {
        self.ask_within(command, ANSWER).await
    }

    pub async fn ask_within(&mut self, command: &[&[u8]], limit: Duration) -> io::Result<Reply> {
        let mut bytes = Vec::new();
        write_command(&mut bytes, command);
        let exchange = async {
            self.stream.write_all(&bytes).await?;
            self.reply().await
        };
        let reply = timeout(limit, exchange)
            .await
            .map_err(|_| late("control port", limit))??;
        match reply {
            Reply::Error(text) => Err(io::Error::other(text)),
            reply => Ok(reply),
        }
    }

    /// As [`Peer::ask`], for commands that answer a text.
    pub async fn ask_text(&mut self, command: &[&[u8]]) -> io::Result<Option<String>> {
        match self.ask(command).await? {
            Reply::Bulk(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
            Reply::Simple(text) => Ok(Some(text)),
            Reply::Null => Ok(None),
            other => Err(io::Error::other(format!("unexpected reply {other:?}"))),
        }
    }

    async fn reply(&mut self) -> io::Result<Reply> {
        loop {
            let reply = take_reply(&mut self.buffer);
            if let Some(reply) = reply.map_err(io::Error::other)? {
                return Ok(reply);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// For what follows SYNC and IMPORT: the stream, and what was read of it already.
    pub fn into_parts(self) -> (TcpStream, BytesMut) {
        (self.stream, self.buffer)
    }
}
