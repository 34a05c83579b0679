//! Packed values where they are found: in items, outside of locks, from other nodes.

use std::borrow::Cow;

use super::super::MAX_VALUE;
use super::super::item::ValueRef;
use super::super::spans::SharedValue;
use super::codec::{Buffer, head, plain_len, unpack_into};
use crate::limits::COMPRESSION_VALUE_MAX;

/// A packed form that another node sent.
#[derive(Debug, Clone, Copy)]
pub struct Sound<'a>(&'a [u8]);

impl<'a> Sound<'a> {
    /// None: it does not unpack.
    pub fn check(packed: &'a [u8]) -> Option<Self> {
        let (_, length, _) = head(packed)?;
        // Neither codec packs better: a length beyond is a lie that would cost memory.
        if length > MAX_VALUE.min(COMPRESSION_VALUE_MAX) || packed.len() >= length {
            return None;
        }
        let mut buffer = Buffer::empty();
        buffer.0.resize(length, 0);
        unpack_into(packed, &mut buffer.0).then_some(Self(packed))
    }

    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// A packed value in an item.
#[derive(Debug, Clone)]
pub struct Packed<'a>(pub(in crate::store) ValueRef<'a>);

impl Packed<'_> {
    /// To be unpacked when the lock is gone.
    pub fn keep(&self) -> Kept {
        match &self.0 {
            ValueRef::Inline(bytes) => {
                let mut buffer = Buffer::empty();
                buffer.0.extend_from_slice(bytes);
                Kept::Own(buffer)
            }
            ValueRef::Shared(bytes) => Kept::Shared(bytes.clone()),
        }
    }
}

/// A packed value that outlives the lock of its item.
#[derive(Debug)]
pub enum Kept {
    Own(Buffer),
    Shared(SharedValue),
}

impl Kept {
    /// Bytes of the packed form.
    pub fn packed(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// Bytes of the value.
    pub fn plain_len(&self) -> usize {
        plain_len(self.packed())
    }

    /// Unpacks into as many bytes as the value has.
    pub fn unpack_into(&self, to: &mut [u8]) {
        if !unpack_into(self.packed(), to) {
            unreachable!("what an item holds packed always unpacks");
        }
    }

    pub fn unpack(&self) -> Vec<u8> {
        let mut plain = vec![0; self.plain_len()];
        self.unpack_into(&mut plain);
        plain
    }
}

/// The value of a string.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    Plain(ValueRef<'a>),
    Packed(Packed<'a>),
}

impl Value<'_> {
    /// Its bytes, unpacked here and now: for those who cannot release the lock.
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Plain(value) => Cow::Borrowed(value),
            Self::Packed(packed) => Cow::Owned(packed.keep().unpack()),
        }
    }

    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes().into_owned()
    }
}

/// A packed form as the plain bytes: for nodes that do not know packed ones. None: it does not unpack.
pub fn plain_of(packed: &[u8]) -> Option<Vec<u8>> {
    let (_, length, _) = head(packed).filter(|(_, length, _)| *length <= MAX_VALUE)?;
    let mut plain = vec![0; length];
    unpack_into(packed, &mut plain).then_some(plain)
}
