//! What a Guard changed, as commands that a replica applies.

use std::io::Write;

use super::collections::copy;
use super::compress::Value;
use super::point::Point;

/// Stands for the slot of an effect on everything.
pub const ALL_SLOTS: u16 = u16::MAX;
/// A buffer that grew beyond is not kept for the next Guard.
const KEEP: usize = 64 * 1024;
/// slot u16, position u64, length u32
const HEAD: usize = 14;

/// The effects of one Guard: for each, where it applies and its RESP command.
#[derive(Debug, Default)]
pub struct Effects {
    bytes: Vec<u8>,
}

/// One effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect<'a> {
    pub slot: u16,
    pub pos: u64,
    pub command: &'a [u8],
}

impl Effects {
    pub fn push(&mut self, p: Point, command: &[&[u8]]) {
        self.push_written(p, |bytes| write_command(bytes, command));
    }

    /// Adds an effect of commands that `write` writes.
    pub fn push_written(&mut self, p: Point, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&p.slot.to_le_bytes());
        self.bytes.extend_from_slice(&p.pos().to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        write(&mut self.bytes);
        let length = (self.bytes.len() - at - HEAD) as u32;
        self.bytes[at + 10..at + HEAD].copy_from_slice(&length.to_le_bytes());
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn clear(&mut self) {
        if self.bytes.capacity() > KEEP {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
    }
}

/// The effects in bytes that [`Effects`] made.
pub fn effects(mut bytes: &[u8]) -> impl Iterator<Item = Effect<'_>> {
    std::iter::from_fn(move || {
        let (head, rest) = bytes.split_at_checked(HEAD)?;
        let slot = u16::from_le_bytes(head[..2].try_into().ok()?);
        let pos = u64::from_le_bytes(head[2..10].try_into().ok()?);
        let length = u32::from_le_bytes(head[10..].try_into().ok()?) as usize;
        let (command, rest) = rest.split_at_checked(length)?;
        bytes = rest;
        Some(Effect { slot, pos, command })
    })
}

/// Writes a command as a RESP array of bulk strings.
pub fn write_command(to: &mut Vec<u8>, command: &[&[u8]]) {
    let mut number = itoa::Buffer::new();
    to.push(b'*');
    to.extend_from_slice(number.format(command.len()).as_bytes());
    to.extend_from_slice(b"\r\n");
    for arg in command {
        to.push(b'$');
        to.extend_from_slice(number.format(arg.len()).as_bytes());
        to.extend_from_slice(b"\r\n");
        to.extend_from_slice(arg);
        to.extend_from_slice(b"\r\n");
    }
}

/// Writes the commands that make an item, as a copy to another node carries them. `packed`: the other node knows packed forms.
pub fn write_item(to: &mut Vec<u8>, item: super::ItemRef<'_>, packed: bool) {
    if item.kind() != super::Kind::String {
        copy::write_all(to, item.key(), item.kind(), item.view(), item.expires_at());
        return;
    }
    let value = item.value();
    match &value {
        Value::Packed(form) if packed => {
            write_store(to, b"CACHE.SETPACKED", item, &form.0);
        }
        _ => write_store(to, b"SET", item, &value.bytes()),
    }
}

fn write_store(to: &mut Vec<u8>, name: &[u8], item: super::ItemRef<'_>, value: &[u8]) {
    match item.expires_at() {
        None => write_command(to, &[name, item.key(), value]),
        Some(time) => {
            let mut text = [0u8; 20];
            let mut rest = &mut text[..];
            // 20 digits hold any u64.
            let _ = write!(rest, "{time}");
            let used = 20 - rest.len();
            write_command(to, &[name, item.key(), value, b"PXAT", &text[..used]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_read_back_as_pushed() {
        let mut e = Effects::default();
        e.push(
            Point {
                slot: 7,
                hash: 0xABCD << 16,
            },
            &[b"SET", b"k", b"v\r\n\0"],
        );
        e.push(
            Point {
                slot: ALL_SLOTS,
                hash: 0,
            },
            &[b"FLUSHALL"],
        );
        let read: Vec<_> = effects(e.bytes()).collect();
        assert_eq!(
            read,
            [
                Effect {
                    slot: 7,
                    pos: 0xABCD,
                    command: b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\nv\r\n\0\r\n"
                },
                Effect {
                    slot: ALL_SLOTS,
                    pos: 0,
                    command: b"*1\r\n$8\r\nFLUSHALL\r\n"
                },
            ]
        );
    }
}
