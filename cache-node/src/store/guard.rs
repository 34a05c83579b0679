//! Locked domains, and every operation on items. A `Guard`'s changes form one atomic log record, pushed before its locks are released.

mod collections;
mod held;
mod strings;
mod touch;
mod walks;
mod whole;

use std::cell::RefCell;

pub use collections::{End, Fault};
pub use held::Held;
use held::Home;
use parking_lot::MutexGuard;

use super::Store;
use super::budget::{OutOfMemory, Room};
use super::domain::{Domain, SlotState, observer};
use super::due::due_at;
use super::effect::{ALL_SLOTS, Effects};
use super::expire::Sweep;
use super::garbage::Cleared;
use super::item::{self, ItemRef, Kind, NewValue, ValueRef};
use super::notify::class;
use super::pages::{Pages, Ref};
use super::point::{Point, SLOTS_PER_DOMAIN, domain_of, hash_of};
use super::segment::Entry;
use super::steps::Step;
use super::table::{Spot, Table};

/// Segments of an emptied table that are freed at once; more are left to the background thread.
const FREED_HERE: usize = 64;

thread_local! {
    /// The effects buffer of a thread's last Guard, to be used again.
    static SPARE: RefCell<Option<Effects>> = const { RefCell::new(None) };
}

/// One or more locked domains. Made by [`Store::lock`] and its siblings.
pub struct Guard<'s> {
    store: &'s Store,
    /// There until it goes home.
    first: Option<(usize, MutexGuard<'s, Domain>)>,
    /// Further domains, ascending.
    more: Vec<(usize, MutexGuard<'s, Domain>)>,
    effects: Option<Effects>,
    /// Its changes are not logged.
    replay: bool,
    /// Whether an item is expired is another node's decision.
    as_told: bool,
    /// What its items may take.
    room: Room,
    /// A collection has become empty and is gone.
    emptied: bool,
    rare: Option<Box<Rare<'s>>>,
}

/// What few Guards need: so that the others are small, as they are moved often.
#[derive(Default)]
struct Rare<'s> {
    /// What was cleared: freed after the locks are released.
    garbage: Vec<Cleared>,
    /// Where its locks go when it is dropped; None: they are released.
    home: Option<Home<'s>>,
    /// The default expiry of the collection that the next effect makes.
    born: Option<u64>,
}

impl<'s> Guard<'s> {
    pub(super) fn new(
        store: &'s Store,
        mut domains: impl Iterator<Item = (usize, MutexGuard<'s, Domain>)>,
    ) -> Option<Self> {
        let first = domains.next()?;
        let mut guard = Self::of_one(store, first.0, first.1);
        guard.more = domains.collect();
        Some(guard)
    }

    /// With one domain.
    #[inline]
    pub(super) fn of_one(store: &'s Store, n: usize, domain: MutexGuard<'s, Domain>) -> Self {
        Self {
            store,
            first: Some((n, domain)),
            more: Vec::new(),
            effects: None,
            replay: false,
            as_told: false,
            room: Room::Limit,
            emptied: false,
            rare: None,
        }
    }

    fn rare(&mut self) -> &mut Rare<'s> {
        self.rare.get_or_insert_default()
    }

    pub fn store(&self) -> &'s Store {
        self.store
    }

    /// For applying the primary's log: nothing is logged again, and expired items are there until the log deletes them.
    pub fn replay(&mut self) {
        self.replay = true;
        self.as_told = true;
        self.room = Room::Slack;
    }

    /// For applying a slot move: logged as ordinary writes, but expired items are there until the source deletes them.
    pub fn import(&mut self) {
        self.as_told = true;
    }

    /// Whether it does what another node has decided.
    pub(super) fn is_told(&self) -> bool {
        self.as_told
    }

    pub(super) fn room(&self) -> Room {
        self.room
    }

    /// For putting back what was there before: memory is found for it, whatever the limit.
    pub fn restore(&mut self) {
        self.room = Room::Any;
    }

    /// The domain of a slot, which must be locked.
    pub(super) fn domain(&self, slot: u16) -> &Domain {
        let wanted = domain_of(slot);
        if let Some((n, domain)) = &self.first
            && *n == wanted
        {
            return domain;
        }
        match self.more.binary_search_by_key(&wanted, |(n, _)| *n) {
            Ok(i) => &self.more[i].1,
            Err(_) => unreachable!("slot {slot} is not locked by this guard"),
        }
    }

    pub(super) fn domain_mut(&mut self, slot: u16) -> &mut Domain {
        let wanted = domain_of(slot);
        if let Some((n, domain)) = &mut self.first
            && *n == wanted
        {
            return domain;
        }
        match self.more.binary_search_by_key(&wanted, |(n, _)| *n) {
            Ok(i) => &mut self.more[i].1,
            Err(_) => unreachable!("slot {slot} is not locked by this guard"),
        }
    }

    pub(super) fn table(&self, slot: u16) -> &Table {
        &self.domain(slot).tables[usize::from(slot % SLOTS_PER_DOMAIN)]
    }

    pub(super) fn table_mut(&mut self, slot: u16) -> &mut Table {
        &mut self.domain_mut(slot).tables[usize::from(slot % SLOTS_PER_DOMAIN)]
    }

    pub fn slot_state(&self, slot: u16) -> SlotState {
        self.domain(slot).states[usize::from(slot % SLOTS_PER_DOMAIN)]
    }

    pub fn set_slot_state(&mut self, slot: u16, state: SlotState) {
        let held = |state| state != SlotState::None;
        let regions = &self.store.regions;
        regions.held(held(self.slot_state(slot)), held(state));
        if matches!(state, SlotState::None | SlotState::Importing) {
            // Nobody is told any more what becomes of its keys.
            self.forget_slot(slot);
        }
        self.domain_mut(slot).states[usize::from(slot % SLOTS_PER_DOMAIN)] = state;
    }

    /// Keys of a slot, expired ones that nobody met yet included.
    pub fn slot_len(&self, slot: u16) -> usize {
        self.table(slot).len()
    }

    /// Bytes of a slot's items.
    pub fn slot_bytes(&self, slot: u16) -> u64 {
        self.table(slot).item_bytes
    }

    pub(super) fn item(&self, at: Ref) -> ItemRef<'_> {
        #[cfg(test)]
        super::tests::work(1);
        // SAFETY: `at` comes from a table of a locked domain; its items change only through `&mut self`, so not while `&self` is borrowed.
        unsafe { ItemRef::new(&self.store.pages, at) }
    }

    pub(super) fn find(&self, p: Point, key: &[u8]) -> Option<(Spot, Ref)> {
        self.table(p.slot)
            .find(p.hash, |at| self.item(at).key() == key)
    }

    /// The item of a key. An expired one is absent; where expiry is ours to decide it is removed, and logged as a delete.
    pub fn get(&mut self, p: Point, key: &[u8], now_ms: u64) -> Option<ItemRef<'_>> {
        let Some((_, at)) = self.find_live(p, key, now_ms) else {
            self.missed(p, key);
            return None;
        };
        self.touch(p.slot, at);
        Some(self.item(at))
    }

    /// As [`Guard::get`], but the item does not count as used.
    pub fn look(&mut self, p: Point, key: &[u8], now_ms: u64) -> Option<ItemRef<'_>> {
        let Some((_, at)) = self.find_live(p, key, now_ms) else {
            self.missed(p, key);
            return None;
        };
        Some(self.item(at))
    }

    pub(super) fn place_of(&self, p: Point, key: &[u8]) -> Option<Ref> {
        self.find(p, key).map(|(_, at)| at)
    }

    pub(super) fn pages(&self) -> &Pages {
        &self.store.pages
    }

    fn find_live(&mut self, p: Point, key: &[u8], now_ms: u64) -> Option<(Spot, Ref)> {
        let (spot, at) = self.find(p, key)?;
        if self.as_told || !self.item(at).is_expired(now_ms) {
            return Some((spot, at));
        }
        // What is being imported expires where it is owned still: another clock may not take it from under the source's effects.
        if self.store.expires_locally() && self.slot_state(p.slot) != SlotState::Importing {
            self.log_as(p, &[b"DEL", key], Some((class::EXPIRED, "expired")));
            self.take_out(p, spot, at);
            self.store.counters.expired();
        }
        None
    }

    /// Whether the key was there. Logs `DEL`.
    pub fn remove(&mut self, p: Point, key: &[u8], now_ms: u64) -> bool {
        let Some((spot, at)) = self.find_live(p, key, now_ms) else {
            return false;
        };
        self.take_out(p, spot, at);
        self.log(p, &[b"DEL", key]);
        true
    }

    /// Sets (Unix milliseconds) or clears a key's expiry; false when the key is absent. Logs `PEXPIREAT` or `PERSIST`.
    pub fn set_expiry(
        &mut self,
        p: Point,
        key: &[u8],
        expires_at: Option<u64>,
        now_ms: u64,
    ) -> Result<bool, OutOfMemory> {
        let Some((spot, at)) = self.find_live(p, key, now_ms) else {
            return Ok(false);
        };
        let item = self.item(at);
        match (item.expires_at(), expires_at) {
            (Some(_), Some(time)) if item::expiry_fits(item, expires_at) => {
                self.before_change(p, false);
                // SAFETY: the item is live, locked, has an expiry of this width, and no ItemRef to it is in use.
                unsafe { item::overwrite_expiry(&self.store.pages, at, time) };
                self.note_due(p.slot, spot, expires_at);
            }
            (None, None) => return Ok(true),
            _ if item.object().is_some() => self.move_object(p, key, key, p, expires_at)?,
            _ => {
                let kind = item.kind();
                match item.stored() {
                    ValueRef::Inline(b) => {
                        let bytes = b.to_vec();
                        let value = NewValue::again(item, &bytes);
                        self.put_kind(p, key, kind, value, expires_at)?;
                    }
                    ValueRef::Shared(value) => {
                        let value = NewValue::again_shared(item, value);
                        self.put_kind(p, key, kind, value, expires_at)?;
                    }
                }
            }
        }
        match expires_at {
            Some(time) => {
                let time = time.to_string();
                self.log(p, &[b"PEXPIREAT", key, time.as_bytes()]);
            }
            None => self.log(p, &[b"PERSIST", key]),
        }
        Ok(true)
    }

    /// Drops all of a slot. Logs `CACHE.FLUSHSLOT slot`.
    pub fn clear_slot(&mut self, slot: u16) {
        self.drop_table(slot);
        let name = slot.to_string();
        let p = Point { slot, hash: 0 };
        self.log_if(self.logs(p), p, &[b"CACHE.FLUSHSLOT", name.as_bytes()]);
    }

    /// A flush of some slots: as [`Guard::clear_slot`], and who tracks keys by prefixes is told.
    pub fn flush_slots(&mut self, slots: &[u16]) {
        let filled = slots.iter().copied().filter(|&s| self.slot_len(s) > 0);
        let filled: Vec<u16> = filled.collect();
        if !filled.is_empty() {
            self.store.tracking.flushed();
        }
        filled.into_iter().for_each(|slot| self.clear_slot(slot));
    }

    /// Drops everything; all domains must be locked. Logs `FLUSHALL`.
    pub fn clear_all(&mut self) {
        self.forget_readers();
        for slot in 0..super::point::SLOTS {
            self.drop_table(slot);
        }
        let p = Point {
            slot: ALL_SLOTS,
            hash: 0,
        };
        self.log_if(true, p, &[b"FLUSHALL"]);
    }

    fn drop_table(&mut self, slot: u16) {
        if self.table(slot).is_empty() {
            return;
        }
        self.emit_slot(slot);
        self.touched_all(slot);
        let table = std::mem::take(self.table_mut(slot));
        let removed = (table.len(), table.expiring as usize);
        self.store.counters.removed(removed.0, removed.1);
        let regions = self.domain(slot).regions.as_deref().cloned();
        self.rare().garbage.push(Cleared {
            slot,
            table,
            regions,
        });
    }

    /// Puts a string in the place of the old item, if any.
    fn put(
        &mut self,
        p: Point,
        key: &[u8],
        value: NewValue<'_>,
        expires_at: Option<u64>,
    ) -> Result<(), OutOfMemory> {
        self.put_kind(p, key, Kind::String, value, expires_at)
    }

    /// Puts an item in the place of the old one, if any.
    fn put_kind(
        &mut self,
        p: Point,
        key: &[u8],
        kind: Kind,
        value: NewValue<'_>,
        expires_at: Option<u64>,
    ) -> Result<(), OutOfMemory> {
        let found = self.find(p, key);
        if let (Some((spot, at)), NewValue::Bytes(bytes) | NewValue::Packed(bytes)) =
            (found, &value)
            && item::fits_in_place(self.item(at), kind, &value, expires_at)
        {
            self.before_change(p, false);
            // SAFETY: the item is live, locked, of the same lengths, and no ItemRef to it is in use.
            unsafe {
                item::overwrite_value(&self.store.pages, at, bytes);
                if let Some(time) = expires_at {
                    item::overwrite_expiry(&self.store.pages, at, time);
                }
            }
            self.note_due(p.slot, spot, expires_at);
            self.touch(p.slot, at);
            return Ok(());
        }
        let store = self.store;
        let before = found.and_then(|(_, at)| self.item(at).clock());
        if self.domain(p.slot).regions.is_some() {
            let held = found.map_or(0, |(_, at)| self.item(at).stored().len());
            let bytes = (value.len().saturating_sub(held), value.len());
            self.room_in_region(p, key, found.is_none(), bytes)?;
        }
        let means = (&store.pages, &store.spans, self.room);
        let clock = self.eviction_of(p, key).clock(before);
        let (new, bytes) = item::create(means, kind, key, value, expires_at, clock)?;
        self.before_change(p, found.is_none());
        self.place(p, found, new, bytes);
        Ok(())
    }

    /// Lets a new item take the place of the old one, if any, which is freed.
    fn place(&mut self, p: Point, found: Option<(Spot, Ref)>, new: Ref, bytes: usize) {
        let expires_at = self.item(new).expires_at();
        let Some((spot, old)) = found else {
            return self.insert(p, new, bytes, expires_at);
        };
        let expires = expires_at.is_some();
        let (had, old_bytes) = (
            self.item(old).expires_at().is_some(),
            self.item(old).bytes(),
        );
        self.keep_heat(p.slot, old, new);
        self.account(p.slot, new, 0, bytes as i64 - old_bytes as i64);
        let due = due_at(expires_at);
        self.table_mut(p.slot).replace(spot, new, due);
        self.store.dues.note(domain_of(p.slot), due);
        self.store.counters.replaced(had, expires);
        let table = self.table_mut(p.slot);
        table.expiring = table.expiring + u32::from(expires) - u32::from(had);
        table.item_bytes = table.item_bytes + bytes as u64 - old_bytes as u64;
        self.store.free_item(old);
    }

    fn insert(&mut self, p: Point, at: Ref, bytes: usize, expires_at: Option<u64>) {
        let store = self.store;
        let expires = expires_at.is_some();
        self.is_new(p, at);
        let domain = self.domain_mut(p.slot);
        let phase = domain.phase;
        let table = &mut domain.tables[usize::from(p.slot % SLOTS_PER_DOMAIN)];
        let added = Entry {
            hash: p.hash,
            due: due_at(expires_at),
            at,
        };
        if !table.insert_here(added) {
            // SAFETY: the table's references are live items of a locked domain.
            let entry = |at| unsafe { store.entry(at) };
            let grow = || table.insert(&store.pages, added, phase, &entry);
            let change = store.steps.time(Step::Growth, grow);
            store.table_bytes_changed(change);
        }
        table.item_bytes += bytes as u64;
        table.expiring += u32::from(expires);
        store.counters.added(expires);
        store.dues.note(domain_of(p.slot), added.due);
        self.eviction_at(p.slot, at).inserted(p);
        self.account(p.slot, at, 1, bytes as i64);
        if store.items_over() > 0 {
            store.call_for_room();
        }
    }

    /// An item's expiry was overwritten.
    fn note_due(&mut self, slot: u16, spot: Spot, expires_at: Option<u64>) {
        if expires_at.is_some() {
            let due = due_at(expires_at);
            self.table_mut(slot).note_due(spot, due);
            self.store.dues.note(domain_of(slot), due);
        }
    }

    /// Takes an entry out of its table and frees its item.
    pub(super) fn take_out(&mut self, p: Point, spot: Spot, at: Ref) {
        self.take_out_here(p.slot, spot, at);
        self.shrink(p.slot, spot.segment as usize);
    }

    /// As [`Guard::take_out`], but all other entries stay where they are; [`Guard::shrink`] is to follow.
    pub(super) fn take_out_here(&mut self, slot: u16, spot: Spot, at: Ref) {
        if self.domain(slot).observers & observer::SNAPSHOT != 0 {
            let pos = self.hash(at) >> 16;
            self.emit(slot, pos, true);
        }
        let store = self.store;
        let (expires, bytes) = (self.item(at).expires_at().is_some(), self.item(at).bytes());
        self.account(slot, at, -1, -(bytes as i64));
        let domain = self.domain_mut(slot);
        let table = &mut domain.tables[usize::from(slot % SLOTS_PER_DOMAIN)];
        table.remove_here(spot);
        table.item_bytes -= bytes as u64;
        table.expiring -= u32::from(expires);
        store.counters.removed(1, usize::from(expires));
        store.free_item(at);
    }

    /// Gives back what a segment of a slot's table holds too much.
    pub(super) fn shrink(&mut self, slot: u16, segment: usize) {
        let store = self.store;
        let domain = self.domain_mut(slot);
        let phase = domain.phase;
        let table = &mut domain.tables[usize::from(slot % SLOTS_PER_DOMAIN)];
        if table.is_empty() && table.segment_count() > FREED_HERE {
            let item_bytes = table.item_bytes;
            let empty = std::mem::take(table);
            table.item_bytes = item_bytes;
            store.leave_tables(vec![Cleared {
                slot,
                table: empty,
                regions: None,
            }]);
            return;
        }
        // SAFETY: as in `insert`.
        let entry = |at| unsafe { store.entry(at) };
        let change = table.shrink(&store.pages, segment, phase, &entry);
        store.table_bytes_changed(change);
    }

    fn hash(&self, at: Ref) -> u64 {
        hash_of(self.item(at).key(), self.store.seed)
    }

    pub(super) fn each_domain(&mut self, mut f: impl FnMut(&mut Domain)) {
        for (_, domain) in self.first.iter_mut().chain(&mut self.more) {
            f(domain);
        }
    }

    /// Where the removal of expired items stands in a domain.
    pub(super) fn sweep(&mut self, domain: usize) -> &mut Sweep {
        &mut self.domain_mut(domain as u16 * SLOTS_PER_DOMAIN).sweep
    }

    pub(super) fn logs(&self, p: Point) -> bool {
        self.domain(p.slot).observers & observer::LOG != 0
    }

    /// Whether anybody wants to know of a change.
    pub(super) fn is_observed(&self, p: Point) -> bool {
        self.domain(p.slot).observers != 0
    }

    /// A key, the command's first argument, was changed: tells all observers.
    pub(super) fn log(&mut self, p: Point, command: &[&[u8]]) {
        self.log_as(p, command, None);
    }

    /// As [`Guard::log`], for an event of another name than the command's.
    pub(super) fn log_as(
        &mut self,
        p: Point,
        command: &[&[u8]],
        event: Option<(u32, &'static str)>,
    ) {
        let observers = self.domain(p.slot).observers;
        if observers == 0 {
            return;
        }
        if observers & observer::KEYS != 0 {
            self.touched(p, command[0], command[1], event);
        }
        self.log_if(observers & observer::LOG != 0, p, command);
    }

    fn log_if(&mut self, logs: bool, p: Point, command: &[&[u8]]) {
        let first = self.first.as_ref().map_or(0, |(_, d)| d.observers);
        if !logs || self.replay || first & observer::LOG == 0 {
            return;
        }
        let effects = self
            .effects
            .get_or_insert_with(|| SPARE.take().unwrap_or_default());
        effects.push(p, command);
        let born = self.rare.as_mut().and_then(|rare| rare.born.take());
        if let (Some(time), [_, key, ..]) = (born, command) {
            effects.push(p, &[b"PEXPIREAT", key, time.to_string().as_bytes()]);
        }
    }

    /// The default expiry of a key that is being made, which is logged after the effect that makes it.
    fn born(&mut self, p: Point, key: &[u8], now_ms: u64) -> Option<u64> {
        let expires_at = self.default_expiry(p, key, now_ms);
        let logged = expires_at.filter(|_| self.logs(p));
        if logged.is_some() || self.rare.is_some() {
            self.rare().born = logged;
        }
        expires_at
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if self.rare.is_some() && self.goes_home() {
            return;
        }
        if let Some(mut effects) = self.effects.take() {
            self.store.log.push(&effects);
            effects.clear();
            SPARE.set(Some(effects));
        }
        if let Some(rare) = self.rare.take()
            && !rare.garbage.is_empty()
        {
            self.store.leave_tables(rare.garbage);
        }
    }
}
