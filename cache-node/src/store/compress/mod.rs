//! Compressed strings: which ones are, how, and what it costs (docs/decisions/0021).
//!
//! ```text
//! packed form: length of the plain bytes, and in the two highest bits the codec, u32 little-endian; then what the codec made
//! ```
//!
//! A value is packed before the lock of its slot is taken and unpacked after it was released. What an item holds packed was made here, or
//! was unpacked once before it was taken in from another node: it always unpacks.

mod codec;
mod packed;
#[cfg(test)]
mod tests;

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use parking_lot::Mutex;

use super::Store;
use super::budget::OutOfMemory;
use super::point::Point;
use crate::limits::{COMPRESSION_LEVEL_MAX, COMPRESSION_MIN_SIZE, COMPRESSION_VALUE_MAX};
use codec::pack;
pub(super) use codec::plain_len;
pub use codec::{Buffer, CompressionStats, stats};
pub use packed::{Kept, Packed, Sound, Value, plain_of};

const LEVEL: u8 = 3;

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

    /// Bytes of the smallest value that is packed, if any is.
    fn least(self) -> Option<u32> {
        // Nothing is shorter than an empty one.
        (self.method != Method::None).then_some(self.min_size.max(1))
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
    /// Bytes of the smallest value that any setting packs. 0: none packs.
    least: AtomicU32,
    /// There are regions: the setting of a key is to be looked up.
    has_regions: AtomicBool,
    /// Bytes of the smallest value that some region packs. Held while a setting changes.
    regions_least: Mutex<Option<u32>>,
    /// Whether an item was ever packed.
    used: AtomicBool,
}

impl Compression {
    /// Of keys that are in no region.
    pub fn setting(&self) -> Setting {
        self.setting.get()
    }

    pub fn set(&self, setting: Setting) {
        let regions = self.regions_least.lock();
        self.setting.set(setting);
        self.note_least(*regions);
    }

    fn note_least(&self, regions: Option<u32>) {
        let least = [self.setting().least(), regions]
            .into_iter()
            .flatten()
            .min();
        self.least.store(least.unwrap_or(0), Ordering::Relaxed);
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
    pub(super) fn note_regions(&self, settings: impl ExactSizeIterator<Item = Setting>) {
        let mut regions = self.regions_least.lock();
        self.has_regions
            .store(settings.len() > 0, Ordering::Relaxed);
        *regions = settings.filter_map(Setting::least).min();
        self.note_least(*regions);
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
        let least = known.least.load(Ordering::Relaxed) as usize;
        if least == 0 || size < least {
            return Method::None;
        }
        let region = if known.has_regions.load(Ordering::Relaxed) {
            self.region_compression(key)
        } else {
            None
        };
        region.unwrap_or_else(|| known.setting()).of(size)
    }

    /// Packs a value that is to be stored, if that is wanted and worth it. Called before the key's slot is locked.
    pub fn pack<'a>(&self, key: &[u8], plain: &'a [u8]) -> Given<'a> {
        let packed = match self.compression_of(key, plain.len()) {
            Method::None => None,
            method => pack(plain, method),
        };
        Given { plain, packed }
    }

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
