//! What a Guard changed, as commands that a replica applies.

use std::io::Write;

use super::collections::copy;
use super::compress::Value;
use super::point::Point;

/// Stands for the slot of an effect on everything.
pub const ALL_SLOTS: u16 = u16::MAX;
/// Stands for the slot of a transfer: see [`Transfer`].
const TRANSFER: u16 = u16::MAX - 1;
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

    /// Adds a transfer.
    pub fn push_transfer(&mut self, transfer: &Transfer<'_>) {
        let p = Point {
            slot: TRANSFER,
            hash: 0,
        };
        self.push_written(p, |bytes| {
            for (slot, pos) in [transfer.from, transfer.to] {
                bytes.extend_from_slice(&slot.to_le_bytes());
                bytes.extend_from_slice(&pos.to_le_bytes());
            }
            bytes.extend_from_slice(&transfer.frozen.to_le_bytes());
            bytes.push(transfer.moves.into());
            bytes.extend_from_slice(&(transfer.from_key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(transfer.from_key);
            bytes.extend_from_slice(transfer.to_key);
        });
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

/// A big value that goes to another key of its slot: `RENAME from to`, or `COPY from to`, for those who hold both places. For a walk that
/// has copied one of them only, what it needs instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer<'a> {
    pub from: (u16, u64),
    pub to: (u16, u64),
    pub from_key: &'a [u8],
    pub to_key: &'a [u8],
    pub moves: bool,
    /// The number of the value as it was, if walks were under way; else 0.
    pub frozen: u64,
}

impl<'a> Transfer<'a> {
    /// Its command.
    pub fn words(&self) -> [&'a [u8]; 3] {
        let name: &[u8] = if self.moves { b"RENAME" } else { b"COPY" };
        [name, self.from_key, self.to_key]
    }
}

impl<'a> Effect<'a> {
    pub fn transfer(&self) -> Option<Transfer<'a>> {
        const LENGTH: usize = 33;
        if self.slot != TRANSFER {
            return None;
        }
        let (head, keys) = self.command.split_first_chunk::<LENGTH>()?;
        let number = |at: usize| {
            head[at..at + 8]
                .iter()
                .rev()
                .fold(0, |n, &b| n << 8 | u64::from(b))
        };
        let place = |at: usize| (u16::from_le_bytes([head[at], head[at + 1]]), number(at + 2));
        let length = u32::from_le_bytes([head[29], head[30], head[31], head[32]]);
        let (from_key, to_key) = keys.split_at_checked(length as usize)?;
        Some(Transfer {
            from: place(0),
            to: place(10),
            frozen: number(20),
            moves: head[28] != 0,
            from_key,
            to_key,
        })
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
    to.push(b'*');
    write_bulks(to, command);
}

/// Writes how many there are, and a bulk string each: what follows the byte that says of which kind the whole is.
pub fn write_bulks(to: &mut Vec<u8>, words: &[&[u8]]) {
    let mut number = itoa::Buffer::new();
    to.extend_from_slice(number.format(words.len()).as_bytes());
    to.extend_from_slice(b"\r\n");
    for word in words {
        to.push(b'$');
        to.extend_from_slice(number.format(word.len()).as_bytes());
        to.extend_from_slice(b"\r\n");
        to.extend_from_slice(word);
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
    fn a_transfer_reads_back_as_pushed() {
        for (moves, from_key, to_key) in [(true, &b"a"[..], &b"bc"[..]), (false, b"", b"")] {
            let transfer = Transfer {
                from: (7, u64::MAX >> 16),
                to: (16_383, 5),
                from_key,
                to_key,
                moves,
                frozen: 1 << 60,
            };
            let mut e = Effects::default();
            e.push_transfer(&transfer);
            e.push(Point { slot: 7, hash: 0 }, &[b"DEL", b"x"]);
            let read: Vec<_> = effects(e.bytes()).map(|e| e.transfer()).collect();
            assert_eq!(read, [Some(transfer), None]);
        }
    }

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
