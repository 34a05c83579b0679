//! The layout of an item in its chunk. One of the few `unsafe` rooms.
//!
//! ```text
//! header u32   kind:4 | layout:3 | expires:1 | key length:8 | value length:16
//! expiry u64   only when `expires`: Unix milliseconds
//! body         Inline:   key, value
//!              BigValue: key, value as Arc<[u8]> (address u64, length u64)
//!              BigBoth:  key as Box<[u8]>, value as Arc<[u8]> (address u64, length u64 each)
//! ```
//!
//! A key of up to 255 bytes and a value of up to 64 KiB have their length in the header; a longer key makes the item `BigBoth`. All fields
//! may be unaligned.
//!
//! Invariants: an item is written whole by [`write`] before its reference is published in a bucket; it is reached only under the lock of
//! its slot's domain; [`drop_body`] runs once, right before its chunk is freed.

use std::ptr::NonNull;
use std::sync::Arc;

use super::pages::{CHUNK_MAX, Pages, Ref};

/// Values from this size are kept out of pages, reference counted, and sent without a copy.
pub const BIG_VALUE: usize = 16 * 1024 - 512;
const HEADER: usize = 4;
const EXPIRY: usize = 8;
const FAT: usize = 16;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    String = 0,
}

impl Kind {
    /// The name that `TYPE` answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Layout {
    Inline = 0,
    BigValue = 1,
    BigBoth = 2,
}

/// A value to be stored.
#[derive(Debug, Clone)]
pub enum NewValue<'a> {
    Bytes(&'a [u8]),
    /// Two runs, stored one after the other.
    Joined(&'a [u8], &'a [u8]),
    Shared(Arc<[u8]>),
}

impl NewValue<'_> {
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(b) => b.len(),
            Self::Joined(a, b) => a.len() + b.len(),
            Self::Shared(b) => b.len(),
        }
    }

    fn into_shared(self) -> Arc<[u8]> {
        match self {
            Self::Bytes(b) => b.into(),
            Self::Joined(a, b) => {
                let mut joined = Vec::with_capacity(a.len() + b.len());
                joined.extend_from_slice(a);
                joined.extend_from_slice(b);
                joined.into()
            }
            Self::Shared(b) => b,
        }
    }
}

/// A stored value.
#[derive(Debug, Clone)]
pub enum ValueRef<'a> {
    Inline(&'a [u8]),
    /// From [`BIG_VALUE`] bytes on: cheap to keep after the lock is gone.
    Shared(Arc<[u8]>),
}

impl std::ops::Deref for ValueRef<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Inline(b) => b,
            Self::Shared(b) => b,
        }
    }
}

/// How an item will lie in memory.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    layout: Layout,
    /// Bytes of the chunk.
    pub chunk: usize,
    /// Bytes beside the chunk.
    pub heap: usize,
}

/// Plans an item's layout from its lengths.
pub fn plan(key: usize, value: usize, expires: bool) -> Plan {
    let fixed = HEADER + if expires { EXPIRY } else { 0 };
    let (layout, chunk, heap) = if key > 255 {
        (Layout::BigBoth, fixed + 2 * FAT, key + value + FAT)
    } else if value >= BIG_VALUE {
        (Layout::BigValue, fixed + key + FAT, value + FAT)
    } else {
        (Layout::Inline, fixed + key + value, 0)
    };
    debug_assert!(chunk <= CHUNK_MAX);
    Plan {
        layout,
        chunk,
        heap,
    }
}

fn header(layout: Layout, kind: Kind, expires: bool, key: usize, value: usize) -> u32 {
    let key_len = if layout == Layout::BigBoth {
        0
    } else {
        key as u32
    };
    let value_len = if layout == Layout::Inline {
        value as u32
    } else {
        0
    };
    kind as u32 | (layout as u32) << 4 | u32::from(expires) << 7 | key_len << 8 | value_len << 16
}

/// Writes a whole item into the chunk at `to`.
///
/// # Safety
/// `to` is a chunk of at least `plan.chunk` bytes that is ours alone, and `plan` was made for these lengths.
pub unsafe fn write(
    to: NonNull<u8>,
    plan: Plan,
    kind: Kind,
    key: &[u8],
    value: NewValue<'_>,
    expires_at: Option<u64>,
) {
    let header = header(
        plan.layout,
        kind,
        expires_at.is_some(),
        key.len(),
        value.len(),
    );
    // SAFETY: the plan says how many bytes are written, and the caller that they are there.
    unsafe {
        to.cast::<u32>().write_unaligned(header);
        let mut at = to.add(HEADER);
        if let Some(time) = expires_at {
            at.cast::<u64>().write_unaligned(time);
            at = at.add(EXPIRY);
        }
        if plan.layout == Layout::BigBoth {
            let key: Box<[u8]> = key.into();
            write_fat(at, Box::into_raw(key));
            at = at.add(FAT);
        } else {
            at.copy_from_nonoverlapping(NonNull::from(key).cast(), key.len());
            at = at.add(key.len());
        }
        if plan.layout == Layout::Inline {
            match value {
                NewValue::Bytes(b) => at.copy_from_nonoverlapping(NonNull::from(b).cast(), b.len()),
                NewValue::Joined(a, b) => {
                    at.copy_from_nonoverlapping(NonNull::from(a).cast(), a.len());
                    at.add(a.len())
                        .copy_from_nonoverlapping(NonNull::from(b).cast(), b.len());
                }
                NewValue::Shared(b) => {
                    at.copy_from_nonoverlapping(NonNull::from(&*b).cast(), b.len());
                }
            }
        } else {
            write_fat(at, Arc::into_raw(value.into_shared()));
        }
    }
}

/// # Safety
/// 16 bytes at `to` are ours to write.
unsafe fn write_fat(to: NonNull<u8>, fat: *const [u8]) {
    // SAFETY: the caller's word.
    unsafe {
        to.cast::<u64>()
            .write_unaligned(fat.cast::<u8>().expose_provenance() as u64);
        to.add(8).cast::<u64>().write_unaligned(fat.len() as u64);
    }
}

/// # Safety
/// [`write_fat`] wrote 16 bytes at `at`, and what they point to is still there.
unsafe fn read_fat(at: NonNull<u8>) -> *const [u8] {
    // SAFETY: the caller's word.
    unsafe {
        let address = at.cast::<u64>().read_unaligned() as usize;
        let length = at.add(8).cast::<u64>().read_unaligned() as usize;
        std::ptr::slice_from_raw_parts(std::ptr::with_exposed_provenance(address), length)
    }
}

/// A stored item, readable while its domain is locked.
#[derive(Clone, Copy)]
pub struct ItemRef<'a> {
    at: NonNull<u8>,
    header: u32,
    held: std::marker::PhantomData<&'a u8>,
}

impl<'a> ItemRef<'a> {
    /// # Safety
    /// `at` is a live item of `pages` whose domain stays locked for `'a`, and nobody writes to it in `'a`.
    pub unsafe fn new(pages: &Pages, at: Ref) -> Self {
        let (at, _) = pages.chunk(at);
        Self {
            at,
            // SAFETY: a live item starts with its header.
            header: unsafe { at.cast::<u32>().read_unaligned() },
            held: std::marker::PhantomData,
        }
    }

    fn layout(self) -> Layout {
        match self.header >> 4 & 7 {
            0 => Layout::Inline,
            1 => Layout::BigValue,
            _ => Layout::BigBoth,
        }
    }

    fn has_expiry(self) -> bool {
        self.header >> 7 & 1 != 0
    }

    /// The offset of the key (or of its fat pointer).
    fn key_offset(self) -> usize {
        HEADER + if self.has_expiry() { EXPIRY } else { 0 }
    }

    fn key_len(self) -> usize {
        (self.header >> 8 & 0xFF) as usize
    }

    fn value_offset(self) -> usize {
        self.key_offset()
            + if self.layout() == Layout::BigBoth {
                FAT
            } else {
                self.key_len()
            }
    }

    pub fn kind(self) -> Kind {
        Kind::String
    }

    pub fn key(self) -> &'a [u8] {
        // SAFETY: the item is live and unwritten for 'a (`new`), and laid out as its header says.
        unsafe {
            let at = self.at.add(self.key_offset());
            if self.layout() == Layout::BigBoth {
                &*read_fat(at)
            } else {
                std::slice::from_raw_parts(at.as_ptr(), self.key_len())
            }
        }
    }

    pub fn value(self) -> ValueRef<'a> {
        // SAFETY: as for `key`; the Arc's count is raised while the item still owns one.
        unsafe {
            let at = self.at.add(self.value_offset());
            if self.layout() == Layout::Inline {
                let len = (self.header >> 16) as usize;
                ValueRef::Inline(std::slice::from_raw_parts(at.as_ptr(), len))
            } else {
                let fat = read_fat(at);
                Arc::increment_strong_count(fat);
                ValueRef::Shared(Arc::from_raw(fat))
            }
        }
    }

    pub fn value_len(self) -> usize {
        if self.layout() == Layout::Inline {
            (self.header >> 16) as usize
        } else {
            // SAFETY: as for `key`.
            unsafe { read_fat(self.at.add(self.value_offset())).len() }
        }
    }

    /// Unix milliseconds.
    pub fn expires_at(self) -> Option<u64> {
        self.has_expiry().then(|| {
            // SAFETY: the header says that it is there.
            unsafe { self.at.add(HEADER).cast::<u64>().read_unaligned() }
        })
    }

    pub fn is_expired(self, now_ms: u64) -> bool {
        self.expires_at().is_some_and(|at| at <= now_ms)
    }

    /// The bytes it takes: its chunk as asked for, and what it holds beside.
    pub fn bytes(self) -> usize {
        let key = if self.layout() == Layout::BigBoth {
            self.key().len()
        } else {
            self.key_len()
        };
        let p = plan(key, self.value_len(), self.has_expiry());
        p.chunk + p.heap
    }

    /// Bytes it holds beside its chunk.
    pub fn heap(self) -> usize {
        if self.layout() == Layout::Inline {
            0
        } else {
            self.bytes() - plan(self.key().len(), self.value_len(), self.has_expiry()).chunk
        }
    }
}

/// Overwrites the value of an inline item by one of the same length.
///
/// # Safety
/// `at` is a live inline item, its domain is locked and no [`ItemRef`] to it is in use; `value` has the item's value length.
pub unsafe fn overwrite_inline(pages: &Pages, at: Ref, value: &[u8]) {
    // SAFETY: the caller's word.
    unsafe {
        let item = ItemRef::new(pages, at);
        debug_assert!(item.layout() == Layout::Inline && item.value_len() == value.len());
        item.at
            .add(item.value_offset())
            .copy_from_nonoverlapping(NonNull::from(value).cast(), value.len());
    }
}

/// Overwrites the expiry of an item that has one.
///
/// # Safety
/// As [`overwrite_inline`]; the item has an expiry.
pub unsafe fn overwrite_expiry(pages: &Pages, at: Ref, time: u64) {
    // SAFETY: the caller's word.
    unsafe {
        let item = ItemRef::new(pages, at);
        debug_assert!(item.has_expiry());
        item.at.add(HEADER).cast::<u64>().write_unaligned(time);
    }
}

/// Whether a value of this length could overwrite the item's in place.
pub fn fits_in_place(item: ItemRef<'_>, value_len: usize, expires: bool) -> bool {
    item.layout() == Layout::Inline && item.value_len() == value_len && item.has_expiry() == expires
}

/// Releases what an item holds beside its chunk.
///
/// # Safety
/// Called once for a live item whose chunk is freed next; no [`ItemRef`] to it is in use.
pub unsafe fn drop_body(pages: &Pages, at: Ref) {
    // SAFETY: the caller's word; `write` made the pointers from a Box and an Arc.
    unsafe {
        let item = ItemRef::new(pages, at);
        if item.layout() == Layout::Inline {
            return;
        }
        drop(Arc::from_raw(read_fat(item.at.add(item.value_offset()))));
        if item.layout() == Layout::BigBoth {
            let key = read_fat(item.at.add(item.key_offset()));
            drop(Box::from_raw(key.cast_mut()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::pages::Budget;

    #[test]
    fn items_read_back_as_written_in_every_layout() {
        let pages = Pages::new(64 << 20, Arc::new(Budget::new(0))).unwrap();
        for key_len in [0usize, 1, 16, 255, 256, 70_000] {
            for value_len in [0usize, 1, 8, 100, BIG_VALUE - 1, BIG_VALUE, 1 << 20] {
                for expires_at in [None, Some(u64::MAX - 1)] {
                    let key = vec![b'k'; key_len];
                    let value: Vec<u8> = (0..value_len).map(|i| i as u8).collect();
                    let p = plan(key_len, value_len, expires_at.is_some());
                    let at = pages.alloc(p.chunk).unwrap();
                    // SAFETY: a fresh chunk of the planned size; read, then dropped and freed once.
                    unsafe {
                        let half = value_len / 2;
                        let joined = NewValue::Joined(&value[..half], &value[half..]);
                        write(pages.chunk(at).0, p, Kind::String, &key, joined, expires_at);
                        let item = ItemRef::new(&pages, at);
                        assert_eq!(item.key(), key);
                        assert_eq!(&*item.value(), value);
                        assert_eq!(item.value_len(), value_len);
                        assert_eq!(item.expires_at(), expires_at);
                        assert_eq!(item.bytes(), p.chunk + p.heap);
                        assert_eq!(item.heap(), p.heap);
                        let kept = item.value();
                        drop_body(&pages, at);
                        pages.free(at);
                        if let ValueRef::Shared(kept) = kept {
                            assert_eq!(&*kept, value, "outlives its item");
                        }
                    }
                }
            }
        }
    }
}
