//! Operations on collections: each changes one under its lock, and logs what it did as a command with absolute results.

use std::borrow::Cow;

use super::super::budget::{OutOfMemory, Room};
use super::super::collections::{Object, Owned, Tools, copy, hash, list, set, zset};
use super::super::item::{self, ItemRef, Kind, NewValue};
use super::super::pages::Ref;
use super::super::point::Point;
use super::super::table::Spot;
use super::Guard;

/// Why an operation did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// An end of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Front,
    Back,
}

/// Packed bytes and additions up to here are changed without asking for memory ahead: what is written asks.
pub(super) const SMALL: usize = 4096;

impl Guard<'_> {
    /// The item of a key, if it is of this kind.
    pub fn get_kind(
        &mut self,
        p: Point,
        key: &[u8],
        kind: Kind,
        now_ms: u64,
    ) -> Result<Option<ItemRef<'_>>, Fault> {
        match self.get(p, key, now_ms) {
            Some(item) if item.kind() != kind => Err(Fault::WrongType),
            item => Ok(item),
        }
    }

    /// The item of a key, for those who read several at a time. An expired one is absent.
    pub fn peek(&self, p: Point, key: &[u8], now_ms: u64) -> Option<ItemRef<'_>> {
        let (_, at) = self.find(p, key)?;
        let item = self.item(at);
        (self.as_told || !item.is_expired(now_ms)).then_some(item)
    }

    /// The string of a key.
    pub fn string(
        &mut self,
        p: Point,
        key: &[u8],
        now_ms: u64,
    ) -> Result<Option<ItemRef<'_>>, Fault> {
        self.get_kind(p, key, Kind::String, now_ms)
    }

    /// Changes a collection by `f`; one that is empty then is removed, and one that was not there is made. `adds`: bytes that it grows by at
    /// most; 0 for what only shrinks, which never lacks memory.
    fn edit<R>(
        &mut self,
        p: Point,
        key: &[u8],
        kind: Kind,
        now_ms: u64,
        adds: usize,
        f: impl FnOnce(&mut Owned, &Tools<'_>) -> R,
    ) -> Result<R, Fault> {
        let found = self.find_live(p, key, now_ms);
        self.emptied = false;
        if found.is_some_and(|(_, at)| self.item(at).kind() != kind) {
            return Err(Fault::WrongType);
        }
        let (big, held) = match found.map(|(_, at)| self.item(at)) {
            Some(item) => (item.object().is_some(), item.value_len()),
            None => (false, 0),
        };
        self.room_in_region(p, key, found.is_none() && adds > 0, (adds, adds))?;
        let store = self.store;
        let ahead = match adds {
            0 => 0,
            adds if big || adds + held > SMALL => {
                2 * adds + 2 * held + super::super::collections::CHANGE_BYTES
            }
            _ => 0,
        };
        store
            .budget
            .take_in(ahead, self.room)
            .map_err(Fault::OutOfMemory)?;
        let room = self.room;
        if adds == 0 {
            // What shrinks lacks no memory.
            self.room = Room::Any;
        }
        let tools = Tools {
            limits: store.packing.limits(),
            budget: &store.budget,
            seed: store.seed,
        };
        let done = match found {
            Some((spot, at)) if big => Ok(self.edit_object(p, (spot, at), |o| f(o, &tools))),
            found => {
                let found = found.map(|(_, at)| at);
                self.edit_packed(p, key, (kind, now_ms), found, |o| f(o, &tools))
            }
        };
        self.room = room;
        store.budget.give(ahead);
        Ok(done?)
    }

    fn edit_object<R>(
        &mut self,
        p: Point,
        (spot, at): (Spot, Ref),
        f: impl FnOnce(&mut Owned) -> R,
    ) -> R {
        self.before_change(p, false);
        let kind = self.item(at).kind();
        let before = self.item(at).bytes() as u64;
        // SAFETY: the item is live, locked, and no ItemRef to it is in use; what is taken out is put back below.
        let object = unsafe { item::take_object(&self.store.pages, at) };
        let mut owned = object.map_or_else(Owned::empty, Owned::Big);
        let done = f(&mut owned);
        let empty = owned.view().len(kind) == 0;
        if let Owned::Big(object) = owned {
            // SAFETY: as above.
            unsafe { item::put_object(&self.store.pages, at, object) };
        }
        let after = self.item(at).bytes() as u64;
        let table = self.table_mut(p.slot);
        table.item_bytes = table.item_bytes + after - before;
        self.account(p.slot, at, 0, after as i64 - before as i64);
        if empty {
            self.take_out(p, spot, at);
            self.emptied = true;
        }
        done
    }

    fn edit_packed<R>(
        &mut self,
        p: Point,
        key: &[u8],
        (kind, now_ms): (Kind, u64),
        found: Option<Ref>,
        f: impl FnOnce(&mut Owned) -> R,
    ) -> Result<R, OutOfMemory> {
        let (mut owned, expires_at) = match found.map(|at| self.item(at)) {
            Some(item) => (Owned::Packed(item.stored().to_vec()), item.expires_at()),
            None => (Owned::empty(), None),
        };
        let done = f(&mut owned);
        if owned.view().len(kind) == 0 {
            if let Some((spot, at)) = self.find(p, key) {
                self.take_out(p, spot, at);
                self.emptied = true;
            }
            return Ok(done);
        }
        let expires_at = match found {
            Some(_) => expires_at,
            None => self.born(p, key, now_ms),
        };
        match owned {
            Owned::Packed(run) => {
                let same = found.is_some_and(|at| *self.item(at).stored() == run[..]);
                if !same {
                    self.put_kind(p, key, kind, NewValue::Bytes(&run), expires_at)?;
                }
            }
            Owned::Big(object) => self.put_big(p, key, object, expires_at)?,
        }
        Ok(done)
    }

    /// Puts a big collection in the place of the old item, if any.
    pub(super) fn put_big(
        &mut self,
        p: Point,
        key: &[u8],
        object: Box<Object>,
        expires_at: Option<u64>,
    ) -> Result<(), OutOfMemory> {
        let found = self.find(p, key);
        let store = self.store;
        let means = (&store.pages, &store.spans, self.room);
        let (new, bytes) =
            item::create_big(means, key, object, expires_at).map_err(|(full, _)| full)?;
        self.before_change(p, found.is_none());
        self.place(p, found, new, bytes);
        Ok(())
    }

    fn log_words<'w>(
        &mut self,
        p: Point,
        name: &[u8],
        key: &[u8],
        words: impl Iterator<Item = Cow<'w, [u8]>>,
    ) {
        if !self.is_observed(p) {
            return;
        }
        if !self.logs(p) || self.replay {
            return self.touched(p, name, key, None);
        }
        let words: Vec<Cow<'_, [u8]>> = words.collect();
        let command: Vec<&[u8]> = [name, key]
            .into_iter()
            .chain(words.iter().map(|w| &**w))
            .collect();
        self.log(p, &command);
    }

    /// Sets fields of a hash. Gives how many are new. Logs `HSET`.
    pub fn hash_set(
        &mut self,
        p: Point,
        key: &[u8],
        pairs: &[(&[u8], &[u8])],
        now_ms: u64,
    ) -> Result<usize, Fault> {
        let adds = pairs.iter().map(|(f, v)| f.len() + v.len() + 32).sum();
        let added = self.edit(p, key, Kind::Hash, now_ms, adds, |owned, tools| {
            pairs
                .iter()
                .filter(|(f, v)| hash::put(owned, f, v, tools))
                .count()
        })?;
        let words = pairs
            .iter()
            .flat_map(|(f, v)| [Cow::Borrowed(*f), Cow::Borrowed(*v)]);
        self.log_words(p, b"HSET", key, words);
        Ok(added)
    }

    /// Removes fields of a hash. Gives how many were there. Logs `HDEL`.
    pub fn hash_remove(
        &mut self,
        p: Point,
        key: &[u8],
        fields: &[&[u8]],
        now_ms: u64,
    ) -> Result<usize, Fault> {
        let removed = self.edit(p, key, Kind::Hash, now_ms, 0, |owned, _| {
            fields.iter().filter(|f| hash::remove(owned, f)).count()
        })?;
        if removed > 0 {
            self.log_words(p, b"HDEL", key, fields.iter().map(|f| Cow::Borrowed(*f)));
        }
        Ok(removed)
    }

    /// Adds members to a set. Gives how many are new. Logs `SADD`.
    pub fn set_add<M: AsRef<[u8]>>(
        &mut self,
        p: Point,
        key: &[u8],
        members: &[M],
        now_ms: u64,
    ) -> Result<usize, Fault> {
        let adds = members.iter().map(|m| m.as_ref().len() + 32).sum();
        let added = self.edit(p, key, Kind::Set, now_ms, adds, |owned, tools| {
            members
                .iter()
                .filter(|m| set::add(owned, m.as_ref(), tools))
                .count()
        })?;
        if added > 0 {
            self.log_words(
                p,
                b"SADD",
                key,
                members.iter().map(|m| Cow::Borrowed(m.as_ref())),
            );
        }
        Ok(added)
    }

    /// Removes members of a set. Gives how many were there. Logs `SREM`.
    pub fn set_remove<M: AsRef<[u8]>>(
        &mut self,
        p: Point,
        key: &[u8],
        members: &[M],
        now_ms: u64,
    ) -> Result<usize, Fault> {
        let removed = self.edit(p, key, Kind::Set, now_ms, 0, |owned, _| {
            members
                .iter()
                .filter(|m| set::remove(owned, m.as_ref()))
                .count()
        })?;
        if removed > 0 {
            self.log_words(
                p,
                b"SREM",
                key,
                members.iter().map(|m| Cow::Borrowed(m.as_ref())),
            );
        }
        Ok(removed)
    }

    /// Adds elements to an end of a list, one after the other. Gives its length. Logs `LPUSH` or `RPUSH`.
    pub fn list_push<E: AsRef<[u8]>>(
        &mut self,
        p: Point,
        key: &[u8],
        end: End,
        elements: &[E],
        now_ms: u64,
    ) -> Result<usize, Fault> {
        let adds = elements.iter().map(|e| e.as_ref().len() + 32).sum();
        let length = self.edit(p, key, Kind::List, now_ms, adds, |owned, tools| {
            for element in elements {
                let at = match end {
                    End::Front => 0,
                    End::Back => owned.view().len(Kind::List),
                };
                list::insert(owned, at, element.as_ref(), tools);
            }
            owned.view().len(Kind::List)
        })?;
        let name: &[u8] = match end {
            End::Front => b"LPUSH",
            End::Back => b"RPUSH",
        };
        self.log_words(
            p,
            name,
            key,
            elements.iter().map(|e| Cow::Borrowed(e.as_ref())),
        );
        self.note_ready(p, key);
        Ok(length)
    }

    /// Takes up to `count` elements off an end of a list, the outermost first. Logs `LPOP` or `RPOP` with how many.
    pub fn list_pop(
        &mut self,
        p: Point,
        key: &[u8],
        end: End,
        count: usize,
        now_ms: u64,
    ) -> Result<Vec<Vec<u8>>, Fault> {
        let popped = self.edit(p, key, Kind::List, now_ms, 0, |owned, _| {
            let view = list::List(owned.view());
            let length = view.len();
            let count = count.min(length);
            let popped: Vec<Vec<u8>> = match end {
                End::Front => view.iter_from(0).take(count).map(<[u8]>::to_vec).collect(),
                End::Back => {
                    let last = length.saturating_sub(1);
                    view.iter_back(last)
                        .take(count)
                        .map(<[u8]>::to_vec)
                        .collect()
                }
            };
            match end {
                End::Front => list::remove_range(owned, 0, count),
                End::Back => list::remove_range(owned, length - count, length),
            }
            popped
        })?;
        if !popped.is_empty() {
            let name: &[u8] = match end {
                End::Front => b"LPOP",
                End::Back => b"RPOP",
            };
            let count = popped.len().to_string();
            self.log(p, &[name, key, count.as_bytes()]);
        }
        Ok(popped)
    }

    /// Puts another element in the place of the one at `index`; false: there is none. Logs `LSET`.
    pub fn list_set(
        &mut self,
        p: Point,
        key: &[u8],
        index: usize,
        element: &[u8],
        now_ms: u64,
    ) -> Result<bool, Fault> {
        let adds = element.len() + 32;
        let set = self.edit(p, key, Kind::List, now_ms, adds, |owned, tools| {
            let there = index < owned.view().len(Kind::List);
            if there {
                list::replace(owned, index, element, tools);
            }
            there
        })?;
        if set {
            let index = index.to_string();
            self.log(p, &[b"LSET", key, index.as_bytes(), element]);
        }
        Ok(set)
    }

    /// Keeps the elements from `from` to before `to`. Logs `LTRIM`, with an inclusive end as clients give it.
    pub fn list_trim(
        &mut self,
        p: Point,
        key: &[u8],
        (from, to): (usize, usize),
        now_ms: u64,
    ) -> Result<(), Fault> {
        if from >= to {
            self.get_kind(p, key, Kind::List, now_ms)?;
            self.remove(p, key, now_ms);
            return Ok(());
        }
        let removed = self.edit(p, key, Kind::List, now_ms, 0, |owned, _| {
            let before = owned.view().len(Kind::List);
            list::remove_range(owned, to.min(before), before);
            list::remove_range(owned, 0, from.min(before));
            before - owned.view().len(Kind::List)
        })?;
        if removed > 0 {
            let (from, to) = (from.to_string(), (to - 1).to_string());
            self.log(p, &[b"LTRIM", key, from.as_bytes(), to.as_bytes()]);
        }
        Ok(())
    }

    /// Adds an element before or behind the first one that equals `pivot`. Gives the new length; None: the pivot is not there. Logs `LINSERT`.
    pub fn list_insert(
        &mut self,
        p: Point,
        key: &[u8],
        (before, pivot): (bool, &[u8]),
        element: &[u8],
        now_ms: u64,
    ) -> Result<Option<usize>, Fault> {
        let adds = element.len() + 32;
        let length = self.edit(p, key, Kind::List, now_ms, adds, |owned, tools| {
            let at = list::List(owned.view())
                .iter_from(0)
                .position(|e| e == pivot)?;
            list::insert(owned, at + usize::from(!before), element, tools);
            Some(owned.view().len(Kind::List))
        })?;
        if length.is_some() {
            let side: &[u8] = if before { b"BEFORE" } else { b"AFTER" };
            self.log(p, &[b"LINSERT", key, side, pivot, element]);
        }
        Ok(length)
    }

    /// Removes up to `count` elements that equal `element`: from the end when negative, all when 0. Gives how many. Logs `LREM`.
    pub fn list_remove(
        &mut self,
        p: Point,
        key: &[u8],
        count: i64,
        element: &[u8],
        now_ms: u64,
    ) -> Result<usize, Fault> {
        let most = match count {
            0 => usize::MAX,
            count => count.unsigned_abs() as usize,
        };
        let removed = self.edit(p, key, Kind::List, now_ms, 0, |owned, _| {
            list::remove_equal(owned, element, most, count < 0)
        })?;
        if removed > 0 {
            let count = count.to_string();
            self.log(p, &[b"LREM", key, count.as_bytes(), element]);
        }
        Ok(removed)
    }

    /// Sets members' scores, as `decide` says from each one's present score: None leaves it. Gives what `decide` has changed: new members, and
    /// others with another score. Logs `ZADD`.
    pub fn zset_update(
        &mut self,
        p: Point,
        key: &[u8],
        members: &[&[u8]],
        now_ms: u64,
        mut decide: impl FnMut(usize, Option<f64>) -> Option<f64>,
    ) -> Result<(usize, usize), Fault> {
        let adds = members.iter().map(|m| zset::entry_bytes(m)).sum();
        let mut written: Vec<(usize, f64)> = Vec::new();
        let counts = self.edit(p, key, Kind::ZSet, now_ms, adds, |owned, tools| {
            let (mut added, mut changed) = (0, 0);
            for (i, member) in members.iter().enumerate() {
                let present = zset::ZSet(owned.view()).score(member);
                let Some(score) = decide(i, present) else {
                    continue;
                };
                match present {
                    None => added += 1,
                    Some(old) if old == score => continue,
                    Some(_) => changed += 1,
                }
                zset::put(owned, member, score, tools);
                written.push((i, score));
            }
            (added, changed)
        })?;
        if !written.is_empty() {
            let words = written.iter().flat_map(|&(i, score)| {
                let score = copy::score_text(score).into_bytes();
                [Cow::Owned(score), Cow::Borrowed(members[i])]
            });
            self.log_words(p, b"ZADD", key, words);
            self.note_ready(p, key);
        }
        Ok(counts)
    }

    /// Removes members of a sorted set. Gives how many were there. Logs `ZREM`.
    pub fn zset_remove<M: AsRef<[u8]>>(
        &mut self,
        p: Point,
        key: &[u8],
        members: &[M],
        now_ms: u64,
    ) -> Result<usize, Fault> {
        let removed = self.edit(p, key, Kind::ZSet, now_ms, 0, |owned, _| {
            members
                .iter()
                .filter(|m| zset::remove(owned, m.as_ref()))
                .count()
        })?;
        if removed > 0 {
            self.log_words(
                p,
                b"ZREM",
                key,
                members.iter().map(|m| Cow::Borrowed(m.as_ref())),
            );
        }
        Ok(removed)
    }

    /// Counts one more, or one less, who waits for a key of a slot.
    pub fn watch(&mut self, slot: u16, more: bool) {
        let domain = self.domain_mut(slot);
        match more {
            true => domain.awaited += 1,
            false => domain.awaited -= 1,
        }
        match domain.awaited {
            0 => domain.observers &= !super::observer::BLOCKED,
            _ => domain.observers |= super::observer::BLOCKED,
        }
    }

    /// Tells those who wait for a key that it may hold something for them.
    pub(super) fn note_ready(&mut self, p: Point, key: &[u8]) {
        if self.replay || self.domain(p.slot).observers & super::observer::BLOCKED == 0 {
            return;
        }
        super::super::ready::note(p, key);
    }
}

impl Object {
    /// Whether dropping it takes so long that it is left to a background thread.
    pub(in crate::store) fn is_long_to_drop(&self) -> bool {
        self.bytes() > 64 * 1024
    }
}
