//! Who wants to know which keys change is told under the lock.

use super::super::domain::observer;
use super::super::point::Point;
use super::Guard;

impl Guard<'_> {
    /// A key was changed.
    pub(super) fn touched(&mut self, p: Point, key: &[u8]) {
        let domain = self.domain(p.slot);
        if domain.observers & observer::WATCHED != 0
            && let Some(watchers) = &domain.watchers
        {
            watchers.touch(key);
        }
    }

    /// All keys of a slot are about to go.
    pub(super) fn touched_all(&mut self, slot: u16) {
        if self.domain(slot).observers & observer::WATCHED == 0 {
            return;
        }
        if let Some(watchers) = &self.domain(slot).watchers {
            watchers.touch_slot(slot, |p, key| self.find(p, key).is_some());
        }
    }
}
