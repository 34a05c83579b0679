//! One connection of the control port: reads commands, answers in order, and becomes a stream for SYNC and IMPORT.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::commands::{Session, Then, execute};
use super::resp::{BULK_MAX, Reply, take_command};
use crate::cluster::Cluster;
use crate::limits::CONTROL_UNAUTHENTICATED_BULK_MAX;
use crate::moves::import;
use crate::replicate::frame::FrameReader;
use crate::replicate::primary;

/// How long a client may take to authenticate.
const AUTHENTICATE: Duration = Duration::from_secs(10);
/// How long a client may leave replies unread.
const WRITE: Duration = Duration::from_secs(60);

pub async fn run(cluster: Arc<Cluster>, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    let from = stream.peer_addr().ok().map(|a| a.ip().to_canonical());
    let (mut input, output) = stream.into_split();
    let (out, queue) = mpsc::channel(16);
    let writer = tokio::spawn(write_all(output, queue));
    let mut session = Session::new(cluster.clone(), out.clone());
    let mut buffer = BytesMut::new();
    let then = converse(&mut session, &mut input, &mut buffer, &out).await;
    drop((session, out));
    let output = writer.await.map_err(io::Error::other)??;
    match then? {
        Then::Sync(request) => {
            let input = FrameReader::new(input, buffer);
            primary::serve(cluster, request, from, input, output).await
        }
        Then::Import(request) => {
            let input = FrameReader::new(input, buffer);
            import::serve(cluster, request, input, output).await
        }
        _ => Ok(()),
    }
}

/// Answers commands until the connection ends or becomes something else.
async fn converse(
    session: &mut Session,
    input: &mut OwnedReadHalf,
    buffer: &mut BytesMut,
    out: &mpsc::Sender<Vec<u8>>,
) -> io::Result<Then> {
    let begun = tokio::time::Instant::now();
    loop {
        let bulk_max = if session.known {
            BULK_MAX
        } else {
            CONTROL_UNAUTHENTICATED_BULK_MAX
        };
        let command = match take_command(buffer, bulk_max) {
            Ok(Some(command)) => command,
            Ok(None) => {
                let read = input.read_buf(buffer);
                let bytes = if session.known {
                    read.await?
                } else {
                    let left = AUTHENTICATE.saturating_sub(begun.elapsed());
                    timeout(left, read)
                        .await
                        .map_err(|_| io::ErrorKind::TimedOut)??
                };
                if bytes == 0 {
                    return Ok(Then::Close(None));
                }
                continue;
            }
            Err(error) => {
                send(out, &Reply::Error(format!("ERR {error}")), session.resp3).await?;
                return Ok(Then::Close(None));
            }
        };
        if command.is_empty() {
            continue;
        }
        match execute(session, &command).await {
            Then::Reply(reply) => send(out, &reply, session.resp3).await?,
            Then::Close(reply) => {
                if let Some(reply) = reply {
                    send(out, &reply, session.resp3).await?;
                }
                return Ok(Then::Close(None));
            }
            stream => return Ok(stream),
        }
    }
}

async fn send(out: &mpsc::Sender<Vec<u8>>, reply: &Reply, resp3: bool) -> io::Result<()> {
    let mut bytes = Vec::new();
    reply.write(&mut bytes, resp3);
    out.send(bytes)
        .await
        .map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// Writes what the queue yields; gives the socket back when nobody can send any more.
async fn write_all(
    mut output: OwnedWriteHalf,
    mut queue: mpsc::Receiver<Vec<u8>>,
) -> io::Result<OwnedWriteHalf> {
    while let Some(bytes) = queue.recv().await {
        timeout(WRITE, output.write_all(&bytes))
            .await
            .map_err(|_| io::ErrorKind::TimedOut)??;
    }
    Ok(output)
}

/// A task that ends with its owner.
#[derive(Debug)]
pub struct OwnedTask(pub JoinHandle<()>);

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
