//! Frames of replication and slot move streams: `kind u8, len u32le, payload`.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::limits::FRAME_MAX;

/// A write that makes no progress for so long ends the stream.
const WRITE: Duration = Duration::from_secs(10);
/// Bytes handed to the socket at once, so that progress is seen.
const PIECE: usize = 1 << 20;

pub mod kind {
    pub const BEGIN: u8 = b'b';
    pub const EFFECTS: u8 = b'e';
    pub const POSITION: u8 = b'p';
    pub const LOG: u8 = b'l';
    pub const HEARTBEAT: u8 = b'h';
    pub const ASK: u8 = b'q';
    pub const ACK: u8 = b'a';
    pub const SEAL: u8 = b's';
    pub const SEALED: u8 = b'S';
    pub const UNSEAL: u8 = b'u';
    pub const UNSEALED: u8 = b'U';
    pub const COMPLETE: u8 = b'k';
    pub const OWNED: u8 = b'O';
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub payload: Bytes,
}

impl Frame {
    /// The number that an acknowledgement and the like carry.
    pub fn number(&self) -> io::Result<u64> {
        self.numbers::<1>().map(|[n]| n)
    }

    pub fn numbers<const N: usize>(&self) -> io::Result<[u64; N]> {
        if self.payload.len() != N * 8 {
            let text = format!(
                "frame '{}' has {} bytes, not {}",
                self.kind.escape_ascii(),
                self.payload.len(),
                N * 8
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let mut rest = &self.payload[..];
        Ok(std::array::from_fn(|_| rest.get_u64_le()))
    }
}

/// A frame that has no place where it came.
pub fn unexpected(frame: &Frame) -> io::Error {
    let text = format!("unexpected frame '{}'", frame.kind.escape_ascii());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Reads frames. Cancel safe.
#[derive(Debug)]
pub struct FrameReader<R> {
    input: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// `buffer`: what was read already.
    pub fn new(input: R, buffer: BytesMut) -> Self {
        Self { input, buffer }
    }

    pub async fn next(&mut self) -> io::Result<Frame> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            if self.input.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the other node closed the connection",
                ));
            }
        }
    }

    /// The next frame, or an error when none comes in time.
    pub async fn next_within(&mut self, limit: Duration) -> io::Result<Frame> {
        timeout(limit, self.next())
            .await
            .map_err(|_| silent(limit))?
    }

    /// A frame that is there already.
    fn take(&mut self) -> io::Result<Option<Frame>> {
        let Some(head) = self.buffer.get(..5) else {
            self.buffer.reserve(64 * 1024);
            return Ok(None);
        };
        let kind = head[0];
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > FRAME_MAX {
            let text = format!("a frame of {length} bytes: {FRAME_MAX} at most");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        if self.buffer.len() < 5 + length {
            // A big frame's room is taken as its bytes come, not on the word of its head.
            let missing = 5 + length - self.buffer.len();
            self.buffer.reserve(missing.clamp(16 * 1024, PIECE));
            return Ok(None);
        }
        self.buffer.advance(5);
        let payload = self.buffer.split_to(length).freeze();
        Ok(Some(Frame { kind, payload }))
    }
}

/// The other side said nothing for too long.
pub fn silent(limit: Duration) -> io::Error {
    let text = format!("the other node was silent for {} s", limit.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter<W> {
    output: W,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub fn new(output: W) -> Self {
        Self { output }
    }

    /// A frame of several parts, written one after the other. Not cancel safe: a stream that was cancelled in it is over.
    pub async fn send(&mut self, kind: u8, parts: &[&[u8]]) -> io::Result<()> {
        let length: usize = parts.iter().map(|p| p.len()).sum();
        let length = u32::try_from(length)
            .ok()
            .filter(|&n| n as usize <= FRAME_MAX);
        let Some(length) = length else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a record is too long for a frame",
            ));
        };
        let mut head = Vec::with_capacity(64);
        head.push(kind);
        head.extend_from_slice(&length.to_le_bytes());
        let small: usize = parts.iter().map(|p| p.len()).sum();
        if small <= 4096 {
            parts.iter().for_each(|p| head.extend_from_slice(p));
            return self.write(&head).await;
        }
        self.write(&head).await?;
        for part in parts {
            self.write(part).await?;
        }
        Ok(())
    }

    /// Bytes outside frames.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            timeout(WRITE, self.output.write_all(piece))
                .await
                .map_err(|_| silent(WRITE))??;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_read_back() {
        let (near, far) = tokio::io::duplex(64);
        let mut writer = FrameWriter::new(near);
        let big = vec![7u8; 100_000];
        let sender = tokio::spawn(async move {
            writer.send(kind::HEARTBEAT, &[]).await?;
            writer.send(kind::LOG, &[&9u64.to_le_bytes(), &big]).await?;
            writer.send(kind::ACK, &[&5u64.to_le_bytes()]).await
        });
        let mut reader = FrameReader::new(far, BytesMut::new());
        let frame = reader.next().await.unwrap();
        assert_eq!((frame.kind, frame.payload.len()), (kind::HEARTBEAT, 0));
        let frame = reader.next().await.unwrap();
        assert_eq!((frame.kind, frame.payload.len()), (kind::LOG, 100_008));
        assert!(frame.number().is_err());
        let frame = reader.next().await.unwrap();
        assert_eq!(frame.number().unwrap(), 5);
        sender.await.unwrap().unwrap();
        let end = reader.next().await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_frame_beyond_the_limit_is_refused_before_its_bytes_come() {
        let head = [b'l', 0xFF, 0xFF, 0xFF, 0xFF];
        let mut reader = FrameReader::new(&head[..], BytesMut::new());
        let error = reader.next().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
