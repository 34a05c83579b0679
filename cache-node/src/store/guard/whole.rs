//! Values as a whole: copied or moved to another key, put in a key's place, kept to be put back.

use super::super::budget::OutOfMemory;
use super::super::collections::copy::Frozen;
use super::super::collections::{Owned, Tools};
use super::super::effect::{Effects, Transfer, write_item};
use super::super::item::{self, Kind, NewValue, ValueRef};
use super::super::point::Point;
use super::collections::SMALL;
use super::{Guard, SPARE};

/// See [`Guard::save`].
#[derive(Debug)]
pub struct Saved {
    kind: Kind,
    /// The bytes of a string or of a packed collection, or a big one.
    value: Owned,
    expires_at: Option<u64>,
}

impl Guard<'_> {
    /// Moves a big collection to another key or another expiry. Its old key is left without it when the two differ: to be removed.
    pub(super) fn move_object(
        &mut self,
        from: Point,
        from_key: &[u8],
        to_key: &[u8],
        to: Point,
        expires_at: Option<u64>,
    ) -> Result<(), OutOfMemory> {
        let Some((_, old)) = self.find(from, from_key) else {
            return Ok(());
        };
        self.before_change(from, false);
        self.before_change(to, true);
        let before = self.item(old).bytes() as u64;
        let store = self.store;
        // SAFETY: the item is live and locked, and no ItemRef to it is in use.
        let Some(object) = (unsafe { item::take_object(&store.pages, old) }) else {
            return Ok(());
        };
        let means = (&store.pages, &store.spans, self.room);
        let made = item::create_big(means, to_key, object, expires_at);
        let (new, bytes) = match made {
            Ok(made) => made,
            Err((full, object)) => {
                // SAFETY: as above; it was taken out there.
                unsafe { item::put_object(&store.pages, old, object) };
                return Err(full);
            }
        };
        let after = self.item(old).bytes() as u64;
        let table = self.table_mut(from.slot);
        table.item_bytes = table.item_bytes + after - before;
        self.account(from.slot, old, 0, after as i64 - before as i64);
        let found = self.find(to, to_key);
        self.place(to, found, new, bytes);
        Ok(())
    }

    /// Copies or moves a key's value of whatever kind, with its expiry, over what another key holds. False: there is no such key. Logs the
    /// commands that make it.
    pub fn transfer(
        &mut self,
        (from, from_key): (Point, &[u8]),
        (to, to_key): (Point, &[u8]),
        moves: bool,
        now_ms: u64,
    ) -> Result<bool, OutOfMemory> {
        let Some((_, at)) = self.find_live(from, from_key, now_ms) else {
            return Ok(false);
        };
        let replaces = self.find_live(to, to_key, now_ms).is_some();
        let item = self.item(at);
        let (kind, expires_at, bytes) = (item.kind(), item.expires_at(), item.bytes());
        self.room_in_region(to, to_key, !replaces, (bytes, bytes))?;
        let item = self.item(at);
        match (item.object().cloned(), item.stored()) {
            (Some(_), _) if moves => self.move_object(from, from_key, to_key, to, expires_at)?,
            (Some(object), _) => {
                // Its nodes are shared until one of both changes.
                self.put_big(to, to_key, Box::new(object), expires_at)?;
            }
            (None, ValueRef::Inline(value)) => {
                let bytes = value.to_vec();
                let value = NewValue::again(item, &bytes);
                self.put_kind(to, to_key, kind, value, expires_at)?;
            }
            (None, ValueRef::Shared(value)) => {
                let value = NewValue::again_shared(item, value);
                self.put_kind(to, to_key, kind, value, expires_at)?;
            }
        }
        let transfer = self.transfer_effect((from, from_key), (to, to_key), moves);
        if let Some(transfer) = &transfer {
            self.effects_mut().push_transfer(transfer);
        }
        if moves {
            if let Some((spot, at)) = self.find(from, from_key) {
                self.take_out(from, spot, at);
            }
            match transfer {
                Some(_) => self.touched(from, b"DEL", from_key, None),
                None => self.log(from, &[b"DEL", from_key]),
            }
        }
        match transfer {
            Some(_) => self.touched(to, b"", to_key, None),
            None => self.log_item(to, to_key, replaces),
        }
        self.note_ready(to, to_key);
        Ok(true)
    }

    /// What is logged for a big value that goes to another key of its slot: where it goes from and to, whatever its size. None: its content
    /// is logged, as it is small, or as a follower needs that.
    fn transfer_effect<'k>(
        &self,
        (from, from_key): (Point, &'k [u8]),
        (to, to_key): (Point, &'k [u8]),
        moves: bool,
    ) -> Option<Transfer<'k>> {
        let log = &self.store.log;
        let logged = self.logs(to) && !self.replay;
        if !logged || from.slot != to.slot || !log.followers_are_current() {
            return None;
        }
        let (_, at) = self.find(to, to_key)?;
        let item = self.item(at);
        let frozen = match (Frozen::of(item), log.has_walks()) {
            (Some(frozen), true) => log.freeze(frozen),
            (Some(_), false) => 0,
            // A string that is large; a copy under way needs its bytes.
            (None, false) if item.bytes() >= item::BIG_VALUE => 0,
            (None, _) => return None,
        };
        Some(Transfer {
            from: (from.slot, from.pos()),
            to: (to.slot, to.pos()),
            from_key,
            to_key,
            moves,
            frozen,
        })
    }

    fn effects_mut(&mut self) -> &mut Effects {
        self.effects
            .get_or_insert_with(|| SPARE.take().unwrap_or_default())
    }

    /// Logs what makes the item of a key as it is now.
    fn log_item(&mut self, p: Point, key: &[u8], replaces: bool) {
        if !self.is_observed(p) {
            return;
        }
        self.touched(p, b"", key, None);
        if !self.logs(p) || self.replay {
            return;
        }
        let Some((_, at)) = self.find(p, key) else {
            return;
        };
        let mut effects = self
            .effects
            .take()
            .unwrap_or_else(|| SPARE.take().unwrap_or_default());
        if replaces {
            effects.push(p, &[b"DEL", key]);
        }
        let item = self.item(at);
        let packed = self.store.log.followers_are_current();
        effects.push_written(p, |to| write_item(to, item, packed));
        self.effects = Some(effects);
    }

    /// Puts a whole collection in the place of what the key holds; an empty one removes the key. Logs the commands that make it.
    pub fn put_collection(
        &mut self,
        p: Point,
        key: &[u8],
        kind: Kind,
        collection: Owned,
        expires_at: Option<u64>,
        now_ms: u64,
    ) -> Result<(), OutOfMemory> {
        if collection.view().len(kind) == 0 {
            self.remove(p, key, now_ms);
            return Ok(());
        }
        let replaces = self.find_live(p, key, now_ms).is_some();
        let bytes = match &collection {
            Owned::Packed(run) => run.len(),
            Owned::Big(object) => object.bytes(),
        };
        self.room_in_region(p, key, !replaces, (bytes, bytes))?;
        match collection {
            Owned::Packed(run) => {
                self.put_kind(p, key, kind, NewValue::Bytes(&run), expires_at)?;
            }
            Owned::Big(object) => {
                self.put_big(p, key, object, expires_at)?;
            }
        }
        self.log_item(p, key, replaces);
        self.note_ready(p, key);
        Ok(())
    }

    /// Builds a collection apart from any key, to be put with [`Guard::put_collection`]. `bytes`: what its elements take, about.
    pub fn build<R>(
        &self,
        bytes: usize,
        f: impl FnOnce(&mut Owned, &Tools<'_>) -> R,
    ) -> Result<(Owned, R), OutOfMemory> {
        let store = self.store;
        let ahead = if bytes > SMALL { 2 * bytes } else { 0 };
        store.budget.take(ahead)?;
        let mut owned = Owned::empty();
        let tools = Tools {
            limits: store.packing.limits(),
            budget: &store.budget,
            seed: store.seed,
        };
        let done = f(&mut owned, &tools);
        store.budget.give(ahead);
        Ok((owned, done))
    }

    /// What a key holds, to be put back.
    pub fn save(&mut self, p: Point, key: &[u8], now_ms: u64) -> Option<Saved> {
        let item = self.get(p, key, now_ms)?;
        let value = match item.object() {
            Some(object) => Owned::Big(Box::new(object.clone())),
            None if item.kind() == Kind::String => Owned::Packed(item.value().to_vec()),
            None => Owned::Packed(item.stored().to_vec()),
        };
        Some(Saved {
            kind: item.kind(),
            value,
            expires_at: item.expires_at(),
        })
    }

    /// Puts back what a key held.
    pub fn put_back(
        &mut self,
        p: Point,
        key: &[u8],
        saved: Saved,
        now_ms: u64,
    ) -> Result<(), OutOfMemory> {
        match (saved.kind, saved.value) {
            (Kind::String, Owned::Packed(value)) => self.set(p, key, &value, saved.expires_at),
            (kind, value) => self.put_collection(p, key, kind, value, saved.expires_at, now_ms),
        }
    }
}
