//! The one table of commands: name, arity, flags, keys and documentation drive dispatch, slot routing, `COMMAND` and the metrics.

use std::sync::LazyLock;

use super::{
    Handler, bitmaps, blocking, client, cluster, config, connection, counters, debug, dump, expiry,
    hashes, hyperloglog, introspect, keys, lcs, lists, monitor, object, pfdebug, pubsub, scan,
    scripting, server, set, sets, slowlog, sort, strings, transactions, wait, zcombine, zranges,
    zsets,
};

/// Commands and subcommands at most: the size of the threads' counters.
pub const COMMANDS_MAX: usize = 384;

/// What a command is, as bits. The names are those of `COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    pub const NONE: Self = Self(0);
    pub const WRITE: Self = Self(1);
    pub const READONLY: Self = Self(1 << 1);
    pub const DENYOOM: Self = Self(1 << 2);
    pub const ADMIN: Self = Self(1 << 3);
    pub const NOSCRIPT: Self = Self(1 << 4);
    pub const LOADING: Self = Self(1 << 5);
    pub const STALE: Self = Self(1 << 6);
    pub const FAST: Self = Self(1 << 7);
    pub const NO_AUTH: Self = Self(1 << 8);
    pub const NO_MULTI: Self = Self(1 << 9);
    pub const ALLOW_BUSY: Self = Self(1 << 10);
    /// Keys are dangerous to ask for in production. An ACL category, not a flag of `COMMAND`.
    pub const DANGEROUS: Self = Self(1 << 11);
    pub const SKIP_MONITOR: Self = Self(1 << 12);
    pub const BLOCKING: Self = Self(1 << 13);
    /// Keys are not, or not all, where [`KeySpec`] says.
    pub const MOVABLE_KEYS: Self = Self(1 << 14);
    pub const SKIP_SLOWLOG: Self = Self(1 << 15);
    /// In a transaction it is executed at once. Ours alone, as is the next.
    pub const UNQUEUED: Self = Self(1 << 16);
    /// Locks more than its keys say: in a transaction everything is locked for it.
    pub const WHOLE: Self = Self(1 << 17);
    /// It may write, though it is no command that always does.
    pub const MAY_WRITE: Self = Self(1 << 18);
    pub const NO_MANDATORY_KEYS: Self = Self(1 << 19);
    pub const PUBSUB: Self = Self(1 << 20);
    /// Allowed to a RESP2 connection that has subscribed. Ours alone.
    pub const SUBSCRIBED: Self = Self(1 << 21);

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Names as `COMMAND` tells them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const NAMES: [(Flags, &str); 17] = [
            (Flags::WRITE, "write"),
            (Flags::READONLY, "readonly"),
            (Flags::DENYOOM, "denyoom"),
            (Flags::ADMIN, "admin"),
            (Flags::NOSCRIPT, "noscript"),
            (Flags::LOADING, "loading"),
            (Flags::STALE, "stale"),
            (Flags::SKIP_MONITOR, "skip_monitor"),
            (Flags::FAST, "fast"),
            (Flags::NO_AUTH, "no_auth"),
            (Flags::NO_MULTI, "no_multi"),
            (Flags::ALLOW_BUSY, "allow_busy"),
            (Flags::BLOCKING, "blocking"),
            (Flags::MOVABLE_KEYS, "movablekeys"),
            (Flags::SKIP_SLOWLOG, "skip_slowlog"),
            (Flags::NO_MANDATORY_KEYS, "no_mandatory_keys"),
            (Flags::PUBSUB, "pubsub"),
        ];
        NAMES
            .into_iter()
            .filter(move |(flag, _)| self.has(*flag))
            .map(|(_, name)| name)
    }
}

/// Positions of a command's keys: first, last (negative: from the end), step. All 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpec {
    pub first: i16,
    pub last: i16,
    pub step: i16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Generic,
    String,
    Hash,
    List,
    Set,
    SortedSet,
    Bitmap,
    HyperLogLog,
    Connection,
    Server,
    Cluster,
    Transactions,
    Scripting,
    PubSub,
}

impl Group {
    pub fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::String => "string",
            Self::Hash => "hash",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "sorted-set",
            Self::Bitmap => "bitmap",
            Self::HyperLogLog => "hyperloglog",
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Cluster => "cluster",
            Self::Transactions => "transactions",
            Self::Scripting => "scripting",
            Self::PubSub => "pubsub",
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// Lower case; of a subcommand without its container's.
    pub name: &'static str,
    /// Arguments with the name; negative: at least so many.
    pub arity: i16,
    pub flags: Flags,
    pub keys: KeySpec,
    /// The argument that says how many keys follow it; 0: none does.
    pub key_count_at: u8,
    pub group: Group,
    pub since: &'static str,
    pub complexity: &'static str,
    pub summary: &'static str,
    pub handler: Handler,
    pub subcommands: &'static [Command],
}

impl Command {
    pub const fn new(name: &'static str, arity: i16, group: Group, handler: Handler) -> Self {
        Self {
            name,
            arity,
            flags: Flags::NONE,
            keys: KeySpec {
                first: 0,
                last: 0,
                step: 0,
            },
            key_count_at: 0,
            group,
            since: "1.0.0",
            complexity: "O(1)",
            summary: "",
            handler,
            subcommands: &[],
        }
    }

    pub const fn flags(mut self, flags: Flags) -> Self {
        self.flags = flags;
        self
    }

    pub const fn keys(mut self, first: i16, last: i16, step: i16) -> Self {
        self.keys = KeySpec { first, last, step };
        self
    }

    pub const fn counted_keys(mut self, at: u8) -> Self {
        self.key_count_at = at;
        self
    }

    /// Since which version of Redis, at what cost, what for.
    pub const fn doc(
        mut self,
        since: &'static str,
        complexity: &'static str,
        summary: &'static str,
    ) -> Self {
        self.since = since;
        self.complexity = complexity;
        self.summary = summary;
        self
    }

    pub const fn with(mut self, subcommands: &'static [Command]) -> Self {
        self.subcommands = subcommands;
        self
    }

    pub fn takes(&self, arguments: usize) -> bool {
        let wanted = usize::from(self.arity.unsigned_abs());
        if self.arity >= 0 {
            arguments == wanted
        } else {
            arguments >= wanted
        }
    }
}

/// A command or subcommand with its place among all.
#[derive(Debug)]
pub struct Entry {
    pub command: &'static Command,
    /// `client|list`
    pub full_name: String,
    /// Index of counters.
    pub index: usize,
    /// It may take long, so it is timed.
    pub timed: bool,
    /// Entries of its subcommands.
    pub subcommands: std::ops::Range<usize>,
    pub is_subcommand: bool,
}

/// The table, with an index by name.
pub struct Table {
    pub entries: Vec<Entry>,
    /// Open addressing: a name's beginning and its entry + 1, 0 for none.
    buckets: Vec<(u64, u16)>,
}

pub static TABLE: LazyLock<Table> = LazyLock::new(Table::build);

const BUCKETS: usize = 1024;
/// No name is longer.
const NAME_MAX: usize = 32;

impl Table {
    fn build() -> Self {
        let families: &[&'static [Command]] = &[
            strings::COMMANDS,
            set::COMMANDS,
            counters::COMMANDS,
            lcs::COMMANDS,
            hashes::COMMANDS,
            sets::COMMANDS,
            lists::COMMANDS,
            blocking::COMMANDS,
            zsets::COMMANDS,
            zranges::COMMANDS,
            zcombine::COMMANDS,
            bitmaps::COMMANDS,
            hyperloglog::COMMANDS,
            pfdebug::COMMANDS,
            sort::COMMANDS,
            dump::COMMANDS,
            keys::COMMANDS,
            object::COMMANDS,
            scan::COMMANDS,
            expiry::COMMANDS,
            transactions::COMMANDS,
            scripting::COMMANDS,
            pubsub::COMMANDS,
            monitor::COMMANDS,
            slowlog::COMMANDS,
            wait::COMMANDS,
            debug::COMMANDS,
            connection::COMMANDS,
            client::COMMANDS,
            server::COMMANDS,
            config::COMMANDS,
            introspect::COMMANDS,
            cluster::COMMANDS,
        ];
        let mut entries: Vec<Entry> = Vec::new();
        let mut buckets = vec![(0, 0); BUCKETS];
        for command in families.iter().copied().flatten() {
            let index = entries.len();
            let subcommands = index + 1..index + 1 + command.subcommands.len();
            entries.push(Entry {
                command,
                full_name: command.name.to_owned(),
                index,
                timed: is_timed(command),
                subcommands,
                is_subcommand: false,
            });
            for sub in command.subcommands {
                let index = entries.len();
                entries.push(Entry {
                    command: sub,
                    full_name: format!("{}|{}", command.name, sub.name),
                    index,
                    timed: is_timed(sub),
                    subcommands: 0..0,
                    is_subcommand: true,
                });
            }
            let start = beginning(command.name.as_bytes());
            let mut at = hash(command.name.len(), start);
            while buckets[at].1 != 0 {
                at = (at + 1) % BUCKETS;
            }
            buckets[at] = (start, index as u16 + 1);
        }
        assert!(entries.len() <= COMMANDS_MAX, "raise COMMANDS_MAX");
        Self { entries, buckets }
    }

    /// The command of a name, in whatever case.
    pub fn find(&self, name: &[u8]) -> Option<&Entry> {
        if name.len() > NAME_MAX {
            return None;
        }
        let start = beginning(name);
        let mut at = hash(name.len(), start);
        loop {
            let (other, entry) = self.buckets[at];
            let entry = usize::from(entry.checked_sub(1)?);
            if other == start {
                let entry = &self.entries[entry];
                let known = entry.command.name.as_bytes();
                // Equal beginnings of short names are equal names.
                if known.len() == name.len()
                    && (name.len() <= 8 || known[8..].eq_ignore_ascii_case(&name[8..]))
                {
                    return Some(entry);
                }
            }
            at = (at + 1) % BUCKETS;
        }
    }

    /// The subcommand of a container.
    pub fn find_subcommand(&self, of: &Entry, name: &[u8]) -> Option<&Entry> {
        self.entries[of.subcommands.clone()]
            .iter()
            .find(|e| e.command.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// Commands without subcommands' entries.
    pub fn commands(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|e| !e.is_subcommand)
    }
}

/// Whether a command may take so long that two looks at the clock are nothing beside it. Those on one small value are not FAST to Redis either
/// because they free or copy it.
fn is_timed(command: &Command) -> bool {
    const QUICK: [&str; 8] = [
        "set", "setex", "psetex", "getset", "del", "mget", "mset", "getrange",
    ];
    !command.flags.has(Flags::FAST) && !QUICK.contains(&command.name)
}

/// The first eight bytes of a name, in lower case.
fn beginning(name: &[u8]) -> u64 {
    let word = match name {
        [a, b, c] => u64::from_le_bytes([*a, *b, *c, 0, 0, 0, 0, 0]),
        _ => match name.first_chunk::<8>() {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => {
                let mut bytes = [0; 8];
                bytes[..name.len()].copy_from_slice(name);
                u64::from_le_bytes(bytes)
            }
        },
    };
    lower(word)
}

/// Eight bytes at once, those from `A` to `Z` in lower case.
fn lower(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let low = word & (ONES * 0x7F);
    let from_a = low + ONES * (0x80 - b'A' as u64);
    let beyond_z = low + ONES * (0x7F - b'Z' as u64);
    let upper = (from_a ^ beyond_z) & !word & (ONES * 0x80);
    word | upper >> 2
}

fn hash(length: usize, beginning: u64) -> usize {
    let mixed = (beginning ^ length as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> 54) as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowered_as_byte_by_byte() {
        for byte in 0..=u8::MAX {
            for at in 0..8 {
                let mut bytes = *b"aZ@[`{z\xFF";
                bytes[at] = byte;
                let lowered = bytes.map(|b| b.to_ascii_lowercase());
                assert_eq!(
                    lower(u64::from_le_bytes(bytes)),
                    u64::from_le_bytes(lowered)
                );
            }
        }
        assert_eq!(beginning(b"GeT"), beginning(b"get"));
        assert_eq!(beginning(b"SETBITxx"), u64::from_le_bytes(*b"setbitxx"));
        assert_eq!(beginning(b"MGET"), beginning(b"mget"));
    }
}
