//! Compressed strings: which ones are, how, and what it costs (docs/decisions/0021).
//!
//! ```text
//! packed form: length of the plain bytes, and in the two highest bits the codec, u32 little-endian; then what the codec made
//! ```
//!
//! A value is packed before the lock of its slot is taken and unpacked after it was released. What an item holds packed was made here, or
//! was unpacked once before it was taken in from another node: it always unpacks.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use zstd::bulk::{Compressor, Decompressor};

use super::budget::OutOfMemory;
use super::item::ValueRef;
use super::point::Point;
use super::spans::SharedValue;
use super::{MAX_VALUE, Store};
use crate::limits::{
    COMPRESSION_BUFFER_KEEP, COMPRESSION_CONTEXT_KEEP, COMPRESSION_LEVEL_MAX, COMPRESSION_MIN_SIZE,
    COMPRESSION_VALUE_MAX,
};

/// Bytes before what the codec made.
const HEAD: usize = 4;
const LEVEL: u8 = 3;

/// How bytes are packed; the numbers are part of the packed form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Codec {
    Lz4 = 1,
    Zstd = 2,
}

/// Which codec packs values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    #[default]
    None,
    Lz4,
    Zstd {
        level: u8,
    },
}

impl Method {
    /// 0: none; 1: LZ4; else zstd at this level less one.
    pub fn number(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd { level } => u64::from(level) + 1,
        }
    }

    pub fn numbered(number: u64) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Lz4,
            level => Self::Zstd {
                level: (level - 1) as u8,
            },
        }
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "none" => Ok(Self::None),
            None if text == "lz4" => Ok(Self::Lz4),
            None if text == "zstd" => Ok(Self::Zstd { level: LEVEL }),
            Some(("zstd", level)) => match level.parse() {
                Ok(level) if (1..=COMPRESSION_LEVEL_MAX).contains(&level) => {
                    Ok(Self::Zstd { level })
                }
                _ => Err(format!(
                    "a level of zstd is a number from 1 to {COMPRESSION_LEVEL_MAX}"
                )),
            },
            _ => Err("give one of none, lz4, zstd, zstd:<level>".into()),
        }
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Lz4 => f.write_str("lz4"),
            Self::Zstd { level } => write!(f, "zstd:{level}"),
        }
    }
}

/// What is done with the values of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    pub method: Method,
    /// Bytes of the smallest value that is packed.
    pub min_size: u32,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            method: Method::None,
            min_size: COMPRESSION_MIN_SIZE,
        }
    }
}

impl Setting {
    /// What is done with a value of so many bytes.
    fn of(self, size: usize) -> Method {
        if size >= self.min_size as usize && size <= COMPRESSION_VALUE_MAX {
            self.method
        } else {
            Method::None
        }
    }

    /// Bytes of the smallest value that is packed.
    fn least(self) -> u32 {
        match self.method {
            Method::None => u32::MAX,
            _ => self.min_size,
        }
    }
}

/// A [`Setting`] that changes while it is read.
#[derive(Debug, Default)]
pub(super) struct LiveSetting {
    /// See [`Method::number`].
    method: AtomicU32,
    min_size: AtomicU32,
}

impl LiveSetting {
    pub fn get(&self) -> Setting {
        Setting {
            method: Method::numbered(self.method.load(Ordering::Relaxed).into()),
            min_size: self.min_size.load(Ordering::Relaxed),
        }
    }

    pub fn set(&self, setting: Setting) {
        self.method
            .store(setting.method.number() as u32, Ordering::Relaxed);
        self.min_size.store(setting.min_size, Ordering::Relaxed);
    }
}

/// The setting of keys that are in no region, and what is known of all.
#[derive(Debug, Default)]
pub struct Compression {
    setting: LiveSetting,
    /// Bytes of the smallest value that some region packs.
    regions_least: AtomicU32,
    /// There are regions: the setting of a key is to be looked up.
    has_regions: AtomicBool,
    /// Whether an item was ever packed.
    used: AtomicBool,
}

impl Compression {
    /// Of keys that are in no region.
    pub fn setting(&self) -> Setting {
        self.setting.get()
    }

    pub fn set(&self, setting: Setting) {
        self.setting.set(setting);
    }

    pub fn set_method(&self, method: Method) {
        self.set(Setting {
            method,
            ..self.setting()
        });
    }

    pub fn set_min_size(&self, min_size: u32) {
        self.set(Setting {
            min_size,
            ..self.setting()
        });
    }

    /// Takes note of the settings of all regions there are.
    pub(super) fn note_regions(&self, settings: impl Iterator<Item = Setting>) {
        let least = settings.map(Setting::least).min();
        self.regions_least
            .store(least.unwrap_or(u32::MAX), Ordering::Relaxed);
        self.has_regions.store(least.is_some(), Ordering::Relaxed);
    }

    /// Whether an item may be packed.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn note_used(&self) {
        if !self.is_used() {
            self.used.store(true, Ordering::Relaxed);
        }
    }
}

/// A string to be stored: as it is, and packed where that is shorter.
#[derive(Debug)]
pub struct Given<'a> {
    pub plain: &'a [u8],
    pub packed: Option<Buffer>,
}

impl Store {
    /// What is done with a value of so many bytes of a key. The one place that knows.
    fn compression_of(&self, key: &[u8], size: usize) -> Method {
        let known = &self.compression;
        let own = known.setting();
        if !known.has_regions.load(Ordering::Relaxed) {
            return own.of(size);
        }
        let least = own.least().min(known.regions_least.load(Ordering::Relaxed));
        if size < least as usize {
            return Method::None;
        }
        self.region_compression(key).unwrap_or(own).of(size)
    }

    /// Packs a value that is to be stored, if that is wanted and worth it. Called before the key's slot is locked.
    pub fn pack<'a>(&self, key: &[u8], plain: &'a [u8]) -> Given<'a> {
        let packed = match self.compression_of(key, plain.len()) {
            Method::None => None,
            method => pack(plain, method),
        };
        Given { plain, packed }
    }
}

impl Store {
    /// Puts the plain bytes of a key's string in the place of its packed form, which is unpacked without a lock: for what changes a part.
    pub fn expand(&self, p: Point, key: &[u8]) -> Result<(), OutOfMemory> {
        if !self.compression.is_used() {
            return Ok(());
        }
        let packed = self.lock(p.slot).packed(p, key);
        match packed {
            Some(packed) => {
                let plain = packed.unpack();
                self.lock(p.slot).expand(p, key, &packed, &plain)
            }
            None => Ok(()),
        }
    }
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
pub struct Buffer(Vec<u8>);

impl Buffer {
    fn empty() -> Self {
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
fn pack(plain: &[u8], method: Method) -> Option<Buffer> {
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
            *slot = Some((level, Compressor::new(level.into()).ok()?));
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
fn head(packed: &[u8]) -> Option<(Codec, usize, &[u8])> {
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
pub(super) fn plain_len(packed: &[u8]) -> usize {
    head(packed).map_or(0, |(_, length, _)| length)
}

/// Unpacks into as many bytes as were packed. False: these are not what was packed.
fn unpack_into(packed: &[u8], to: &mut [u8]) -> bool {
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
pub struct Packed<'a>(pub(super) ValueRef<'a>);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Lcg;

    const METHODS: [Method; 4] = [
        Method::Lz4,
        Method::Zstd { level: 1 },
        Method::Zstd { level: 3 },
        Method::Zstd {
            level: COMPRESSION_LEVEL_MAX,
        },
    ];

    #[test]
    fn methods_read_back_as_written_and_others_say_what_may_be() {
        for text in ["none", "lz4", "zstd:1", "zstd:3"] {
            assert_eq!(text.parse::<Method>().unwrap().to_string(), text);
        }
        assert_eq!("zstd".parse(), Ok(Method::Zstd { level: 3 }));
        let compression = Compression::default();
        for method in METHODS.into_iter().chain([Method::None]) {
            compression.set_method(method);
            assert_eq!(compression.setting().method, method);
        }
        for text in [
            "", "LZ4", "lz4:1", "zstd:", "zstd:0", "zstd:99", "zstd:-1", "gzip",
        ] {
            let why = text.parse::<Method>().unwrap_err();
            assert!(why.contains("zstd"), "{text}: {why}");
        }
    }

    #[test]
    fn what_shrinks_is_packed_and_unpacks_and_what_does_not_is_left() {
        let mut random = Lcg(11);
        for method in METHODS {
            for length in [0usize, 1, 4, 5, 16, 31, 100, 1_000, 20_000, 300_000] {
                let even = vec![7; length];
                let text: Vec<u8> = (0..length).map(|i| b"a text, "[i % 8]).collect();
                let noise: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
                for plain in [&even, &text] {
                    let packed = pack(plain, method);
                    if length >= 100 {
                        assert!(packed.is_some(), "{method} {length}");
                    }
                    if let Some(packed) = packed {
                        assert!(packed.len() <= length - length.div_ceil(8));
                        assert_eq!(plain_len(&packed), length);
                        assert_eq!(plain_of(&packed).as_ref(), Some(plain));
                        let kept = Packed(ValueRef::Inline(&packed)).keep();
                        assert_eq!(&kept.unpack(), plain);
                        assert!(Sound::check(&packed).is_some());
                    }
                }
                assert!(pack(&noise, method).is_none(), "{method} {length}");
            }
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let plain: Vec<u8> = (0..5_000u32).map(|i| (i / 7) as u8).collect();
        for method in METHODS {
            let packed = pack(&plain, method).unwrap().to_vec();
            for end in 0..packed.len() {
                assert!(Sound::check(&packed[..end]).is_none(), "{method} {end}");
            }
            for (byte, value) in [(0, packed[0] ^ 1), (3, packed[3] ^ 0xC0), (3, 0x7F)] {
                let mut damaged = packed.clone();
                damaged[byte] = value;
                assert!(Sound::check(&damaged).is_none(), "{method} {byte}");
            }
            let mut random = Lcg(3);
            for _ in 0..2_000 {
                let mut damaged = packed.clone();
                let at = random.below(damaged.len() as u64) as usize;
                damaged[at] = random.below(256) as u8;
                // Either refused or other bytes of the same length: never a panic.
                if let Some(sound) = Sound::check(&damaged) {
                    assert_eq!(
                        plain_of(sound.bytes()).map(|p| p.len()),
                        Some(plain_len(&damaged))
                    );
                }
            }
        }
    }
}
