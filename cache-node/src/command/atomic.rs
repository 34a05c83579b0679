//! Several commands as one: their locks are taken before the first and released after the last, and what they change is one record of the
//! log. Transactions and scripts execute the handlers of the table this way.

use super::access::Access;
use super::errors::{CROSS_SLOT, OUT_OF_MEMORY, wrong_arity};
use super::introspect::keys_of;
use super::table::{Entry, Flags};
use super::{Context, Reason, Stop, blocking, monitor, slowlog};
use crate::node::extra;
use crate::protocol::Args;
use crate::store::{Guard, Held, SLOTS, SlotState, Store, notify};

/// What commands need before the first of them is executed.
#[derive(Debug, Default, Clone)]
pub struct Claim {
    /// Slots of keys, and whether they are written.
    slots: Vec<(u16, Access)>,
    /// There is a command that may touch any slot.
    whole: Option<Access>,
    /// There is a command that takes memory.
    grows: bool,
}

fn access(flags: Flags) -> Access {
    match flags.has(Flags::WRITE.and(Flags::MAY_WRITE)) {
        true => Access::Write,
        false => Access::Read,
    }
}

impl Claim {
    /// Claims what a command of the table needs.
    pub fn add(&mut self, store: &Store, entry: &Entry, args: Args<'_>) {
        let flags = entry.command.flags;
        for i in keys_of(entry.command, args) {
            self.add_key(store, args.at(i), access(flags));
        }
        if flags.has(Flags::WHOLE) {
            self.add_all(access(flags));
        }
        self.grows |= flags.has(Flags::DENYOOM);
    }

    /// Claims a key.
    pub fn add_key(&mut self, store: &Store, key: &[u8], access: Access) {
        self.slots.push((store.point(key).slot, access));
    }

    /// Claims everything.
    pub fn add_all(&mut self, access: Access) {
        self.whole = self.whole.max(Some(access));
    }

    /// There must be room for more data.
    pub fn add_growth(&mut self) {
        self.grows = true;
    }

    fn writes(&self) -> bool {
        self.whole == Some(Access::Write) || self.slots.iter().any(|(_, a)| *a == Access::Write)
    }
}

impl<'a> Context<'a> {
    /// Takes the locks of a claim, and of other slots beside. Nothing has happened when it fails: the error says why, or what to wait for.
    pub fn claim(
        &self,
        claim: &Claim,
        beside: impl Iterator<Item = u16>,
    ) -> Result<Guard<'a>, Stop> {
        let node = self.node;
        if claim.writes() {
            self.want_credit(Access::Write)?;
        }
        let mut keyed: Vec<u16> = claim.slots.iter().map(|(slot, _)| *slot).collect();
        keyed.sort_unstable();
        keyed.dedup();
        if node.is_cluster() && keyed.len() > 1 {
            return Err(CROSS_SLOT.into());
        }
        if claim.grows && node.store.is_full() {
            return Err(OUT_OF_MEMORY.into());
        }
        keyed.extend(beside);
        let guard = match claim.whole {
            Some(_) => self.lock_all()?,
            None => self.lock(&keyed)?,
        };
        for &(slot, access) in &claim.slots {
            self.admit(guard.slot_state(slot), slot, access)?;
        }
        // What may write anywhere writes to what is served.
        if claim.whole == Some(Access::Write)
            && (0..SLOTS).any(|slot| guard.slot_state(slot) == SlotState::WritePaused)
        {
            return Err(Stop::Pending(Reason::SlotPaused));
        }
        Ok(guard)
    }

    /// The commands that follow find these locks held.
    pub fn hold(&mut self, guard: Guard<'a>) {
        self.held = Some(Held::new(guard));
    }

    /// Releases what is held, and serves those who waited for what was written.
    pub fn release(&mut self) {
        self.held = None;
        let ready = crate::store::ready::take();
        if !ready.is_empty() {
            blocking::serve(self.node, ready);
        }
    }

    /// Executes a command under the locks that are held, and writes its reply, be it an error. False: it is one.
    pub fn call(&mut self, entry: &'static Entry, args: Args<'_>) -> bool {
        let mark = self.reply.out.mark();
        let name = std::mem::replace(&mut self.name, &entry.full_name);
        let known = self.known.take();
        let (node, command) = (self.node, entry.command);
        let extras = node.extras();
        if extras & extra::NOTIFY != 0 {
            notify::set_command(command.name, command.flags.has(Flags::READONLY));
        }
        let begun = slowlog::begin(entry.timed || extras & extra::TIMED != 0);
        let result = match entry.command.takes(args.len()) {
            true => (entry.command.handler)(self, args),
            false => Err(wrong_arity(self.name)),
        };
        (self.name, self.known) = (name, known);
        slowlog::end(node, self.session, entry, args, begun);
        if extras & extra::MONITOR != 0 {
            monitor::feed(node, self.session, entry, args, self.in_script);
        }
        self.stats.commands[entry.index].add(1);
        let text = match result {
            Ok(()) => return true,
            Err(Stop::Error(text)) => text,
            // What could be waited for was waited for before the first command.
            Err(Stop::Pending(_)) => "ERR This command cannot wait in a transaction".into(),
        };
        self.reply.out.truncate(mark);
        self.reply.error(&text);
        if !std::mem::take(&mut self.session.error_is_counted) {
            self.stats.error(&text);
        }
        self.stats.failed_commands[entry.index].add(1);
        false
    }

    /// As [`Context::call`], but gives the reply's bytes instead of sending them.
    pub fn call_for_bytes(&mut self, entry: &'static Entry, args: Args<'_>) -> Vec<u8> {
        let mark = self.reply.out.mark();
        self.call(entry, args);
        self.reply.out.take_from(mark)
    }
}
