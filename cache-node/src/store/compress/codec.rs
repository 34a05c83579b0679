//! The packed form of a value: made and read, with a meter.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use zstd::bulk::{Compressor, Decompressor};

use super::Method;
use crate::limits::{COMPRESSION_BUFFER_KEEP, COMPRESSION_CONTEXT_KEEP};

/// Bytes before what the codec made.
const HEAD: usize = 4;

/// How bytes are packed; the numbers are part of the packed form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Codec {
    Lz4 = 1,
    Zstd = 2,
}

/// What packing did since the process started.
#[derive(Debug, Default)]
struct Meter {
    packed: AtomicU64,
    plain_bytes: AtomicU64,
    packed_bytes: AtomicU64,
    left: AtomicU64,
    pack_ns: AtomicU64,
    unpacked: AtomicU64,
    unpacked_bytes: AtomicU64,
    unpack_ns: AtomicU64,
}

static METER: Meter = Meter {
    packed: AtomicU64::new(0),
    plain_bytes: AtomicU64::new(0),
    packed_bytes: AtomicU64::new(0),
    left: AtomicU64::new(0),
    pack_ns: AtomicU64::new(0),
    unpacked: AtomicU64::new(0),
    unpacked_bytes: AtomicU64::new(0),
    unpack_ns: AtomicU64::new(0),
};

/// What packing did since the process started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CompressionStats {
    /// Values that were packed, their bytes before and after.
    pub packed: u64,
    pub plain_bytes: u64,
    pub packed_bytes: u64,
    /// Values that did not shrink enough and stayed as they were.
    pub left: u64,
    /// Time spent on both.
    pub pack_ns: u64,
    /// Values that were unpacked, their plain bytes, and the time.
    pub unpacked: u64,
    pub unpacked_bytes: u64,
    pub unpack_ns: u64,
}

pub fn stats() -> CompressionStats {
    let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
    CompressionStats {
        packed: get(&METER.packed),
        plain_bytes: get(&METER.plain_bytes),
        packed_bytes: get(&METER.packed_bytes),
        left: get(&METER.left),
        pack_ns: get(&METER.pack_ns),
        unpacked: get(&METER.unpacked),
        unpacked_bytes: get(&METER.unpacked_bytes),
        unpack_ns: get(&METER.unpack_ns),
    }
}

fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// The compressor of this thread and its level.
    static COMPRESSOR: RefCell<Option<(u8, Compressor<'static>)>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Bytes in a buffer that the thread uses again.
#[derive(Debug)]
pub struct Buffer(pub(super) Vec<u8>);

impl Buffer {
    pub(super) fn empty() -> Self {
        let mut bytes = SPARE.take();
        bytes.clear();
        Self(bytes)
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() <= COMPRESSION_BUFFER_KEEP {
            // At the thread's end there is nothing to keep it in.
            let _ = SPARE.try_with(|spare| spare.set(std::mem::take(&mut self.0)));
        }
    }
}

/// Packs bytes. None: they would not be shorter by an eighth.
pub(super) fn pack(plain: &[u8], method: Method) -> Option<Buffer> {
    let begin = Instant::now();
    let packed = pack_unmetered(plain, method);
    METER
        .pack_ns
        .fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
    match &packed {
        Some(packed) => {
            count(&METER.packed, 1);
            count(&METER.plain_bytes, plain.len());
            count(&METER.packed_bytes, packed.len());
        }
        None => count(&METER.left, 1),
    }
    packed
}

fn pack_unmetered(plain: &[u8], method: Method) -> Option<Buffer> {
    let most = plain.len() - plain.len().div_ceil(8);
    let room = most.checked_sub(HEAD)?;
    let mut buffer = Buffer::empty();
    let bytes = &mut buffer.0;
    let (codec, size) = match method {
        Method::None => return None,
        Method::Lz4 => {
            let most = lz4_flex::block::get_maximum_output_size(plain.len());
            bytes.resize(HEAD + most, 0);
            let size = lz4_flex::block::compress_into(plain, &mut bytes[HEAD..]).ok()?;
            (Codec::Lz4, size)
        }
        Method::Zstd { level } => {
            bytes.resize(HEAD + room, 0);
            // One that finds no room did not shrink enough.
            let size = with_compressor(level, |c| {
                c.compress_to_buffer(plain, &mut bytes[HEAD..]).ok()
            })?;
            (Codec::Zstd, size)
        }
    };
    if size > room {
        return None;
    }
    bytes.truncate(HEAD + size);
    let head = plain.len() as u32 | (codec as u32) << 30;
    bytes[..HEAD].copy_from_slice(&head.to_le_bytes());
    Some(buffer)
}

fn with_compressor<R>(
    level: u8,
    f: impl FnOnce(&mut Compressor<'static>) -> Option<R>,
) -> Option<R> {
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(has, _)| *has != level) {
            // Regions have levels of their own. A context that did not come to its end takes none.
            let context = slot.take().map(|(_, compressor)| compressor);
            let context = context
                .and_then(|mut c| c.set_compression_level(level.into()).ok().map(|()| c))
                .or_else(|| Compressor::new(level.into()).ok());
            *slot = Some((level, context?));
        }
        let (_, compressor) = slot.as_mut()?;
        let done = f(compressor);
        if compressor.context_mut().sizeof() > COMPRESSION_CONTEXT_KEEP {
            *slot = None;
        }
        done
    })
}

/// The codec and the length of the plain bytes, by a packed form's head.
pub(super) fn head(packed: &[u8]) -> Option<(Codec, usize, &[u8])> {
    let (head, rest) = packed.split_first_chunk::<HEAD>()?;
    let head = u32::from_le_bytes(*head);
    let codec = match head >> 30 {
        1 => Codec::Lz4,
        2 => Codec::Zstd,
        _ => return None,
    };
    Some((codec, (head & (u32::MAX >> 2)) as usize, rest))
}

/// Bytes of what was packed.
pub(in crate::store) fn plain_len(packed: &[u8]) -> usize {
    head(packed).map_or(0, |(_, length, _)| length)
}

/// Unpacks into as many bytes as were packed. False: these are not what was packed.
pub(super) fn unpack_into(packed: &[u8], to: &mut [u8]) -> bool {
    let begin = Instant::now();
    let Some((codec, length, rest)) = head(packed).filter(|(_, length, _)| *length == to.len())
    else {
        return false;
    };
    let size = match codec {
        Codec::Lz4 => lz4_flex::block::decompress_into(rest, to).ok(),
        Codec::Zstd => DECOMPRESSOR.with_borrow_mut(|slot| {
            if slot.is_none() {
                *slot = Decompressor::new().ok();
            }
            slot.as_mut()?.decompress_to_buffer(rest, to).ok()
        }),
    };
    count(&METER.unpacked, 1);
    count(&METER.unpacked_bytes, length);
    METER
        .unpack_ns
        .fetch_add(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
    size == Some(length)
}
