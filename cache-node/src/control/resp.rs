//! RESP on the control port: commands in, replies out; and the other way round for talking to peers.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use crate::limits::{CONTROL_ARGS_MAX, CONTROL_DEPTH_MAX, CONTROL_LINE_MAX, TOPOLOGY_BYTES_MAX};

/// Bytes of an argument at most.
pub const BULK_MAX: usize = TOPOLOGY_BYTES_MAX;

/// Not RESP, or beyond a limit: the connection ends.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("Protocol error: {0}")]
pub struct ProtocolError(pub String);

fn wrong(text: impl Into<String>) -> ProtocolError {
    ProtocolError(text.into())
}

#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Simple(String),
    /// Starts with its code.
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    Array(Vec<Reply>),
    /// RESP2 has it as a flat array.
    Map(Vec<(&'static str, Reply)>),
    /// RESP3 only.
    Push(Vec<Reply>),
}

impl Reply {
    pub fn ok() -> Self {
        Self::Simple("OK".into())
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self::Bulk(text.into().into_bytes())
    }

    pub fn write(&self, to: &mut Vec<u8>, resp3: bool) {
        let mut line = |sigil: &str, text: &str| {
            to.extend_from_slice(sigil.as_bytes());
            to.extend(
                text.bytes()
                    .map(|b| if b == b'\r' || b == b'\n' { b' ' } else { b }),
            );
            to.extend_from_slice(b"\r\n");
        };
        match self {
            Self::Simple(text) => line("+", text),
            Self::Error(text) => line("-", text),
            Self::Integer(n) => line(":", &n.to_string()),
            Self::Null if resp3 => line("_", ""),
            Self::Null => line("$-1", ""),
            Self::Bulk(bytes) => {
                line("$", &bytes.len().to_string());
                to.extend_from_slice(bytes);
                to.extend_from_slice(b"\r\n");
            }
            Self::Array(items) => {
                line("*", &items.len().to_string());
                items.iter().for_each(|item| item.write(to, resp3));
            }
            Self::Push(items) => {
                line(if resp3 { ">" } else { "*" }, &items.len().to_string());
                items.iter().for_each(|item| item.write(to, resp3));
            }
            Self::Map(pairs) => {
                if resp3 {
                    line("%", &pairs.len().to_string());
                } else {
                    line("*", &(pairs.len() * 2).to_string());
                }
                for (key, value) in pairs {
                    Self::text(*key).write(to, resp3);
                    value.write(to, resp3);
                }
            }
        }
    }
}

/// Takes one command off the buffer; None: more bytes are needed. `bulk_max` is lower before authentication.
pub fn take_command(
    buffer: &mut BytesMut,
    bulk_max: usize,
) -> Result<Option<Vec<Bytes>>, ProtocolError> {
    let mut at = 0;
    let Some(count) = head(buffer, &mut at, b'*')? else {
        return Ok(None);
    };
    let count = usize::try_from(count).unwrap_or(0);
    if count > CONTROL_ARGS_MAX {
        return Err(wrong(format!(
            "{count} arguments: {CONTROL_ARGS_MAX} at most"
        )));
    }
    let mut ranges = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(length) = head(buffer, &mut at, b'$')? else {
            return Ok(None);
        };
        let length = usize::try_from(length).map_err(|_| wrong("invalid bulk length"))?;
        if length > bulk_max {
            return Err(wrong(format!(
                "an argument of {length} bytes: {bulk_max} at most"
            )));
        }
        if buffer.len() < at + length + 2 {
            return Ok(None);
        }
        if buffer[at + length..at + length + 2] != *b"\r\n" {
            return Err(wrong("an argument is longer than it says"));
        }
        ranges.push(at..at + length);
        at += length + 2;
    }
    let bytes = buffer.split_to(at).freeze();
    Ok(Some(ranges.into_iter().map(|r| bytes.slice(r)).collect()))
}

/// The number of a line that begins with `sigil`; moves `at` behind it.
fn head(buffer: &[u8], at: &mut usize, sigil: u8) -> Result<Option<i64>, ProtocolError> {
    let Some(&first) = buffer.get(*at) else {
        return Ok(None);
    };
    if first != sigil {
        let text = format!(
            "expected '{}', got '{}'",
            sigil as char,
            first.escape_ascii()
        );
        return Err(wrong(text));
    }
    let Some(text) = line(buffer, *at + 1)? else {
        return Ok(None);
    };
    *at += text.len() + 3;
    parse_number(text).map(Some)
}

/// The text from `at` up to the line's end.
fn line(buffer: &[u8], at: usize) -> Result<Option<&[u8]>, ProtocolError> {
    let rest = &buffer[at..];
    match rest
        .windows(2)
        .take(CONTROL_LINE_MAX)
        .position(|w| w == b"\r\n")
    {
        Some(end) => Ok(Some(&rest[..end])),
        None if rest.len() > CONTROL_LINE_MAX => Err(wrong("a line is too long")),
        None => Ok(None),
    }
}

fn parse_number(text: &[u8]) -> Result<i64, ProtocolError> {
    let text = std::str::from_utf8(text).unwrap_or_default();
    text.parse()
        .map_err(|_| wrong(format!("{text:?} is not a number")))
}

/// Takes one RESP2 reply off the buffer; None: more bytes are needed.
pub fn take_reply(buffer: &mut BytesMut) -> Result<Option<Reply>, ProtocolError> {
    let mut at = 0;
    let reply = reply_at(buffer, &mut at, 0)?;
    if reply.is_some() {
        buffer.advance(at);
    }
    Ok(reply)
}

fn reply_at(buffer: &[u8], at: &mut usize, depth: usize) -> Result<Option<Reply>, ProtocolError> {
    let (Some(&sigil), true) = (buffer.get(*at), depth < CONTROL_DEPTH_MAX) else {
        return if depth < CONTROL_DEPTH_MAX {
            Ok(None)
        } else {
            Err(wrong("arrays too deep"))
        };
    };
    let Some(text) = line(buffer, *at + 1)? else {
        return Ok(None);
    };
    let after = *at + text.len() + 3;
    let string = || String::from_utf8_lossy(text).into_owned();
    let reply = match sigil {
        b'+' => Reply::Simple(string()),
        b'-' => Reply::Error(string()),
        b':' => Reply::Integer(parse_number(text)?),
        b'$' | b'*' if text == b"-1" => Reply::Null,
        b'_' => Reply::Null,
        b'$' => {
            let length = usize::try_from(parse_number(text)?).map_err(|_| wrong("bulk length"))?;
            if length > BULK_MAX {
                return Err(wrong(format!(
                    "a bulk of {length} bytes: {BULK_MAX} at most"
                )));
            }
            if buffer.len() < after + length + 2 {
                return Ok(None);
            }
            *at = after + length + 2;
            return Ok(Some(Reply::Bulk(buffer[after..after + length].to_vec())));
        }
        b'*' => {
            let count = parse_number(text)?;
            *at = after;
            let mut items = Vec::new();
            for _ in 0..count {
                match reply_at(buffer, at, depth + 1)? {
                    Some(item) => items.push(item),
                    None => return Ok(None),
                }
            }
            return Ok(Some(Reply::Array(items)));
        }
        other => {
            return Err(wrong(format!(
                "unknown reply type '{}'",
                other.escape_ascii()
            )));
        }
    };
    *at = after;
    Ok(Some(reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(bytes: &[u8]) -> Result<Option<Vec<Bytes>>, ProtocolError> {
        take_command(&mut BytesMut::from(bytes), 16)
    }

    #[test]
    fn commands_come_whole_or_not_at_all() {
        let whole = b"*2\r\n$4\r\nECHO\r\n$3\r\na\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(command(&whole[..end]), Ok(None), "{end}");
        }
        assert_eq!(command(whole).unwrap().unwrap(), ["ECHO", "a\r\n"]);
        let mut two = BytesMut::from(&[&whole[..], b"*1"].concat()[..]);
        take_command(&mut two, 16).unwrap().unwrap();
        assert_eq!(two, "*1");
        for bad in [
            &b"GET /\r\n"[..],
            b"*100\r\n",
            b"*x\r\n",
            b"*1\r\n$17\r\n",
            b"*1\r\n$-1\r\n",
            b"*1\r\n+OK\r\n",
            b"*1\r\n$1\r\nabc",
        ] {
            assert!(command(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn replies_read_back() {
        let reply = Reply::Array(vec![
            Reply::ok(),
            Reply::Integer(-7),
            Reply::Null,
            Reply::text("b\r\n"),
            Reply::Error("ERR x".into()),
        ]);
        let mut bytes = Vec::new();
        reply.write(&mut bytes, false);
        for end in 0..bytes.len() {
            assert_eq!(take_reply(&mut BytesMut::from(&bytes[..end])), Ok(None));
        }
        let mut buffer = BytesMut::from(&bytes[..]);
        assert_eq!(take_reply(&mut buffer), Ok(Some(reply)));
        assert!(buffer.is_empty());
        let deep = b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n";
        assert!(take_reply(&mut BytesMut::from(&deep[..])).is_err());
    }
}
