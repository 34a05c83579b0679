//! A script's commands, under locks that are taken before it begins and released after it ends. What it writes is one record of the log,
//! and the script itself is none.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::cache::Script;
use super::call::Caller;
use super::host::Host;
use super::raise::Failure;
use super::running::{Holds, Run};
use crate::command::dispatch::look_up;
use crate::command::errors::OUT_OF_MEMORY;
use crate::command::introspect::keys_of;
use crate::command::table::{Command, Entry, Flags, Group, TABLE};
use crate::command::{Access, Claim, Context, Reason, Stop, monitor, pause};
use crate::limits::{SCRIPT_MEMORY_MAX, SCRIPT_MEMORY_MIN, SCRIPT_MEMORY_SHARE};
use crate::node::{Node, extra};
use crate::protocol::{Args, Words};
use crate::store::Held;

/// A thread's state, as of a flush of the scripts.
struct Made {
    host: Host,
    /// Bytes that it may take: the node's memory may be given another limit.
    max: usize,
    flushes: u64,
    /// What is told of its memory.
    told: usize,
}

thread_local! {
    /// None until the thread's first script.
    static HOST: RefCell<Option<Made>> = const { RefCell::new(None) };
}

/// Bytes that the state of one thread may take.
fn memory_max(node: &Node) -> usize {
    let limit = node.store.stats().max_bytes;
    let max = match limit {
        0 => SCRIPT_MEMORY_MAX,
        limit => limit / SCRIPT_MEMORY_SHARE / node.config.threads() as u64,
    };
    max.clamp(SCRIPT_MEMORY_MIN, SCRIPT_MEMORY_MAX) as usize
}

/// Uses this thread's state, which is made if there is none, or it is spent, or scripts were flushed.
pub fn with_host<R>(node: &Node, f: impl FnOnce(&mut Host) -> R) -> Result<R, Stop> {
    HOST.with_borrow_mut(|made| {
        let scripts = &node.scripting.scripts;
        let flushes = scripts.flushes();
        let usable = made
            .as_ref()
            .is_some_and(|m| m.flushes == flushes && !m.host.is_spent());
        let max = memory_max(node);
        if !usable {
            let told = made.take().map_or(0, |m| m.told);
            scripts
                .states_bytes
                .fetch_sub(told as u64, Ordering::Relaxed);
            let host = Host::new(max)
                .map_err(|error| format!("ERR no Lua state could be made: {error}"))?;
            *made = Some(Made {
                host,
                max,
                flushes,
                told: 0,
            });
        }
        let Some(made) = made else {
            unreachable!("it was made");
        };
        if made.max != max && made.host.set_memory_max(max).is_ok() {
            made.max = max;
        }
        let result = f(&mut made.host);
        let memory = made.host.memory();
        let change = (memory as u64).wrapping_sub(made.told as u64);
        scripts.states_bytes.fetch_add(change, Ordering::Relaxed);
        made.told = memory;
        Ok(result)
    })
}

/// Runs a script and writes what it returns. `args`: those of its command, behind `keys` of which its arguments begin. `reads`: it may not write.
pub fn run(
    context: &mut Context<'_>,
    script: &Script,
    args: Args<'_>,
    keys: usize,
    reads: bool,
) -> Result<(), Stop> {
    let flags = script.flags;
    let full = check_flags(context, script, reads)?;
    let access = match reads || flags.no_writes {
        true => Access::Read,
        false => Access::Write,
    };
    let words: Vec<&[u8]> = args.from(3).iter().collect();
    let (keys, argv) = words.split_at(keys);
    let store = &context.node.store;
    let slots = keys.iter().map(|key| store.point(key).slot).collect();
    // In a cluster the keys that it declares say where it may go. A node by itself takes all of Redis's liberties.
    let everything = !context.node.is_cluster() || keys.is_empty() || flags.cross_slot;
    let ours = context.held.is_none();
    if ours {
        let mut claim = Claim::default();
        keys.iter()
            .for_each(|key| claim.add_key(store, key, access));
        if everything {
            claim.add_all(access);
        }
        let guard = context.claim(&claim, std::iter::empty())?;
        context.hold(guard);
    }
    let holds = match everything {
        true => Holds::Everything,
        false => Holds::Slots(slots),
    };
    if context.node.extras() & extra::MONITOR != 0 {
        // Before its commands.
        monitor::feed_script(context.node, context.session, args);
    }
    let begun = context.node.scripting.running.begin(holds);
    let (node, stats, name) = (context.node, context.stats, context.name);
    let in_script = std::mem::replace(&mut context.in_script, true);
    let mut failed = false;
    let ran = with_host(node, |host| {
        let function = host
            .compile(&script.sha, script.code())
            .map_err(|error| format!("ERR Error compiling script (new function): {error}"))?;
        let mut commands = Commands {
            context: &mut *context,
            run: begun.0.clone(),
            access,
            keys,
            everything,
            full: full && !flags.allow_oom,
            wrote: false,
        };
        let returned = host.run(&function, keys, argv, begun.0.clone(), &mut commands);
        let result = returned.and_then(|returned| {
            returned.write(&mut context.reply, &mut |error| {
                failed = true;
                if !error.counted {
                    stats.error(error.text);
                }
            })
        });
        host.tidy();
        result.map_err(|failure| {
            context.session.error_is_counted = failure.counted;
            told(failure, &script.sha)
        })
    });
    context.in_script = in_script;
    if let (true, Some(entry)) = (failed, TABLE.find(name.as_bytes())) {
        // It has not failed itself: what it returned is an error.
        stats.failed_commands[entry.index].add(1);
    }
    if ours {
        context.release();
    }
    if begun.end() {
        node.wakers.wake_all();
    }
    ran?
}

/// Whether the script may run at all. Gives whether memory is full.
fn check_flags(context: &Context<'_>, script: &Script, reads: bool) -> Result<bool, Stop> {
    let (node, flags) = (context.node, script.flags);
    if flags.declared && flags.no_cluster && node.is_cluster() {
        return Err("ERR Can not run script on cluster, 'no-cluster' flag is set.".into());
    }
    let writes = !reads && !flags.no_writes;
    let full = writes && !flags.allow_oom && node.store.is_full();
    if full && context.held.is_none() && node.store.room_is_coming() {
        return Err(Stop::Pending(Reason::NoRoom));
    }
    if full && flags.declared {
        return Err("OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'".into());
    }
    if flags.declared && !flags.no_writes {
        if node.cluster.role().follows() {
            return Err("ERR Can not run script with write flag on readonly replica".into());
        }
        if reads {
            return Err("ERR Can not execute a script with write flag using *_ro command.".into());
        }
    }
    Ok(full)
}

/// The error of a script that failed, with its place.
fn told(failure: Failure, sha: &str) -> Stop {
    let message = String::from_utf8_lossy(&failure.message).into_owned();
    match failure.place {
        Some((source, line)) => format!("{message} script: {sha}, on {source}:{line}."),
        None => format!("{message} script: {sha}"),
    }
    .into()
}

/// Executes the commands of a script.
struct Commands<'c, 'n> {
    context: &'c mut Context<'n>,
    run: Arc<Run>,
    access: Access,
    /// Those that the script has declared.
    keys: &'c [&'c [u8]],
    /// All slots are locked.
    everything: bool,
    /// Memory was full before it began: until it has written, nothing that takes memory is executed.
    full: bool,
    wrote: bool,
}

const NON_LOCAL: &str = "Script attempted to access a non local key in a cluster node";

impl Caller for Commands<'_, '_> {
    fn command(&mut self, words: &Words, resp3: bool) -> Result<Vec<u8>, Cow<'static, str>> {
        let args = words.args();
        let entry = look_up(args);
        let stats = self.context.stats;
        let refused = |why: Cow<'static, str>| {
            if let Some(entry) = entry {
                stats.rejected(entry.index);
            }
            stats.error(why.strip_prefix('-').unwrap_or("ERR"));
            why
        };
        let Some(entry) = entry else {
            return Err(refused("Unknown Redis command called from script".into()));
        };
        self.admit(entry, args).map_err(refused)?;
        let before = std::mem::replace(&mut self.context.reply.resp3, resp3);
        let reply = self.context.call_for_bytes(entry, args);
        self.context.reply.resp3 = before;
        if reply.starts_with(b"-MOVED ") || reply.starts_with(b"-CLUSTERDOWN ") {
            return Err(NON_LOCAL.into());
        }
        Ok(reply)
    }

    fn may(&mut self, words: &Words) -> Option<bool> {
        // There is one user, who may do everything.
        look_up(words.args()).map(|_| true)
    }
}

impl Commands<'_, '_> {
    /// Whether the script may execute a command now. Then it counts as a write, if it is one.
    fn admit(&mut self, entry: &Entry, args: Args<'_>) -> Result<(), Cow<'static, str>> {
        let command = entry.command;
        if !command.takes(args.len()) {
            return Err("Wrong number of args calling Redis command from script".into());
        }
        if command.flags.has(Flags::NOSCRIPT) && !self.allows_all(command) {
            return Err("This Redis command is not allowed from script".into());
        }
        let writes = command.flags.has(Flags::WRITE);
        if (writes || pause::is_told(command)) && self.access == Access::Read {
            return Err("Write commands are not allowed from read-only scripts.".into());
        }
        if self.full && !self.wrote && command.flags.has(Flags::DENYOOM) {
            return Err(format!("-{OUT_OF_MEMORY}").into());
        }
        self.check_keys(entry, args)?;
        if writes {
            if !self.run.writes() {
                return Err("Script killed by user with SCRIPT KILL...".into());
            }
            self.wrote = true;
        }
        if command.flags.has(Flags::READONLY) && self.context.session.tracking.is_some() {
            self.track();
        }
        Ok(())
    }

    /// A script that reads has read the keys that it has declared: its client is told when they change.
    #[cold]
    fn track(&self) {
        let context = &*self.context;
        let tracking = context.session.tracking.as_ref();
        let guard = context.held.as_ref().and_then(Held::lend);
        if let (Some(reader), Some(mut guard)) = (tracking.and_then(|t| t.reader()), guard) {
            for key in self.keys {
                guard.track(context.node.store.point(key), key, reader);
            }
        }
    }

    /// `DEBUG SET-DISABLE-DENY-SCRIPTS`: what administers is not refused. No script begins another one or a transaction.
    fn allows_all(&self, command: &Command) -> bool {
        let allowed = &self.context.node.scripting.allows_all;
        self.everything
            && allowed.load(Ordering::Relaxed)
            && !matches!(command.group, Group::Scripting | Group::Transactions)
    }

    /// In a cluster a command's keys are in slots that are locked.
    fn check_keys(&self, entry: &Entry, args: Args<'_>) -> Result<(), Cow<'static, str>> {
        let context = &self.context;
        let (Some(held), true) = (&context.held, context.node.is_cluster()) else {
            return Ok(());
        };
        let covered = |&i: &usize| held.covers(context.node.store.point(args.at(i)).slot);
        match keys_of(entry.command, args).iter().all(covered) {
            true => Ok(()),
            false => Err(NON_LOCAL.into()),
        }
    }
}
