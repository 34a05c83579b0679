//! Locks that outlive a command: those of a transaction or a script, lent to one command after the other. What all of them change is one
//! record of the log, pushed when the locks are released.

use std::cell::RefCell;
use std::rc::Rc;

use super::super::budget::Room;
use super::super::point::domain_of;
use super::Guard;

/// Where a lent Guard goes back to.
pub(super) type Home<'s> = Rc<RefCell<Option<Guard<'s>>>>;

/// See the module's text. Dropped, it releases its locks.
pub struct Held<'s>(Home<'s>);

impl<'s> Held<'s> {
    /// Its commands find a little more memory than others: whether there is enough for all was asked before the first.
    pub fn new(mut guard: Guard<'s>) -> Self {
        guard.room = Room::Slack;
        Self(Rc::new(RefCell::new(Some(guard))))
    }

    /// The locks, to be used as if they had just been taken. None: they are lent already.
    pub fn lend(&self) -> Option<Guard<'s>> {
        let mut guard = self.0.borrow_mut().take()?;
        guard.rare().home = Some(self.0.clone());
        Some(guard)
    }

    /// Whether a slot is locked.
    pub fn covers(&self, slot: u16) -> bool {
        self.0.borrow().as_ref().is_some_and(|g| g.covers(slot))
    }
}

impl Guard<'_> {
    fn covers(&self, slot: u16) -> bool {
        let wanted = domain_of(slot);
        self.first.as_ref().is_some_and(|(n, _)| *n == wanted)
            || self.more.binary_search_by_key(&wanted, |(n, _)| *n).is_ok()
    }

    /// Gives the locks back to whoever lent them. False: nobody did.
    #[cold]
    pub(super) fn goes_home(&mut self) -> bool {
        let Some(home) = self.rare.as_mut().and_then(|rare| rare.home.take()) else {
            return false;
        };
        if let Some(rare) = &mut self.rare {
            rare.born = None;
        }
        let back = Guard {
            store: self.store,
            first: self.first.take(),
            more: std::mem::take(&mut self.more),
            effects: self.effects.take(),
            replay: self.replay,
            as_told: self.as_told,
            room: Room::Slack,
            emptied: false,
            rare: self.rare.take(),
        };
        *home.borrow_mut() = Some(back);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::observer;
    use super::super::super::tests::store;
    use super::*;

    #[test]
    fn lent_locks_come_back_and_their_changes_are_one_record() {
        let store = store(0);
        store.set_observer(observer::LOG, true);
        let (a, b) = (store.point(b"a"), store.point(b"b"));
        let held = Held::new(store.lock_slots(&[a.slot, b.slot]));
        assert!(held.covers(a.slot) && held.covers(b.slot) && !held.covers(a.slot ^ 64));
        let mut guard = held.lend().unwrap();
        assert!(held.lend().is_none(), "lent once");
        guard.set(a, b"a", b"1", None).unwrap();
        drop(guard);
        assert_eq!(store.log.position().offset, 0);
        let mut guard = held.lend().unwrap();
        guard.set(b, b"b", b"2", None).unwrap();
        assert_eq!(
            guard.effects.as_ref().map(|e| e.bytes().len() > 40),
            Some(true)
        );
        drop(guard);
        drop(held);
        // Released: it can be locked again, and sees both.
        let mut guard = store.lock_slots(&[a.slot, b.slot]);
        assert!(guard.get(a, b"a", 0).is_some() && guard.get(b, b"b", 0).is_some());
        assert!(guard.effects.is_none());
    }
}
