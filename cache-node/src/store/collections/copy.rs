//! Copies of collections as commands in bounded pieces: for the log, full syncs and slot moves; big ones outside of any lock.

use std::borrow::Cow;

use super::super::effect::write_command;
use super::super::item::{ItemRef, Kind};
use super::{Element, Object, View};

/// Bytes of elements in one command, about.
const PIECE: usize = 64 * 1024;

/// The command that adds elements of a kind.
fn adding(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Hash => b"HSET",
        Kind::Set => b"SADD",
        Kind::ZSet => b"ZADD",
        Kind::List | Kind::String => b"RPUSH",
    }
}

/// A score as commands carry it: it reads back as the same number.
pub fn score_text(score: f64) -> String {
    format!("{score:e}")
}

/// Writes one command with the elements from `from` on, as many as make a piece. Gives the index of the next one.
fn write_piece(to: &mut Vec<u8>, key: &[u8], kind: Kind, view: View<'_>, from: usize) -> usize {
    let mut words: Vec<Cow<'_, [u8]>> = vec![Cow::Borrowed(adding(kind)), Cow::Borrowed(key)];
    let (mut next, mut bytes) = (from, 0);
    for element in view.elements(kind, from) {
        let before = words.len();
        match element {
            Element::One(one) => words.push(one),
            Element::Pair(field, value) => {
                words.extend([Cow::Borrowed(field), Cow::Borrowed(value)]);
            }
            Element::Scored(member, score) => words.extend([
                Cow::Owned(score_text(score).into_bytes()),
                Cow::Borrowed(member),
            ]),
        }
        bytes += words[before..].iter().map(|w| w.len() + 16).sum::<usize>();
        next += 1;
        if bytes >= PIECE {
            break;
        }
    }
    let words: Vec<&[u8]> = words.iter().map(|w| &**w).collect();
    write_command(to, &words);
    next
}

fn write_expiry(to: &mut Vec<u8>, key: &[u8], expires_at: Option<u64>) {
    if let Some(time) = expires_at {
        write_command(to, &[b"PEXPIREAT", key, time.to_string().as_bytes()]);
    }
}

/// Writes the commands that make a collection of a key that is not there.
pub fn write_all(
    to: &mut Vec<u8>,
    key: &[u8],
    kind: Kind,
    view: View<'_>,
    expires_at: Option<u64>,
) {
    let (mut next, len) = (0, view.len(kind));
    while next < len {
        next = write_piece(to, key, kind, view, next);
    }
    write_expiry(to, key, expires_at);
}

/// A big collection as it was at one instant.
#[derive(Debug, Clone)]
pub struct Frozen {
    pub key: Vec<u8>,
    pub expires_at: Option<u64>,
    object: Object,
    next: usize,
}

impl Frozen {
    /// None: the item is no big collection.
    pub fn of(item: ItemRef<'_>) -> Option<Self> {
        Some(Self {
            key: item.key().to_vec(),
            expires_at: item.expires_at(),
            object: item.object()?.clone(),
            next: 0,
        })
    }

    pub fn kind(&self) -> Kind {
        self.object.kind()
    }

    pub fn len(&self) -> usize {
        self.object.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory that it keeps from being freed at most.
    pub fn bytes(&self) -> usize {
        self.object.bytes()
    }

    /// Writes the next commands. False: these were the last.
    pub fn write_commands(&mut self, to: &mut Vec<u8>) -> bool {
        let view = View::Big(&self.object);
        self.next = write_piece(to, &self.key, self.kind(), view, self.next);
        let more = self.next < self.len();
        if !more {
            write_expiry(to, &self.key, self.expires_at);
        }
        more
    }

    /// Hands out elements until `each` says that it has enough. False: these were the last.
    pub fn take(&mut self, mut each: impl FnMut(Element<'_>) -> bool) -> bool {
        for element in View::Big(&self.object).elements(self.kind(), self.next) {
            self.next += 1;
            if each(element) {
                break;
            }
        }
        self.next < self.len()
    }
}
