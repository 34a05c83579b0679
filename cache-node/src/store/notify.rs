//! Keyspace notifications: what happened to which key, told under the key's lock, so that everybody hears it in the order in which it
//! happened. The name of an event follows from the command that is executed and from what it changed.

use std::cell::Cell;

/// Classes of events, as the letters of `notify-keyspace-events`.
pub mod class {
    pub const KEYSPACE: u32 = 1;
    pub const KEYEVENT: u32 = 1 << 1;
    pub const GENERIC: u32 = 1 << 2;
    pub const STRING: u32 = 1 << 3;
    pub const LIST: u32 = 1 << 4;
    pub const SET: u32 = 1 << 5;
    pub const HASH: u32 = 1 << 6;
    pub const ZSET: u32 = 1 << 7;
    pub const EXPIRED: u32 = 1 << 8;
    pub const EVICTED: u32 = 1 << 9;
    pub const STREAM: u32 = 1 << 10;
    pub const MISS: u32 = 1 << 11;
    pub const MODULE: u32 = 1 << 12;
    pub const NEW: u32 = 1 << 13;
    /// `A`
    pub const ALL: u32 =
        GENERIC | STRING | LIST | SET | HASH | ZSET | EXPIRED | EVICTED | STREAM | MODULE;
}

const LETTERS: [(char, u32); 14] = [
    ('g', class::GENERIC),
    ('$', class::STRING),
    ('l', class::LIST),
    ('s', class::SET),
    ('h', class::HASH),
    ('z', class::ZSET),
    ('x', class::EXPIRED),
    ('e', class::EVICTED),
    ('t', class::STREAM),
    ('d', class::MODULE),
    ('n', class::NEW),
    ('K', class::KEYSPACE),
    ('E', class::KEYEVENT),
    ('m', class::MISS),
];

/// The classes that a text names; None: a letter is none of theirs.
pub fn parse(text: &str) -> Option<u32> {
    let mut classes = 0;
    for letter in text.chars() {
        classes |= match letter {
            'A' => class::ALL,
            letter => LETTERS.iter().find(|(l, _)| *l == letter)?.1,
        };
    }
    Some(classes)
}

/// The letters of classes, as Redis prints them.
pub fn format(classes: u32) -> String {
    let all = classes & class::ALL == class::ALL;
    let mut text = String::from(if all { "A" } else { "" });
    let shown = LETTERS
        .iter()
        .filter(|(_, c)| classes & c != 0 && !(all && class::ALL & c != 0));
    text.extend(shown.map(|(letter, _)| letter));
    text
}

/// The command that a thread executes.
#[derive(Debug, Clone, Copy)]
pub struct Current {
    pub command: &'static str,
    pub reads: bool,
}

const NOBODY: Current = Current {
    command: "",
    reads: false,
};

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(NOBODY) };
    static CLIENT: Cell<u64> = const { Cell::new(0) };
}

/// Says which command this thread executes from now on.
pub fn set_command(command: &'static str, reads: bool) {
    CURRENT.set(Current { command, reads });
}

/// It executes none.
pub fn clear_command() {
    CURRENT.set(NOBODY);
}

pub fn command() -> Current {
    CURRENT.get()
}

/// Says for which client this thread works; 0: none.
pub fn set_client(id: u64) {
    CLIENT.set(id);
}

pub fn client() -> u64 {
    CLIENT.get()
}

/// Commands that delete a key as they take the last of it.
pub fn emptying(command: &str) -> Option<(u32, &'static str)> {
    match command {
        "spop" => Some((class::SET, "spop")),
        "ltrim" => Some((class::LIST, "ltrim")),
        _ => None,
    }
}

/// The class and name of the event of an effect of a command. `item`: a whole item was written.
pub fn event(command: &str, effect: &[u8], item: bool) -> (u32, &'static str) {
    use class::{GENERIC, HASH, LIST, SET, STRING, ZSET};
    let of_command = match command {
        "rename" | "renamenx" if effect == b"DEL" => Some((GENERIC, "rename_from")),
        "rename" | "renamenx" => Some((GENERIC, "rename_to")),
        "copy" => Some((GENERIC, "copy_to")),
        "restore" => Some((GENERIC, "restore")),
        _ if effect == b"DEL" => Some((GENERIC, "del")),
        _ if effect == b"PEXPIREAT" => Some((GENERIC, "expire")),
        _ if effect == b"PERSIST" => Some((GENERIC, "persist")),
        "incr" | "decr" | "incrby" | "decrby" => Some((STRING, "incrby")),
        "incrbyfloat" => Some((STRING, "incrbyfloat")),
        "setrange" => Some((STRING, "setrange")),
        "append" => Some((STRING, "append")),
        "setbit" | "bitfield" => Some((STRING, "setbit")),
        "pfadd" | "pfmerge" | "pfcount" => Some((STRING, "pfadd")),
        "hincrby" => Some((HASH, "hincrby")),
        "hincrbyfloat" => Some((HASH, "hincrbyfloat")),
        "spop" => Some((SET, "spop")),
        "sinterstore" => Some((SET, "sinterstore")),
        "sunionstore" => Some((SET, "sunionstore")),
        "sdiffstore" => Some((SET, "sdiffstore")),
        "sort" if item => Some((LIST, "sortstore")),
        "zincrby" => Some((ZSET, "zincr")),
        "zpopmin" | "bzpopmin" => Some((ZSET, "zpopmin")),
        "zpopmax" | "bzpopmax" => Some((ZSET, "zpopmax")),
        "zremrangebyscore" => Some((ZSET, "zremrangebyscore")),
        "zremrangebyrank" => Some((ZSET, "zremrangebyrank")),
        "zremrangebylex" => Some((ZSET, "zremrangebylex")),
        "zunionstore" => Some((ZSET, "zunionstore")),
        "zinterstore" => Some((ZSET, "zinterstore")),
        "zdiffstore" => Some((ZSET, "zdiffstore")),
        "zrangestore" => Some((ZSET, "zrangestore")),
        _ => None,
    };
    of_command.unwrap_or(match effect {
        b"APPEND" => (STRING, "append"),
        b"SETRANGE" => (STRING, "setrange"),
        b"HSET" => (HASH, "hset"),
        b"HDEL" => (HASH, "hdel"),
        b"SADD" => (SET, "sadd"),
        b"SREM" => (SET, "srem"),
        b"LPUSH" => (LIST, "lpush"),
        b"RPUSH" => (LIST, "rpush"),
        b"LPOP" => (LIST, "lpop"),
        b"RPOP" => (LIST, "rpop"),
        b"LSET" => (LIST, "lset"),
        b"LTRIM" => (LIST, "ltrim"),
        b"LINSERT" => (LIST, "linsert"),
        b"LREM" => (LIST, "lrem"),
        b"ZADD" => (ZSET, "zadd"),
        b"ZREM" => (ZSET, "zrem"),
        _ => (STRING, "set"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_read_and_print_as_in_redis() {
        let table = [
            ("", ""),
            ("KEA", "AKE"),
            ("AKE", "AKE"),
            ("Kx", "xK"),
            ("g$lshzxetdKE", "AKE"),
            ("AKEnm", "AnKEm"),
            ("En", "nE"),
        ];
        for (text, printed) in table {
            assert_eq!(parse(text).map(format).as_deref(), Some(printed), "{text}");
        }
        assert_eq!(parse("Kq"), None);
    }

    #[test]
    fn events_are_named_by_command_and_effect() {
        let table: [(&str, &[u8], bool, &str); 12] = [
            ("set", b"SET", false, "set"),
            ("incr", b"SET", false, "incrby"),
            ("getdel", b"DEL", false, "del"),
            ("rename", b"DEL", false, "rename_from"),
            ("rename", b"SET", true, "rename_to"),
            ("lmove", b"LPOP", false, "lpop"),
            ("lmove", b"RPUSH", false, "rpush"),
            ("zincrby", b"ZADD", false, "zincr"),
            ("zpopmin", b"ZREM", false, "zpopmin"),
            ("expire", b"PEXPIREAT", false, "expire"),
            ("sort", b"", true, "sortstore"),
            ("getex", b"PERSIST", false, "persist"),
        ];
        for (command, effect, item, name) in table {
            assert_eq!(event(command, effect, item).1, name, "{command}");
        }
    }
}
