//! Operations on strings: each logs what it did.

use super::super::MAX_VALUE;
use super::super::budget::OutOfMemory;
use super::super::compress::{Given, Kept, Sound, Value, plain_of};
use super::super::item::{self, ItemRef, NewValue};
use super::super::pages::Ref;
use super::super::point::Point;
use super::Guard;

impl Guard<'_> {
    /// Stores a string. Logs `SET key value [PXAT t]`.
    pub fn set(
        &mut self,
        p: Point,
        key: &[u8],
        value: &[u8],
        expires_at: Option<u64>,
    ) -> Result<(), OutOfMemory> {
        self.put(p, key, NewValue::Bytes(value), expires_at)?;
        self.log_store(p, b"SET", key, value, expires_at);
        Ok(())
    }

    /// Stores a string that was packed before if that was worth it. Logs `CACHE.SETPACKED key packed [PXAT t]`, or as [`Guard::set`] does
    /// where a follower does not know that.
    pub fn set_given(
        &mut self,
        p: Point,
        key: &[u8],
        given: &Given<'_>,
        expires_at: Option<u64>,
    ) -> Result<(), OutOfMemory> {
        let Some(packed) = &given.packed else {
            return self.set(p, key, given.plain, expires_at);
        };
        self.put(p, key, NewValue::Packed(packed), expires_at)?;
        self.store.compression.note_used();
        match self.store.log.followers_are_current() {
            true => self.log_store(p, b"CACHE.SETPACKED", key, packed, expires_at),
            false => self.log_store(p, b"SET", key, given.plain, expires_at),
        }
        Ok(())
    }

    /// As [`Guard::set`] with the default expiry of keys that are written without one. For what writes a key anew.
    pub fn set_new(
        &mut self,
        p: Point,
        key: &[u8],
        value: &[u8],
        now_ms: u64,
    ) -> Result<(), OutOfMemory> {
        let expires_at = self.default_expiry(p, key, now_ms);
        self.set(p, key, value, expires_at)
    }

    /// As [`Guard::set_given`], likewise.
    pub fn set_given_new(
        &mut self,
        p: Point,
        key: &[u8],
        given: &Given<'_>,
        now_ms: u64,
    ) -> Result<(), OutOfMemory> {
        let expires_at = self.default_expiry(p, key, now_ms);
        self.set_given(p, key, given, expires_at)
    }

    /// Stores a string as another node has packed it. Logs as [`Guard::set_given`] does.
    pub fn set_packed(
        &mut self,
        p: Point,
        key: &[u8],
        packed: Sound<'_>,
        expires_at: Option<u64>,
    ) -> Result<(), OutOfMemory> {
        let bytes = packed.bytes();
        self.put(p, key, NewValue::Packed(bytes), expires_at)?;
        self.store.compression.note_used();
        if self.store.log.followers_are_current() {
            self.log_store(p, b"CACHE.SETPACKED", key, bytes, expires_at);
        } else if let Some(plain) = plain_of(bytes) {
            self.log_store(p, b"SET", key, &plain, expires_at);
        }
        Ok(())
    }

    /// The packed form of a key's string, if that is compressed.
    pub fn packed(&self, p: Point, key: &[u8]) -> Option<Kept> {
        let (_, at) = self.find(p, key)?;
        match self.item(at).value() {
            Value::Packed(packed) => Some(packed.keep()),
            Value::Plain(_) => None,
        }
    }

    /// Puts the plain bytes in the place of the packed form that they were unpacked from, if it is there still. What clients and followers
    /// see does not change, so nothing is logged.
    pub fn expand(
        &mut self,
        p: Point,
        key: &[u8],
        packed: &Kept,
        plain: &[u8],
    ) -> Result<(), OutOfMemory> {
        let same = |item: &ItemRef<'_>| item.is_compressed() && *item.stored() == *packed.packed();
        let item = self.find(p, key).map(|(_, at)| self.item(at)).filter(same);
        let Some(expires_at) = item.map(|item| item.expires_at()) else {
            return Ok(());
        };
        self.put(p, key, NewValue::Bytes(plain), expires_at)
    }

    /// Adds to the end of a string, which is made when absent. Gives its new length. Logs `APPEND`.
    pub fn append(
        &mut self,
        p: Point,
        key: &[u8],
        suffix: &[u8],
        now_ms: u64,
    ) -> Result<usize, OutOfMemory> {
        let Some((_, at)) = self.find_live(p, key, now_ms) else {
            self.set_new(p, key, suffix, now_ms)?;
            return Ok(suffix.len());
        };
        let item = self.item(at);
        let (old, expires_at) = (item.value_len(), item.expires_at());
        if self.overwrite_part(p, at, old, suffix) {
            self.log(p, &[b"APPEND", key, suffix]);
            return Ok(old + suffix.len());
        }
        let item = self.item(at);
        // The old value is copied out of its item, which `put` replaces.
        let value = item.value().to_vec();
        self.put(p, key, NewValue::Joined(&value, suffix), expires_at)?;
        self.log(p, &[b"APPEND", key, suffix]);
        Ok(old + suffix.len())
    }

    /// Overwrites a string from `offset` on, padding with zero bytes. Gives its new length. Logs `SETRANGE`.
    pub fn set_range(
        &mut self,
        p: Point,
        key: &[u8],
        offset: usize,
        bytes: &[u8],
        now_ms: u64,
    ) -> Result<usize, OutOfMemory> {
        let found = self.find_live(p, key, now_ms);
        let end = offset.saturating_add(bytes.len());
        if end > MAX_VALUE {
            return Err(OutOfMemory::Node);
        }
        let (old, expires_at) = match found.map(|(_, at)| self.item(at)) {
            Some(item) => (item.value_len(), item.expires_at()),
            None => (0, self.born(p, key, now_ms)),
        };
        let in_place = found.is_some_and(|(_, at)| self.overwrite_part(p, at, offset, bytes));
        if !in_place {
            let mut value = found.map_or_else(Vec::new, |(_, at)| self.item(at).value().to_vec());
            if value.len() < end {
                value.resize(end, 0);
            }
            value[offset..end].copy_from_slice(bytes);
            self.put(p, key, NewValue::Bytes(&value), expires_at)?;
        }
        let offset = offset.to_string();
        self.log(p, &[b"SETRANGE", key, offset.as_bytes(), bytes]);
        Ok(old.max(end))
    }

    /// Overwrites a part of a plain string where it lies. False: it must be copied. A snapshot that runs is given the old bytes first, and
    /// while it or a connection holds them they stay.
    fn overwrite_part(&mut self, p: Point, at: Ref, offset: usize, bytes: &[u8]) -> bool {
        if offset.saturating_add(bytes.len()) > MAX_VALUE {
            return false;
        }
        self.before_change(p, false);
        // SAFETY: the item is live, locked, and no ItemRef to it is in use.
        unsafe { item::overwrite_part(&self.store.pages, at, offset, bytes) }
    }

    fn log_store(
        &mut self,
        p: Point,
        name: &[u8],
        key: &[u8],
        value: &[u8],
        expires_at: Option<u64>,
    ) {
        match expires_at {
            None => self.log(p, &[name, key, value]),
            Some(time) if self.is_observed(p) => {
                let time = time.to_string();
                self.log(p, &[name, key, value, b"PXAT", time.as_bytes()]);
            }
            Some(_) => {}
        }
    }
}
