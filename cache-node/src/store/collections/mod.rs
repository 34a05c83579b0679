//! Collections: hashes, sets, lists and sorted sets. Small ones are packed bytes in their item ([`packed`]); big ones are an [`Object`] of
//! trees with bounded nodes ([`tree`]) that their item owns. A big one stays big until its key goes, as in Redis.

pub mod copy;
pub mod hash;
mod keyed;
mod leaf;
pub mod list;
mod node;
mod packed;
mod scores;
pub mod set;
mod tree;
pub mod zset;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::budget::Budget;
use super::item::Kind;
use keyed::Keyed;
use scores::Scores;
use tree::Tree;

/// More than one change of a big collection takes while it is made, beside the bytes that it adds.
pub const CHANGE_BYTES: usize = 2 * Tree::CHANGE_BYTES;

/// A big collection. A clone costs some reference counts, and stays as it is.
#[derive(Debug, Clone)]
pub enum Object {
    Hash(Keyed),
    Set(Keyed),
    List(Tree),
    ZSet(Scores),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hash(_) => Kind::Hash,
            Self::Set(_) => Kind::Set,
            Self::List(_) => Kind::List,
            Self::ZSet(_) => Kind::ZSet,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Hash(keyed) | Self::Set(keyed) => keyed.len(),
            Self::List(tree) => tree.len(),
            Self::ZSet(scores) => scores.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of its trees.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Hash(keyed) | Self::Set(keyed) => keyed.bytes(),
            Self::List(tree) => tree.bytes(),
            Self::ZSet(scores) => scores.bytes(),
        }
    }
}

/// A collection to be read.
#[derive(Debug, Clone, Copy)]
pub enum View<'a> {
    Packed(&'a [u8]),
    Big(&'a Object),
}

/// A collection to be changed: a copy of the packed bytes, or the object itself.
#[derive(Debug)]
pub enum Owned {
    Packed(Vec<u8>),
    Big(Box<Object>),
}

impl Owned {
    pub fn empty() -> Self {
        Self::Packed(packed::empty())
    }

    pub fn view(&self) -> View<'_> {
        match self {
            Self::Packed(run) => View::Packed(run),
            Self::Big(object) => View::Big(object),
        }
    }
}

/// What changes work with.
#[derive(Debug, Clone, Copy)]
pub struct Tools<'a> {
    pub limits: Limits,
    pub budget: &'a Arc<Budget>,
    pub seed: u64,
}

/// Up to where collections are packed, by the names of Redis's configuration.
#[derive(Debug)]
pub struct Packing {
    pub hash_entries: AtomicI64,
    pub hash_value: AtomicI64,
    pub list_size: AtomicI64,
    pub set_ints: AtomicI64,
    pub set_entries: AtomicI64,
    pub set_value: AtomicI64,
    pub zset_entries: AtomicI64,
    pub zset_value: AtomicI64,
}

impl Default for Packing {
    /// Redis's defaults.
    fn default() -> Self {
        Self {
            hash_entries: AtomicI64::new(128),
            hash_value: AtomicI64::new(64),
            list_size: AtomicI64::new(-2),
            set_ints: AtomicI64::new(512),
            set_entries: AtomicI64::new(128),
            set_value: AtomicI64::new(64),
            zset_entries: AtomicI64::new(128),
            zset_value: AtomicI64::new(64),
        }
    }
}

impl Packing {
    pub fn limits(&self) -> Limits {
        let get = |n: &AtomicI64| n.load(Ordering::Relaxed).max(0) as usize;
        let entries = |n: &AtomicI64| get(n).min(packed::COUNT_MAX);
        let (list_entries, list_bytes) = match self.list_size.load(Ordering::Relaxed) {
            // -1: 4 KiB, -2: 8 KiB, up to 64 KiB.
            size @ ..0 => (packed::COUNT_MAX, 2048 << (-size).clamp(1, 5)),
            size => ((size as usize).min(packed::COUNT_MAX), 8 * 1024),
        };
        Limits {
            hash_entries: entries(&self.hash_entries),
            hash_value: get(&self.hash_value),
            list_entries,
            list_bytes,
            set_ints: entries(&self.set_ints),
            set_entries: entries(&self.set_entries),
            set_value: get(&self.set_value),
            zset_entries: entries(&self.zset_entries),
            zset_value: get(&self.zset_value),
        }
    }
}

/// See [`Packing`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub hash_entries: usize,
    pub hash_value: usize,
    pub list_entries: usize,
    pub list_bytes: usize,
    pub set_ints: usize,
    pub set_entries: usize,
    pub set_value: usize,
    pub zset_entries: usize,
    pub zset_value: usize,
}

/// One element of a collection, as a copy of it carries it.
#[derive(Debug, Clone, PartialEq)]
pub enum Element<'a> {
    /// Of a list or a set.
    One(Cow<'a, [u8]>),
    /// A field and its value.
    Pair(&'a [u8], &'a [u8]),
    Scored(&'a [u8], f64),
}

impl<'a> View<'a> {
    pub fn len(self, kind: Kind) -> usize {
        match self {
            Self::Packed(run) if kind == Kind::Hash => packed::count(run) / 2,
            Self::Packed(run) => packed::count(run),
            Self::Big(object) => object.len(),
        }
    }

    /// The elements from an index on, in the collection's own order.
    pub fn elements(self, kind: Kind, from: usize) -> Box<dyn Iterator<Item = Element<'a>> + 'a> {
        match kind {
            Kind::Hash => Box::new(
                hash::Hash(self)
                    .iter_from(from)
                    .map(|(f, v)| Element::Pair(f, v)),
            ),
            Kind::Set => Box::new(set::Set(self).iter_from(from).map(Element::One)),
            Kind::List => Box::new(
                list::List(self)
                    .iter_from(from)
                    .map(|e| Element::One(Cow::Borrowed(e))),
            ),
            Kind::ZSet => Box::new(
                zset::ZSet(self)
                    .iter_from(from)
                    .map(|(m, s)| Element::Scored(m, s)),
            ),
            Kind::String => Box::new(std::iter::empty()),
        }
    }

    /// The name that `OBJECT ENCODING` answers, in the words of Redis 7.0.
    pub fn encoding(self, kind: Kind) -> &'static str {
        match (kind, self) {
            (Kind::List, _) => "quicklist",
            (Kind::Set, Self::Packed(run)) if packed::is_ints(run) => "intset",
            (Kind::Set, _) | (Kind::Hash, Self::Big(_)) => "hashtable",
            (Kind::ZSet, Self::Big(_)) => "skiplist",
            (Kind::Hash | Kind::ZSet, Self::Packed(_)) => "listpack",
            (Kind::String, _) => "raw",
        }
    }
}

/// Two kinds of iterators as one.
#[derive(Debug, Clone)]
enum Either<A, B> {
    Packed(A),
    Big(B),
}

impl<T, A: Iterator<Item = T>, B: Iterator<Item = T>> Iterator for Either<A, B> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self {
            Self::Packed(a) => a.next(),
            Self::Big(b) => b.next(),
        }
    }
}

#[cfg(test)]
pub(super) fn test_tools(budget: &Arc<Budget>) -> Tools<'_> {
    Tools {
        limits: Packing::default().limits(),
        budget,
        seed: 11,
    }
}
