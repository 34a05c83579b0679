//! From keys to locked slots: whether this node serves them, decided under their lock.

use super::errors::{BUSY, CROSS_SLOT, READ_ONLY, SLOT_NOT_SERVED, UNDECLARED};
use super::{Context, Reason, Session, Stop};
use crate::node::Node;
use crate::protocol::Args;
use crate::store::{Guard, Held, Point, SLOTS, SlotState};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    Read,
    Write,
}

impl<'a> Context<'a> {
    /// Locks the slot of a key for reading.
    pub fn read(&self, key: &[u8]) -> Result<(Guard<'a>, Point), Stop> {
        self.lock_key(key, Access::Read)
    }

    /// Locks the slot of a key for writing.
    pub fn write(&self, key: &[u8]) -> Result<(Guard<'a>, Point), Stop> {
        self.lock_key(key, Access::Write)
    }

    /// Locks the slot of a key for changing a part of its string: a packed one is unpacked first, without the lock.
    pub fn write_plain(&self, key: &[u8]) -> Result<(Guard<'a>, Point), Stop> {
        let (guard, p) = self.write(key)?;
        if !self.node.store.compression.is_used() {
            return Ok((guard, p));
        }
        let Some(packed) = guard.packed(p, key) else {
            return Ok((guard, p));
        };
        drop(guard);
        let plain = packed.unpack();
        let (mut guard, p) = self.write(key)?;
        guard.expand(p, key, &packed, &plain)?;
        Ok((guard, p))
    }

    /// Unpacks the strings of keys that a write is made of, one lock after the other.
    pub fn expand<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> Result<(), Stop> {
        let store = &self.node.store;
        // What holds its locks already unpacks under them.
        if !store.compression.is_used() || self.held.is_some() {
            return Ok(());
        }
        for key in keys {
            let p = store.point(key);
            // A script that takes long is not waited for.
            drop(self.lock(&[p.slot])?);
            store.expand(p, key)?;
        }
        Ok(())
    }

    /// Counts a read of a key, here and with the key's region.
    pub fn count_read(&self, guard: &Guard<'_>, p: Point, key: &[u8], is_there: bool) {
        match is_there {
            true => self.stats.hits.add(1),
            false => self.stats.misses.add(1),
        }
        guard.count_read(p, key, is_there);
    }

    fn lock_key(&self, key: &[u8], access: Access) -> Result<(Guard<'a>, Point), Stop> {
        self.want_credit(access)?;
        let point = match self.known {
            Some((known, point)) if std::ptr::eq(known, key) => point,
            _ => self.node.store.point(key),
        };
        let mut guard = self.lock(&[point.slot])?;
        self.admit(guard.slot_state(point.slot), point.slot, access)?;
        if self.session.tracking.is_some() {
            self.track(&mut guard, [(key, point)].into_iter(), access);
        }
        Ok((guard, point))
    }

    /// Locks the slots of several keys. In a cluster they must be of one slot.
    pub fn lock_keys<'k>(
        &self,
        keys: impl Iterator<Item = &'k [u8]> + Clone,
        access: Access,
    ) -> Result<(Guard<'a>, Vec<Point>), Stop> {
        self.want_credit(access)?;
        let points: Vec<Point> = keys.clone().map(|key| self.node.store.point(key)).collect();
        if self.node.is_cluster() && points.windows(2).any(|w| w[0].slot != w[1].slot) {
            return Err(CROSS_SLOT.into());
        }
        let mut slots: Vec<u16> = points.iter().map(|p| p.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        let mut guard = self.lock(&slots)?;
        for &slot in &slots {
            self.admit(guard.slot_state(slot), slot, access)?;
        }
        if self.session.tracking.is_some() {
            self.track(&mut guard, keys.zip(points.iter().copied()), access);
        }
        Ok((guard, points))
    }

    /// As [`Context::lock_keys`], for all arguments after the name.
    pub fn lock_all_args(
        &self,
        args: Args<'_>,
        access: Access,
    ) -> Result<(Guard<'a>, Vec<Point>), Stop> {
        self.lock_keys(args.from(1).iter(), access)
    }

    /// The client is told when what it reads now changes.
    #[cold]
    fn track<'k>(
        &self,
        guard: &mut Guard<'a>,
        keys: impl Iterator<Item = (&'k [u8], Point)>,
        access: Access,
    ) {
        let tracking = self.session.tracking.as_ref();
        // Of a script it is the keys that it has declared.
        let reader = tracking
            .and_then(|t| t.reader())
            .filter(|_| access == Access::Read && !self.in_script);
        if let Some(reader) = reader {
            keys.for_each(|(key, p)| guard.track(p, key, reader));
        }
    }

    /// Locks slots, whatever their state. In a transaction or script they are locked already; a script that takes long is not waited for.
    pub fn lock(&self, slots: &[u16]) -> Result<Guard<'a>, Stop> {
        match &self.held {
            None => {
                let running = &self.node.scripting.running;
                let store = &self.node.store;
                let locked = store.lock_slots_while(slots, || !running.is_busy_with(slots));
                locked.ok_or_else(|| BUSY.into())
            }
            Some(held) => Self::borrow(held, |held| slots.iter().all(|&slot| held.covers(slot))),
        }
    }

    /// Locks everything.
    pub fn lock_all(&self) -> Result<Guard<'a>, Stop> {
        match &self.held {
            None => {
                let running = &self.node.scripting.running;
                let locked = self.node.store.lock_all_while(|| !running.is_busy());
                locked.ok_or_else(|| BUSY.into())
            }
            Some(held) => Self::borrow(held, |held| {
                (0..SLOTS).step_by(16).all(|slot| held.covers(slot))
            }),
        }
    }

    #[cold]
    fn borrow(held: &Held<'a>, covers: impl Fn(&Held<'a>) -> bool) -> Result<Guard<'a>, Stop> {
        let guard = if covers(held) { held.lend() } else { None };
        guard.ok_or_else(|| UNDECLARED.into())
    }

    /// A write waits while the log cannot take more.
    pub fn want_credit(&self, access: Access) -> Result<(), Stop> {
        if access == Access::Write && self.held.is_none() && !self.node.log.has_credit() {
            return Err(Stop::Pending(Reason::NoCredit));
        }
        Ok(())
    }

    pub fn admit(&self, state: SlotState, slot: u16, access: Access) -> Result<(), Stop> {
        admit(self.node, self.session, (state, slot), access)
    }

    pub fn moved(&self, slot: u16) -> Stop {
        moved(self.node, slot)
    }

    /// Locks everything for a command that drops all data. Gives the slots to be dropped, None: all.
    pub fn lock_for_flush(&self) -> Result<(Guard<'a>, Option<Vec<u16>>), Stop> {
        self.want_credit(Access::Write)?;
        let guard = self.lock_all()?;
        let slots_in = |state| {
            (0..SLOTS)
                .filter(|&slot| guard.slot_state(slot) == state)
                .collect::<Vec<_>>()
        };
        if !slots_in(SlotState::WritePaused).is_empty() {
            return Err(Stop::Pending(Reason::SlotPaused));
        }
        let serve = slots_in(SlotState::Serve);
        if serve.is_empty() && !slots_in(SlotState::ReadOnly).is_empty() {
            return Err(READ_ONLY.into());
        }
        let all = serve.len() == usize::from(SLOTS);
        Ok((guard, (!all).then_some(serve)))
    }
}

/// Whether a slot in this state is served to a client: else why not, or what to wait for.
pub fn admit(
    node: &Node,
    session: &Session,
    (state, slot): (SlotState, u16),
    access: Access,
) -> Result<(), Stop> {
    match (state, access) {
        (SlotState::Serve, _) | (SlotState::WritePaused, Access::Read) => Ok(()),
        (SlotState::WritePaused, Access::Write) => Err(Stop::Pending(Reason::SlotPaused)),
        (SlotState::ReadOnly, Access::Read) if session.readonly => Ok(()),
        _ => Err(moved(node, slot)),
    }
}

fn moved(node: &Node, slot: u16) -> Stop {
    let routing = node.cluster.routing();
    match routing.owner(slot) {
        // A slot that is ours by the topology and not served cannot be found elsewhere.
        Some(owner) if !owner.myself => {
            format!("MOVED {slot} {}:{}", owner.host, owner.port).into()
        }
        _ => SLOT_NOT_SERVED.into(),
    }
}

/// Whether a slot's keys are this node's to show in commands on all keys.
pub fn is_shown(state: SlotState) -> bool {
    !matches!(state, SlotState::None | SlotState::Importing)
}
