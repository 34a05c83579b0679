//! The layout of an item in its chunk. One of the few `unsafe` rooms.
//!
//! ```text
//! header u32   kind:3 (7: a compressed string) | collection is big:1 | layout:2 | expiry:2 | clock:1 | key length:7 | value length:14 | heat:2
//! expiry       5 bytes: milliseconds since 2020, or 8 bytes: Unix milliseconds
//! clock u32    only when `clock`: what a sampled eviction policy keeps
//! body         Inline:   key, value
//!              Long:     key length u32, value length u32, key, value
//!              BigValue: key length u32, address of the value u64, key
//!              BigBoth:  address of the key u64, address of the value u64
//! ```
//!
//! A compressed string's value is its packed form ([`super::compress`]). A small collection's is its packed bytes. A big one's is the address of a [`Cell`], which the item owns.
//!
//! Values from [`BIG_VALUE`] bytes, and what does not fit in a chunk, are in spans. All fields may be unaligned.
//!
//! Invariants: an item is written whole by [`create`] before its reference is published in a bucket; it is reached only under the lock of
//! its slot's domain; [`drop_body`] runs once, right before its chunk is freed.

use std::ptr::NonNull;
use std::sync::Arc;

use super::budget::{OutOfMemory, Room};
use super::collections::{Object, View};
use super::compress::{Packed, Value, plain_len};
use super::pages::{CHUNK_MAX, Pages, Ref};
use super::spans::{SharedValue, Spans, span_bytes};

/// Values from this size are kept out of pages, reference counted, and sent without a copy.
pub const BIG_VALUE: usize = 16 * 1024 - 512;
/// Keys up to this size have their length in the header.
const SHORT_KEY: usize = 127;
const HEADER: usize = 4;
const CLOCK: usize = 4;
const ADDRESS: usize = 8;
const LENGTH: usize = 4;
/// 2020-01-01 in Unix milliseconds: five bytes reach from there to 2054.
const EXPIRY_BASE: u64 = 1_577_836_800_000;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    String = 0,
    Hash = 1,
    List = 2,
    Set = 3,
    ZSet = 4,
}

/// The bit of a kind that says that the collection is big.
const BIG: u32 = 8;
/// The kind of a compressed string.
const COMPRESSED: u32 = 7;

/// Where a big collection is; empty while it is taken out to be changed.
type Cell = Option<Box<Object>>;

impl Kind {
    /// The name that `TYPE` answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Hash => "hash",
            Self::List => "list",
            Self::Set => "set",
            Self::ZSet => "zset",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Layout {
    Inline = 0,
    Long = 1,
    BigValue = 2,
    BigBoth = 3,
}

/// A value to be stored.
#[derive(Debug, Clone)]
pub enum NewValue<'a> {
    Bytes(&'a [u8]),
    /// Two runs, stored one after the other.
    Joined(&'a [u8], &'a [u8]),
    Shared(SharedValue),
    /// A string's packed form.
    Packed(&'a [u8]),
    SharedPacked(SharedValue),
}

impl<'a> NewValue<'a> {
    /// The bytes of an item's value once more.
    pub fn again(item: ItemRef<'_>, bytes: &'a [u8]) -> Self {
        match item.is_compressed() {
            true => Self::Packed(bytes),
            false => Self::Bytes(bytes),
        }
    }

    /// A large value once more.
    pub fn again_shared(item: ItemRef<'_>, value: SharedValue) -> Self {
        match item.is_compressed() {
            true => Self::SharedPacked(value),
            false => Self::Shared(value),
        }
    }
}

impl NewValue<'_> {
    fn header_kind(&self, kind: Kind) -> u32 {
        match self {
            Self::Packed(_) | Self::SharedPacked(_) => COMPRESSED,
            _ => kind as u32,
        }
    }

    pub fn len(&self) -> usize {
        let (a, b) = self.parts();
        a.len() + b.len()
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        match self {
            Self::Bytes(b) | Self::Packed(b) => (b, &[]),
            Self::Joined(a, b) => (a, b),
            Self::Shared(b) | Self::SharedPacked(b) => (b, &[]),
        }
    }

    fn into_shared(self, spans: &Arc<Spans>, room: Room) -> Result<SharedValue, OutOfMemory> {
        match self {
            Self::Shared(b) | Self::SharedPacked(b) => Ok(b),
            other => spans.value(&[other.parts().0, other.parts().1], room),
        }
    }
}

/// The bytes that an item stores as its value.
#[derive(Debug, Clone)]
pub enum ValueRef<'a> {
    Inline(&'a [u8]),
    /// From [`BIG_VALUE`] bytes on: cheap to keep after the lock is gone.
    Shared(SharedValue),
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

/// Bytes of an expiry.
fn expiry_bytes(expires_at: Option<u64>) -> usize {
    match expires_at {
        None => 0,
        Some(time) => 5 + 3 * usize::from(time.wrapping_sub(EXPIRY_BASE) >> 40 != 0),
    }
}

/// How an item will lie in memory.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    layout: Layout,
    expiry: usize,
    clock: bool,
    /// Bytes of the chunk.
    pub chunk: usize,
    /// Bytes beside the chunk.
    pub heap: usize,
}

impl Plan {
    /// Plans an item's layout from its lengths.
    pub fn new(key: usize, value: usize, expires_at: Option<u64>, clock: bool) -> Self {
        Self::of(key, value, expiry_bytes(expires_at), clock)
    }

    fn of(key: usize, value: usize, expiry: usize, clock: bool) -> Self {
        let fixed = HEADER + expiry + if clock { CLOCK } else { 0 };
        let inline = fixed + key + value;
        let (layout, chunk, heap) = if key <= SHORT_KEY && value < BIG_VALUE {
            (Layout::Inline, inline, 0)
        } else if value < BIG_VALUE && inline + 2 * LENGTH <= CHUNK_MAX {
            (Layout::Long, inline + 2 * LENGTH, 0)
        } else if fixed + LENGTH + ADDRESS + key <= CHUNK_MAX {
            let chunk = fixed + LENGTH + ADDRESS + key;
            (Layout::BigValue, chunk, span_bytes(value))
        } else {
            let heap = span_bytes(key) + span_bytes(value);
            (Layout::BigBoth, fixed + 2 * ADDRESS, heap)
        };
        debug_assert!(chunk <= CHUNK_MAX);
        Self {
            layout,
            expiry,
            clock,
            chunk,
            heap,
        }
    }

    fn header(&self, kind: u32, key: usize, value: usize) -> u32 {
        let (key, value) = match self.layout {
            Layout::Inline => (key as u32, value as u32),
            _ => (0, 0),
        };
        let expiry = match self.expiry {
            0 => 0,
            5 => 1,
            _ => 2,
        };
        kind | (self.layout as u32) << 4
            | expiry << 6
            | u32::from(self.clock) << 8
            | key << 9
            | value << 16
    }
}

/// Makes an item: its chunk, and its spans where it has some. Gives its reference and the bytes it takes.
pub fn create(
    means: (&Pages, &Arc<Spans>, Room),
    kind: Kind,
    key: &[u8],
    value: NewValue<'_>,
    expires_at: Option<u64>,
    clock: Option<u32>,
) -> Result<(Ref, usize), OutOfMemory> {
    create_of(
        means,
        value.header_kind(kind),
        key,
        value,
        expires_at,
        clock,
    )
}

/// Makes an item with a big collection, which comes back when there is no memory.
pub fn create_big(
    means: (&Pages, &Arc<Spans>, Room),
    key: &[u8],
    object: Box<Object>,
    expires_at: Option<u64>,
) -> Result<(Ref, usize), (OutOfMemory, Box<Object>)> {
    let (kind, bytes) = (object.kind(), object.bytes());
    let cell: *mut Cell = Box::into_raw(Box::new(Some(object)));
    let address = (cell.expose_provenance() as u64).to_le_bytes();
    let value = NewValue::Bytes(&address);
    match create_of(means, kind as u32 | BIG, key, value, expires_at, None) {
        Ok((at, own)) => Ok((at, own + bytes)),
        Err(full) => {
            // SAFETY: made above, and no item has it.
            let cell = unsafe { Box::from_raw(cell) };
            match *cell {
                Some(object) => Err((full, object)),
                None => unreachable!("it was put in above"),
            }
        }
    }
}

fn create_of(
    (pages, spans, room): (&Pages, &Arc<Spans>, Room),
    kind: u32,
    key: &[u8],
    value: NewValue<'_>,
    expires_at: Option<u64>,
    clock: Option<u32>,
) -> Result<(Ref, usize), OutOfMemory> {
    let plan = Plan::new(key.len(), value.len(), expires_at, clock.is_some());
    let header = plan.header(kind, key.len(), value.len());
    let body = Body::new((spans, room), plan.layout, key, value)?;
    let at = pages.alloc(plan.chunk, room)?;
    // SAFETY: a fresh chunk of the planned size that is ours alone.
    unsafe {
        let mut to = Writer(pages.chunk(at).0);
        to.put(&header.to_le_bytes());
        match (plan.expiry, expires_at) {
            (5, Some(time)) => to.put(&(time - EXPIRY_BASE).to_le_bytes()[..5]),
            (_, Some(time)) => to.put(&time.to_le_bytes()),
            (_, None) => {}
        }
        if let Some(clock) = clock {
            to.put(&clock.to_le_bytes());
        }
        body.write(to, plan.layout, key);
    }
    Ok((at, plan.chunk + plan.heap))
}

/// What follows the fixed part of an item. Spans in it go back when it is dropped unwritten.
enum Body<'a> {
    Here(NewValue<'a>),
    Value(SharedValue),
    Both(SharedValue, SharedValue),
}

impl<'a> Body<'a> {
    fn new(
        (spans, room): (&Arc<Spans>, Room),
        layout: Layout,
        key: &[u8],
        value: NewValue<'a>,
    ) -> Result<Self, OutOfMemory> {
        Ok(match layout {
            Layout::Inline | Layout::Long => Self::Here(value),
            Layout::BigValue => Self::Value(value.into_shared(spans, room)?),
            Layout::BigBoth => {
                Self::Both(spans.value(&[key], room)?, value.into_shared(spans, room)?)
            }
        })
    }

    /// # Safety
    /// `to` stands behind the fixed part of a chunk that was planned for this body.
    unsafe fn write(self, mut to: Writer, layout: Layout, key: &[u8]) {
        // SAFETY: the caller's word.
        unsafe {
            match self {
                Self::Here(value) => {
                    let (a, b) = value.parts();
                    if layout == Layout::Long {
                        to.put(&(key.len() as u32).to_le_bytes());
                        to.put(&((a.len() + b.len()) as u32).to_le_bytes());
                    }
                    to.put(key);
                    to.put(a);
                    to.put(b);
                }
                Self::Value(value) => {
                    to.put(&(key.len() as u32).to_le_bytes());
                    to.put(&value.into_address().to_le_bytes());
                    to.put(key);
                }
                Self::Both(key, value) => {
                    to.put(&key.into_address().to_le_bytes());
                    to.put(&value.into_address().to_le_bytes());
                }
            }
        }
    }
}

struct Writer(NonNull<u8>);

impl Writer {
    /// # Safety
    /// So many bytes from here on are ours to write.
    unsafe fn put(&mut self, bytes: &[u8]) {
        // SAFETY: the caller's word.
        unsafe {
            self.0
                .copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len());
            self.0 = self.0.add(bytes.len());
        }
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
            header: u32::from_le(unsafe { at.cast::<u32>().read_unaligned() }),
            held: std::marker::PhantomData,
        }
    }

    fn layout(self) -> Layout {
        match self.header >> 4 & 3 {
            0 => Layout::Inline,
            1 => Layout::Long,
            2 => Layout::BigValue,
            _ => Layout::BigBoth,
        }
    }

    /// Bytes of its expiry; 0: it has none.
    fn expiry(self) -> usize {
        match self.header >> 6 & 3 {
            0 => 0,
            1 => 5,
            _ => 8,
        }
    }

    fn has_clock(self) -> bool {
        self.header >> 8 & 1 != 0
    }

    /// The offset of the body.
    fn body(self) -> usize {
        HEADER + self.expiry() + if self.has_clock() { CLOCK } else { 0 }
    }

    /// # Safety
    /// The item has so many bytes from `offset` on.
    unsafe fn slice(self, offset: usize, len: usize) -> &'a [u8] {
        // SAFETY: the caller's word; the item is live and unwritten for 'a (`new`).
        unsafe { std::slice::from_raw_parts(self.at.add(offset).as_ptr(), len) }
    }

    /// # Safety
    /// The item has four bytes at `offset`.
    unsafe fn u32_at(self, offset: usize) -> u32 {
        // SAFETY: the caller's word.
        u32::from_le(unsafe { self.at.add(offset).cast::<u32>().read_unaligned() })
    }

    /// The value whose address is at `offset`, without counting as an owner.
    ///
    /// # Safety
    /// The item has an address at `offset`.
    unsafe fn span_at(self, offset: usize) -> std::mem::ManuallyDrop<SharedValue> {
        // SAFETY: the caller's word; the item owns the value.
        unsafe {
            let address = self.at.add(offset).cast::<u64>().read_unaligned();
            std::mem::ManuallyDrop::new(SharedValue::from_address(u64::from_le(address)))
        }
    }

    pub fn kind(self) -> Kind {
        match self.header & 7 {
            1 => Kind::Hash,
            2 => Kind::List,
            3 => Kind::Set,
            4 => Kind::ZSet,
            _ => Kind::String,
        }
    }

    pub fn is_compressed(self) -> bool {
        self.header & 7 == COMPRESSED
    }

    /// The cell of a big collection.
    fn cell(self) -> Option<*mut Cell> {
        if self.header & BIG == 0 {
            return None;
        }
        let address = u64::from_le_bytes(*self.stored().first_chunk()?);
        Some(std::ptr::with_exposed_provenance_mut(address as usize))
    }

    /// The collection, if it is a big one.
    pub fn object(self) -> Option<&'a Object> {
        // SAFETY: the item owns its cell; what is in it is changed only after it was taken out, while no ItemRef is in use.
        self.cell().and_then(|cell| unsafe { (*cell).as_deref() })
    }

    /// The collection. A string has none: see [`ItemRef::kind`].
    pub fn view(self) -> View<'a> {
        if self.header & BIG != 0 {
            return self.object().map_or(View::Packed(&[]), View::Big);
        }
        match self.inline_value() {
            // SAFETY: as for `key`.
            Some((offset, len)) => View::Packed(unsafe { self.slice(offset, len) }),
            None => {
                let shared = self.shared_value();
                // SAFETY: a value in a span lives as long as its item.
                View::Packed(unsafe { std::slice::from_raw_parts(shared.as_ptr(), shared.len()) })
            }
        }
    }

    pub fn key(self) -> &'a [u8] {
        let body = self.body();
        // SAFETY: the item is laid out as its header says; a key in a span lives as long as its item.
        unsafe {
            match self.layout() {
                Layout::Inline => self.slice(body, (self.header >> 9 & 0x7F) as usize),
                Layout::Long => {
                    let len = self.u32_at(body) as usize;
                    self.slice(body + 2 * LENGTH, len)
                }
                Layout::BigValue => {
                    let len = self.u32_at(body) as usize;
                    self.slice(body + LENGTH + ADDRESS, len)
                }
                Layout::BigBoth => {
                    let key = self.span_at(body);
                    std::slice::from_raw_parts(key.as_ptr(), key.len())
                }
            }
        }
    }

    /// The offset and length of a value that is in the chunk.
    fn inline_value(self) -> Option<(usize, usize)> {
        let body = self.body();
        match self.layout() {
            Layout::Inline => {
                let key = (self.header >> 9 & 0x7F) as usize;
                Some((body + key, (self.header >> 16 & 0x3FFF) as usize))
            }
            Layout::Long => {
                // SAFETY: as for `key`.
                let (key, value) = unsafe { (self.u32_at(body), self.u32_at(body + LENGTH)) };
                Some((body + 2 * LENGTH + key as usize, value as usize))
            }
            _ => None,
        }
    }

    /// The value of an item that has none in its chunk.
    fn shared_value(self) -> std::mem::ManuallyDrop<SharedValue> {
        let offset = match self.layout() {
            Layout::BigValue => LENGTH,
            _ => ADDRESS,
        };
        // SAFETY: as for `key`.
        unsafe { self.span_at(self.body() + offset) }
    }

    /// The value of a string.
    pub fn value(self) -> Value<'a> {
        match self.is_compressed() {
            true => Value::Packed(Packed(self.stored())),
            false => Value::Plain(self.stored()),
        }
    }

    /// The bytes that are stored as the value: of a compressed string its packed form.
    pub fn stored(self) -> ValueRef<'a> {
        match self.inline_value() {
            // SAFETY: as for `key`.
            Some((offset, len)) => ValueRef::Inline(unsafe { self.slice(offset, len) }),
            None => ValueRef::Shared(SharedValue::clone(&self.shared_value())),
        }
    }

    /// Bytes of the value as it was given.
    pub fn value_len(self) -> usize {
        match self.is_compressed() {
            true => plain_len(&self.stored()),
            false => self.stored_len(),
        }
    }

    fn stored_len(self) -> usize {
        match self.inline_value() {
            Some((_, len)) => len,
            None => self.shared_value().len(),
        }
    }

    /// Unix milliseconds.
    pub fn expires_at(self) -> Option<u64> {
        let bytes = self.expiry();
        if bytes == 0 {
            return None;
        }
        let mut time = [0; 8];
        // SAFETY: the header says that it is there.
        time[..bytes].copy_from_slice(unsafe { self.slice(HEADER, bytes) });
        let base = if bytes == 5 { EXPIRY_BASE } else { 0 };
        Some(u64::from_le_bytes(time) + base)
    }

    pub fn is_expired(self, now_ms: u64) -> bool {
        self.expires_at().is_some_and(|at| at <= now_ms)
    }

    /// How often it was met of late, up to 3.
    pub fn heat(self) -> u8 {
        (self.header >> 30) as u8
    }

    /// What a sampled eviction policy keeps in the item.
    pub fn clock(self) -> Option<u32> {
        // SAFETY: the header says that it is there.
        self.has_clock()
            .then(|| unsafe { self.u32_at(HEADER + self.expiry()) })
    }

    fn plan(self) -> Plan {
        Plan::of(
            self.key().len(),
            self.stored_len(),
            self.expiry(),
            self.has_clock(),
        )
    }

    /// The bytes it takes: its chunk as asked for, and what it holds beside.
    pub fn bytes(self) -> usize {
        let plan = self.plan();
        plan.chunk + plan.heap + self.object().map_or(0, Object::bytes)
    }
}

/// Takes the big collection out of its item, which has none until [`put_object`].
///
/// # Safety
/// `at` is a live item, its domain is locked and no [`ItemRef`] to it is in use.
pub unsafe fn take_object(pages: &Pages, at: Ref) -> Option<Box<Object>> {
    // SAFETY: the caller's word; the item owns its cell.
    unsafe {
        ItemRef::new(pages, at)
            .cell()
            .and_then(|cell| (*cell).take())
    }
}

/// Gives a big collection back to its item.
///
/// # Safety
/// As [`take_object`], which has taken one out of this item.
pub unsafe fn put_object(pages: &Pages, at: Ref, object: Box<Object>) {
    // SAFETY: the caller's word.
    unsafe {
        if let Some(cell) = ItemRef::new(pages, at).cell() {
            *cell = Some(object);
        }
    }
}

/// Sets how hot an item is.
///
/// # Safety
/// `at` is a live item, its domain is locked and no [`ItemRef`] to it is in use.
pub unsafe fn set_heat(pages: &Pages, at: Ref, heat: u8) {
    // SAFETY: the caller's word.
    unsafe {
        let item = ItemRef::new(pages, at);
        let header = item.header & (u32::MAX >> 2) | u32::from(heat) << 30;
        item.at.cast::<u32>().write_unaligned(header.to_le());
    }
}

/// Sets the clock of an item that has one.
///
/// # Safety
/// As [`set_heat`].
pub unsafe fn set_clock(pages: &Pages, at: Ref, clock: u32) {
    // SAFETY: the caller's word.
    unsafe {
        let item = ItemRef::new(pages, at);
        if item.has_clock() {
            let to = item.at.add(HEADER + item.expiry());
            to.cast::<u32>().write_unaligned(clock.to_le());
        }
    }
}

/// Overwrites a part of a plain string in place; one in a span may grow within its last block. False: that cannot be, and nothing changed.
///
/// # Safety
/// As [`overwrite_value`], without [`fits_in_place`].
pub unsafe fn overwrite_part(pages: &Pages, at: Ref, offset: usize, bytes: &[u8]) -> bool {
    // SAFETY: the caller's word: nobody reads the value, or clones it from its item, meanwhile.
    unsafe {
        let item = ItemRef::new(pages, at);
        if item.header & 7 != Kind::String as u32 {
            return false;
        }
        match item.inline_value() {
            Some((value, len)) if offset + bytes.len() <= len => {
                Writer(item.at.add(value + offset)).put(bytes);
                true
            }
            Some(_) => false,
            None => item.shared_value().overwrite(offset, bytes),
        }
    }
}

/// Overwrites the value of an item that has it in its chunk by one of the same length.
///
/// # Safety
/// `at` is a live item, its domain is locked and no [`ItemRef`] to it is in use; [`fits_in_place`] said yes.
pub unsafe fn overwrite_value(pages: &Pages, at: Ref, value: &[u8]) {
    // SAFETY: the caller's word.
    unsafe {
        let item = ItemRef::new(pages, at);
        if let Some((offset, len)) = item.inline_value() {
            debug_assert!(len == value.len());
            Writer(item.at.add(offset)).put(value);
        }
    }
}

/// Overwrites the expiry of an item that has one of the same width.
///
/// # Safety
/// As [`overwrite_value`]; [`expiry_fits`] said yes.
pub unsafe fn overwrite_expiry(pages: &Pages, at: Ref, time: u64) {
    // SAFETY: the caller's word.
    unsafe {
        let item = ItemRef::new(pages, at);
        debug_assert!(expiry_fits(item, Some(time)));
        let mut to = Writer(item.at.add(HEADER));
        match item.expiry() {
            5 => to.put(&(time - EXPIRY_BASE).to_le_bytes()[..5]),
            _ => to.put(&time.to_le_bytes()),
        }
    }
}

/// Whether an expiry takes the bytes that the item has for it.
pub fn expiry_fits(item: ItemRef<'_>, expires_at: Option<u64>) -> bool {
    item.expiry() == expiry_bytes(expires_at)
}

/// Whether a value of this kind, and this expiry, could overwrite the item's in place.
pub fn fits_in_place(
    item: ItemRef<'_>,
    kind: Kind,
    value: &NewValue<'_>,
    expires_at: Option<u64>,
) -> bool {
    item.header & (7 | BIG) == value.header_kind(kind)
        && item
            .inline_value()
            .is_some_and(|(_, len)| len == value.len())
        && expiry_fits(item, expires_at)
}

/// Releases what an item holds beside its chunk.
///
/// # Safety
/// Called once for a live item whose chunk is freed next; no [`ItemRef`] to it is in use.
pub unsafe fn drop_body(pages: &Pages, at: Ref) {
    // SAFETY: the caller's word; the item is the owner that `create` made.
    unsafe {
        let item = ItemRef::new(pages, at);
        if let Some(cell) = item.cell() {
            drop(Box::from_raw(cell));
        }
        if matches!(item.layout(), Layout::Inline | Layout::Long) {
            return;
        }
        std::mem::ManuallyDrop::into_inner(item.shared_value());
        if item.layout() == Layout::BigBoth {
            std::mem::ManuallyDrop::into_inner(item.span_at(item.body()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::budget::Budget;

    #[test]
    fn items_read_back_as_written_in_every_layout() {
        let budget = Arc::new(Budget::new(0));
        let pages = Pages::new(64 << 20, budget.clone()).unwrap();
        let spans = Spans::new(budget).unwrap();
        let times = [
            None,
            Some(0),
            Some(EXPIRY_BASE),
            Some(EXPIRY_BASE + (1 << 40) - 1),
            Some(EXPIRY_BASE + (1 << 40)),
            Some(u64::MAX - 1),
        ];
        for key_len in [0usize, 1, 16, 127, 128, 9_000, 16_340, 70_000] {
            for value_len in [0usize, 1, 8, 100, 9_000, BIG_VALUE - 1, BIG_VALUE, 1 << 20] {
                for expires_at in times {
                    for clock in [None, Some(7)] {
                        let key = vec![b'k'; key_len];
                        let value: Vec<u8> = (0..value_len).map(|i| i as u8).collect();
                        let half = value_len / 2;
                        let joined = NewValue::Joined(&value[..half], &value[half..]);
                        let (at, bytes) = create(
                            (&pages, &spans, Room::Limit),
                            Kind::String,
                            &key,
                            joined,
                            expires_at,
                            clock,
                        )
                        .unwrap();
                        // SAFETY: the item is ours alone; dropped and freed once.
                        unsafe {
                            set_heat(&pages, at, 2);
                            let item = ItemRef::new(&pages, at);
                            assert_eq!(item.key(), key);
                            assert_eq!(&*item.stored(), value);
                            assert_eq!(item.value_len(), value_len);
                            assert_eq!(
                                (item.expires_at(), item.clock(), item.heat()),
                                (expires_at, clock, 2)
                            );
                            assert_eq!(item.bytes(), bytes);
                            let kept = item.stored();
                            drop_body(&pages, at);
                            pages.free(at);
                            if let ValueRef::Shared(kept) = kept {
                                assert_eq!(&*kept, value, "outlives its item");
                            }
                        }
                        while spans.purge() {}
                        assert_eq!(spans.bytes(), 0);
                    }
                }
            }
        }
    }

    #[test]
    fn what_fits_is_overwritten_in_place() {
        let budget = Arc::new(Budget::new(0));
        let pages = Pages::new(64 << 20, budget.clone()).unwrap();
        let spans = Spans::new(budget).unwrap();
        for key_len in [3, 200] {
            let key = vec![b'k'; key_len];
            let time = Some(EXPIRY_BASE + 5);
            let value = NewValue::Bytes(b"old");
            let (at, _) = create(
                (&pages, &spans, Room::Limit),
                Kind::String,
                &key,
                value,
                time,
                Some(9),
            )
            .unwrap();
            // SAFETY: the item is ours alone.
            unsafe {
                let item = ItemRef::new(&pages, at);
                assert!(fits_in_place(
                    item,
                    Kind::String,
                    &NewValue::Bytes(&[0; 3]),
                    Some(EXPIRY_BASE)
                ));
                assert!(
                    !fits_in_place(item, Kind::String, &NewValue::Bytes(&[0; 4]), time)
                        && !fits_in_place(item, Kind::String, &NewValue::Packed(&[0; 3]), time)
                        && !fits_in_place(item, Kind::String, &NewValue::Bytes(&[0; 3]), None)
                );
                assert!(!fits_in_place(
                    item,
                    Kind::String,
                    &NewValue::Bytes(&[0; 3]),
                    Some(7)
                ));
                overwrite_value(&pages, at, b"new");
                overwrite_expiry(&pages, at, EXPIRY_BASE + 6);
                set_clock(&pages, at, 10);
                let item = ItemRef::new(&pages, at);
                assert_eq!((item.key(), &*item.stored()), (&key[..], &b"new"[..]));
                assert_eq!(
                    (item.expires_at(), item.clock()),
                    (Some(EXPIRY_BASE + 6), Some(10))
                );
            }
        }
    }
}
