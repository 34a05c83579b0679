//! Who wants to know which keys change is told under the lock.

use std::sync::atomic::Ordering;

use super::super::domain::observer;
use super::super::notify::{self, class};
use super::super::pages::Ref;
use super::super::point::Point;
use super::Guard;

/// Everything is the whole item: the effect has no name.
const ITEM: &[u8] = b"";

impl Guard<'_> {
    /// A key was changed, with an effect on it.
    pub(super) fn touched(
        &mut self,
        p: Point,
        effect: &[u8],
        key: &[u8],
        event: Option<(u32, &'static str)>,
    ) {
        let domain = self.domain(p.slot);
        let observers = domain.observers;
        if observers & observer::WATCHED != 0
            && let Some(watchers) = &domain.watchers
        {
            watchers.touch(key);
        }
        if observers & observer::TRACKED != 0 {
            self.forget_key(p.slot, key);
        }
        if observers & observer::PREFIXES != 0 {
            self.store.tracking.changed(key);
        }
        if observers & observer::NOTIFY != 0 && !self.as_told {
            let command = notify::command().command;
            let (class, name) =
                event.unwrap_or_else(|| notify::event(command, effect, effect == ITEM));
            if let (b"DEL", Some((class, name))) = (effect, notify::emptying(command)) {
                self.tell(class, name, key);
            }
            self.tell(class, name, key);
            // One command may set a value and its expiry.
            if name == "set" && effect != ITEM && self.has_expiry(p, key) {
                self.tell(class::GENERIC, "expire", key);
            }
            if std::mem::take(&mut self.emptied) {
                self.tell(class::GENERIC, "del", key);
            }
        }
    }

    fn has_expiry(&self, p: Point, key: &[u8]) -> bool {
        let found = self.find(p, key);
        notify::command().command != "getset"
            && found.is_some_and(|(_, at)| self.item(at).expires_at().is_some())
    }

    /// Sends an event, if its class is wanted.
    fn tell(&self, class: u32, name: &str, key: &[u8]) {
        let wanted = self.store.notify_classes.load(Ordering::Relaxed);
        if wanted & class != 0
            && let Some(sink) = self.store.event_sink.get()
        {
            sink(wanted, name, key);
        }
    }

    /// A key was asked for that is not there.
    pub(super) fn missed(&self, p: Point, key: &[u8]) {
        if self.domain(p.slot).observers & observer::NOTIFY != 0 && notify::command().reads {
            self.tell(class::MISS, "keymiss", key);
        }
    }

    /// A key is about to be there that was not.
    pub(super) fn is_new(&self, p: Point, at: Ref) {
        if self.domain(p.slot).observers & observer::NOTIFY != 0 && !self.as_told {
            self.tell(class::NEW, "new", self.item(at).key());
        }
    }

    /// All keys of a slot are about to go.
    pub(super) fn touched_all(&mut self, slot: u16) {
        let domain = self.domain(slot);
        if domain.observers & (observer::WATCHED | observer::TRACKED) == 0 {
            return;
        }
        if let Some(watchers) = &domain.watchers {
            watchers.touch_slot(slot, |p, key| self.find(p, key).is_some());
        }
        self.forget_slot(slot);
    }

    /// Turns an observer on or off in all locked domains.
    pub fn observe_all(&mut self, bit: u32, on: bool) {
        self.each_domain(|domain| match on {
            true => domain.observers |= bit,
            false => domain.observers &= !bit,
        });
    }

    /// Says which classes of keyspace notifications are wanted. All domains must be locked.
    pub fn set_notify_classes(&mut self, classes: u32) {
        self.store.notify_classes.store(classes, Ordering::Relaxed);
        let sent = classes & (class::KEYSPACE | class::KEYEVENT) != 0;
        self.observe_all(observer::NOTIFY, sent);
    }
}
