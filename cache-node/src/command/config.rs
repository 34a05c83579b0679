//! `CONFIG`: what can be asked, and what can be changed while the node runs.

use std::sync::atomic::Ordering;

use super::errors::wrong_arity;
use super::introspect::HELP;
use super::table::{Command, Flags, Group};
use super::{Context, Stop, glob};
use crate::config::units::parse_bytes;
use crate::limits::{
    BULK_MAX, COMPRESSION_VALUE_MAX, EVICTION_SAMPLES, INPUT_MAX, OTHER_FILES, SLOWLOG_LENGTH_MAX,
};
use crate::node::{Node, extra};
use crate::protocol::Args;
use crate::protocol::number::parse_i64;
use crate::store::compress::Method;
use crate::store::{PolicyKind, notify};

const ADMIN: Flags = Flags::ADMIN
    .and(Flags::NOSCRIPT)
    .and(Flags::LOADING)
    .and(Flags::STALE);

const fn sub(name: &'static str, arity: i16, handler: super::Handler) -> Command {
    Command::new(name, arity, Group::Server, handler)
}

pub const COMMANDS: &[Command] = &[sub("config", -2, container)
    .doc(
        "2.0.0",
        "Depends on subcommand.",
        "A container for server configuration commands.",
    )
    .with(&[
        sub("get", -3, get).flags(ADMIN).doc(
            "2.0.0",
            "O(N) when N is the number of configuration parameters provided",
            "Returns the effective values of configuration parameters.",
        ),
        sub("set", -4, set).flags(ADMIN.and(Flags::WHOLE)).doc(
            "2.0.0",
            "O(N) when N is the number of configuration parameters provided",
            "Sets configuration parameters in-flight.",
        ),
        sub("resetstat", 2, resetstat).flags(ADMIN).doc(
            "2.0.0",
            "O(1)",
            "Resets the server's statistics.",
        ),
        sub("rewrite", 2, rewrite).flags(ADMIN).doc(
            "2.8.0",
            "O(1)",
            "There is no configuration file: answers an error.",
        ),
        HELP,
    ])];

/// A parameter: its value now, and how it is set; None: it cannot be while the node runs.
struct Parameter {
    name: &'static str,
    value: fn(&Node) -> String,
    set: Option<Set>,
}

/// A limit of the packed encodings, by its field.
macro_rules! packing {
    ($name:literal, $field:ident) => {
        Parameter {
            name: $name,
            value: |n| n.store.packing.$field.load(Ordering::Relaxed).to_string(),
            set: Some(|_, text| number(text, 0, i64::MAX as u64)),
        }
    };
}

/// Checks a value and gives what puts it into force, or what is wrong with it.
type Set = fn(&Node, &str) -> Result<u64, String>;

fn flag_value(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

/// Milliseconds after which a script takes long.
const BUSY_THRESHOLD: Parameter = Parameter {
    name: "busy-reply-threshold",
    value: |n| {
        n.scripting
            .running
            .threshold_ms
            .load(Ordering::Relaxed)
            .to_string()
    },
    set: Some(|_, text| number(text, 0, i64::MAX as u64)),
};

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "appendonly",
        value: |_| flag_value(false),
        set: Some(|_, text| match text.eq_ignore_ascii_case("no") {
            true => Ok(0),
            false => Err("data is in memory: there is no such file, only 'no' is possible".into()),
        }),
    },
    Parameter {
        name: "bind",
        value: |n| n.config.bind.to_string(),
        set: Some(|n, text| unchanged(&n.config.bind.to_string(), text)),
    },
    BUSY_THRESHOLD,
    Parameter {
        name: "client-query-buffer-limit",
        value: |n| n.settings.input_max.load(Ordering::Relaxed).to_string(),
        set: Some(|_, text| {
            let bytes = parse_bytes(text).map_err(|_| "argument must be a memory value")?;
            between(bytes, 1 << 20, INPUT_MAX as u64)
        }),
    },
    Parameter {
        name: "client-output-buffer-limit",
        value: |n| {
            format!(
                "normal 0 0 0 slave 0 0 0 pubsub {}",
                n.settings.pubsub_output.text()
            )
        },
        set: Some(|_, text| output_limit(text).map(|_| 0)),
    },
    Parameter {
        name: "cluster-enabled",
        value: |n| flag_value(n.is_cluster()),
        set: None,
    },
    Parameter {
        name: "compression",
        value: |n| n.store.compression.setting().method.to_string(),
        set: Some(|_, text| text.parse::<Method>().map(Method::number)),
    },
    Parameter {
        name: "compression-min-size",
        value: |n| n.store.compression.setting().min_size.to_string(),
        set: Some(|_, text| {
            let bytes = parse_bytes(text).map_err(|_| "argument must be a memory value")?;
            between(bytes, 1, COMPRESSION_VALUE_MAX as u64)
        }),
    },
    Parameter {
        name: "daemonize",
        value: |_| flag_value(false),
        set: None,
    },
    Parameter {
        name: "databases",
        value: |_| "1".into(),
        set: None,
    },
    Parameter {
        name: "enable-debug-command",
        value: |n| n.config.enable_debug_command.name().into(),
        set: None,
    },
    packing!("hash-max-listpack-entries", hash_entries),
    packing!("hash-max-listpack-value", hash_value),
    packing!("hash-max-ziplist-entries", hash_entries),
    packing!("hash-max-ziplist-value", hash_value),
    Parameter {
        name: "hll-sparse-max-bytes",
        value: |n| {
            n.settings
                .hll_sparse_max
                .load(Ordering::Relaxed)
                .to_string()
        },
        set: Some(|_, text| {
            parse_bytes(text).map_err(|_| "argument must be a memory value".into())
        }),
    },
    Parameter {
        name: "io-threads",
        value: |n| n.config.threads().to_string(),
        set: None,
    },
    Parameter {
        name: "latency-monitor-threshold",
        value: |n| n.slow.latency_ms.load(Ordering::Relaxed).to_string(),
        set: Some(|_, text| number(text, 0, i64::MAX as u64)),
    },
    Parameter {
        name: "latency-tracking",
        value: |n| flag_value(n.slow.tracks.load(Ordering::Relaxed)),
        set: Some(|_, text| yes_no(text).map(u64::from)),
    },
    Parameter {
        name: "list-max-listpack-size",
        value: |n| {
            n.store
                .packing
                .list_size
                .load(Ordering::Relaxed)
                .to_string()
        },
        set: Some(|_, text| signed(text, i64::from(i32::MIN), i64::from(i32::MAX))),
    },
    Parameter {
        name: "list-max-ziplist-size",
        value: |n| {
            n.store
                .packing
                .list_size
                .load(Ordering::Relaxed)
                .to_string()
        },
        set: Some(|_, text| signed(text, i64::from(i32::MIN), i64::from(i32::MAX))),
    },
    Parameter {
        name: "lua-time-limit",
        ..BUSY_THRESHOLD
    },
    Parameter {
        name: "maxclients",
        value: |n| n.settings.max_clients.load(Ordering::Relaxed).to_string(),
        set: Some(|_, text| file_limit_for(number(text, 1, u64::from(u32::MAX))?)),
    },
    Parameter {
        name: "maxmemory",
        value: |n| n.store.stats().max_bytes.to_string(),
        set: Some(|node, text| {
            let bytes = parse_bytes(text).map_err(|_| "argument must be a memory value")?;
            within_flag(node, bytes)
        }),
    },
    Parameter {
        name: "maxmemory-clients",
        value: |_| "0".into(),
        set: Some(|_, text| match text.strip_suffix('%').map(str::parse) {
            Some(Ok(101u64..)) => Err("percentage argument must be less or equal to 100".into()),
            None if text == "0" => Ok(0),
            _ => Err("connections have no limit of their own: only 0 is possible".into()),
        }),
    },
    Parameter {
        name: "maxmemory-policy",
        value: |n| n.store.policy().name().into(),
        set: Some(|_, text| match PolicyKind::named(text) {
            Some(kind) => Ok(kind as u64),
            None => {
                let names = PolicyKind::ALL.map(|(_, name)| name).join(", ");
                Err(format!("argument(s) must be one of the following: {names}"))
            }
        }),
    },
    Parameter {
        name: "maxmemory-samples",
        value: |_| EVICTION_SAMPLES.to_string(),
        set: Some(|_, text| unchanged(&EVICTION_SAMPLES.to_string(), text)),
    },
    Parameter {
        name: "notify-keyspace-events",
        value: |n| notify::format(n.store.notify_classes()),
        set: Some(|_, text| {
            let classes = notify::parse(text)
                .ok_or("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")?;
            Ok(u64::from(classes))
        }),
    },
    Parameter {
        name: "port",
        value: |n| n.port().to_string(),
        set: Some(|n, text| unchanged(&n.port().to_string(), text)),
    },
    Parameter {
        name: "proto-max-bulk-len",
        value: |n| n.settings.bulk_max.load(Ordering::Relaxed).to_string(),
        set: Some(|_, text| {
            let bytes = parse_bytes(text).map_err(|_| "argument must be a memory value")?;
            between(bytes, 1 << 20, BULK_MAX as u64)
        }),
    },
    Parameter {
        name: "replicaof",
        value: |_| String::new(),
        set: None,
    },
    Parameter {
        name: "save",
        value: |_| String::new(),
        set: Some(|_, text| match text.is_empty() {
            true => Ok(0),
            false => Err("data is in memory: nothing is saved, only '' is possible".into()),
        }),
    },
    packing!("set-max-intset-entries", set_ints),
    packing!("set-max-listpack-entries", set_entries),
    packing!("set-max-listpack-value", set_value),
    Parameter {
        name: "slaveof",
        value: |_| String::new(),
        set: None,
    },
    Parameter {
        name: "slowlog-log-slower-than",
        value: |n| n.slow.threshold_us.load(Ordering::Relaxed).to_string(),
        set: Some(|_, text| signed(text, -1, i64::MAX)),
    },
    Parameter {
        name: "slowlog-max-len",
        value: |n| n.slow.length.load(Ordering::Relaxed).to_string(),
        set: Some(|_, text| number(text, 0, SLOWLOG_LENGTH_MAX)),
    },
    Parameter {
        name: "tcp-keepalive",
        value: |n| n.settings.keepalive_s.load(Ordering::Relaxed).to_string(),
        set: Some(|_, text| number(text, 0, i32::MAX as u64)),
    },
    Parameter {
        name: "timeout",
        value: |n| n.settings.timeout_s.load(Ordering::Relaxed).to_string(),
        set: Some(|_, text| number(text, 0, i32::MAX as u64)),
    },
    Parameter {
        name: "tracking-table-max-keys",
        value: |n| {
            n.store
                .tracking
                .keys_max
                .load(Ordering::Relaxed)
                .to_string()
        },
        set: Some(|_, text| number(text, 0, i64::MAX as u64)),
    },
    packing!("zset-max-listpack-entries", zset_entries),
    packing!("zset-max-listpack-value", zset_value),
    packing!("zset-max-ziplist-entries", zset_entries),
    packing!("zset-max-ziplist-value", zset_value),
];

/// A member's memory is what its operator made room for: an application may ask for less, not for more.
fn within_flag(node: &Node, bytes: u64) -> Result<u64, String> {
    let most = node.config.max_memory;
    if !node.is_cluster() || most == 0 || (1..=most).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!(
        "a member of a cluster may not take more than the {most} bytes of --max-memory: set no more, or raise the Cache's spec.policy.maxMemoryPerShard or memory limit"
    ))
}

/// What Redis changes while it runs, and a node at its start only.
fn unchanged(now: &str, text: &str) -> Result<u64, String> {
    match now == text {
        true => Ok(0),
        false => Err(format!("it is {now} until the node is started anew")),
    }
}

/// Whether the operating system allows so many connections.
fn file_limit_for(clients: u64) -> Result<u64, String> {
    let refused = |most: u64| {
        format!(
            "The operating system is not able to handle the specified number of clients, try with {most}"
        )
    };
    let wanted = clients + OTHER_FILES;
    let limit = rlimit::increase_nofile_limit(wanted).map_err(|_| refused(0))?;
    match limit < wanted {
        true => Err(refused(limit.saturating_sub(OTHER_FILES))),
        false => Ok(clients),
    }
}

fn yes_no(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("argument must be 'yes' or 'no'".into()),
    }
}

fn number(text: &str, min: u64, max: u64) -> Result<u64, String> {
    let value = parse_i64(text.as_bytes()).ok_or("argument couldn't be parsed into an integer")?;
    // A negative one is below any minimum.
    match u64::try_from(value) {
        Ok(value) => between(value, min, max),
        Err(_) => Err(not_between(min, max)),
    }
}

/// A number that may be negative, as its bits.
fn signed(text: &str, min: i64, max: i64) -> Result<u64, String> {
    let value = parse_i64(text.as_bytes()).ok_or("argument couldn't be parsed into an integer")?;
    match (min..=max).contains(&value) {
        true => Ok(value as u64),
        false => Err(format!(
            "argument must be between {min} and {max} inclusive"
        )),
    }
}

fn between(value: u64, min: u64, max: u64) -> Result<u64, String> {
    match (min..=max).contains(&value) {
        true => Ok(value),
        false => Err(not_between(min, max)),
    }
}

fn not_between(min: u64, max: u64) -> String {
    format!("argument must be between {min} and {max} inclusive")
}

/// What a client may leave unread: `class hard soft seconds`, any number of times. Only what subscribers get waits without their asking.
fn output_limit(text: &str) -> Result<Option<[u64; 3]>, String> {
    const WRONG: &str = "Error in class options for client-output-buffer-limit";
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() || !words.len().is_multiple_of(4) {
        return Err("Wrong number of arguments in buffer limit configuration.".into());
    }
    let mut limit = None;
    for words in words.chunks(4) {
        let bytes = |word: &str| parse_bytes(word).map_err(|_| WRONG);
        let seconds = words[3].parse().map_err(|_| WRONG)?;
        let wanted = [bytes(words[1])?, bytes(words[2])?, seconds];
        match words[0].to_lowercase().as_str() {
            "pubsub" => limit = Some(wanted),
            "normal" | "slave" | "replica" if wanted == [0; 3] => {}
            "normal" | "slave" | "replica" => {
                return Err(format!(
                    "limits of class {} are not supported: a client's commands wait while it does not read, and replicas follow the log",
                    words[0]
                ));
            }
            _ => {
                return Err("Invalid client class specified in buffer limit configuration.".into());
            }
        }
    }
    Ok(limit)
}

fn put_into_force(context: &Context<'_>, name: &str, value: u64, text: &str) -> Result<(), Stop> {
    let node = context.node;
    let settings = &node.settings;
    let packing = &node.store.packing;
    let pack = |limit: &std::sync::atomic::AtomicI64| limit.store(value as i64, Ordering::Relaxed);
    match name {
        "hash-max-listpack-entries" | "hash-max-ziplist-entries" => pack(&packing.hash_entries),
        "hash-max-listpack-value" | "hash-max-ziplist-value" => pack(&packing.hash_value),
        "list-max-listpack-size" | "list-max-ziplist-size" => pack(&packing.list_size),
        "set-max-intset-entries" => pack(&packing.set_ints),
        "set-max-listpack-entries" => pack(&packing.set_entries),
        "set-max-listpack-value" => pack(&packing.set_value),
        "zset-max-listpack-entries" | "zset-max-ziplist-entries" => pack(&packing.zset_entries),
        "zset-max-listpack-value" | "zset-max-ziplist-value" => pack(&packing.zset_value),
        "compression" => node.store.compression.set_method(Method::numbered(value)),
        "compression-min-size" => node.store.compression.set_min_size(value as u32),
        "busy-reply-threshold" | "lua-time-limit" => {
            let running = &node.scripting.running;
            running.threshold_ms.store(value, Ordering::Relaxed);
        }
        "maxclients" => settings.max_clients.store(value as u32, Ordering::Relaxed),
        "maxmemory" => node.store.set_max_memory(value),
        "client-query-buffer-limit" => settings.input_max.store(value, Ordering::Relaxed),
        "proto-max-bulk-len" => settings.bulk_max.store(value, Ordering::Relaxed),
        "hll-sparse-max-bytes" => settings.hll_sparse_max.store(value, Ordering::Relaxed),
        "tcp-keepalive" => settings.keepalive_s.store(value as u32, Ordering::Relaxed),
        "timeout" => {
            settings.timeout_s.store(value as u32, Ordering::Relaxed);
            // Threads that wait without an end begin to look at the time.
            node.wakers.wake_all();
        }
        "maxmemory-policy" => node.store.set_policy(PolicyKind::from_index(value as u8)),
        "client-output-buffer-limit" => {
            if let Ok(Some(limit)) = output_limit(text) {
                settings.pubsub_output.set(limit);
            }
        }
        "notify-keyspace-events" => {
            context.lock_all()?.set_notify_classes(value as u32);
            node.set_extra(extra::NOTIFY, value != 0);
        }
        "slowlog-log-slower-than" => {
            node.slow
                .threshold_us
                .store(value as i64, Ordering::Relaxed);
            node.set_extra(extra::TIMED, node.slow.times_all());
        }
        "slowlog-max-len" => {
            node.slow.length.store(value, Ordering::Relaxed);
            node.slow.trim();
        }
        "latency-tracking" => {
            node.slow.tracks.store(value != 0, Ordering::Relaxed);
            node.set_extra(extra::TIMED, node.slow.times_all());
        }
        "latency-monitor-threshold" => {
            node.slow.latency_ms.store(value, Ordering::Relaxed);
            node.set_extra(extra::TIMED, node.slow.times_all());
        }
        "tracking-table-max-keys" => {
            let mut guard = context.lock_all()?;
            node.store.tracking.keys_max.store(value, Ordering::Relaxed);
            guard.forget_beyond();
        }
        _ => {}
    }
    Ok(())
}

fn container(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    Err(wrong_arity(context.name))
}

fn get(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let asked = |p: &&Parameter| {
        let name = p.name.as_bytes();
        args.from(2)
            .iter()
            .any(|pattern| glob::matches(pattern, name, true))
    };
    let node = context.node;
    context.reply.map(PARAMETERS.iter().filter(asked).count());
    for parameter in PARAMETERS.iter().filter(asked) {
        context.reply.text(parameter.name);
        context.reply.text(&(parameter.value)(node));
    }
    Ok(())
}

fn set(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    if !args.len().is_multiple_of(2) {
        return Err(wrong_arity(context.name));
    }
    let mut values: Vec<(&'static str, u64, String)> = Vec::new();
    for i in (2..args.len()).step_by(2) {
        let name = super::dispatch::shown(args.at(i), 128);
        let Some(parameter) = PARAMETERS
            .iter()
            .find(|p| p.name.eq_ignore_ascii_case(&name))
        else {
            return Err(format!(
                "ERR Unknown option or number of arguments for CONFIG SET - '{name}'"
            )
            .into());
        };
        let failed = |why: &str| -> Stop {
            format!(
                "ERR CONFIG SET failed (possibly related to argument '{}') - {why}",
                parameter.name
            )
            .into()
        };
        if values.iter().any(|(n, ..)| *n == parameter.name) {
            return Err(failed("duplicate parameter"));
        }
        let check = parameter
            .set
            .ok_or_else(|| failed("can't set immutable config"))?;
        let text = String::from_utf8_lossy(args.at(i + 1));
        let value = check(context.node, &text).map_err(|why| failed(&why))?;
        values.push((parameter.name, value, text.into_owned()));
    }
    // All or none: nothing fails from here on.
    for (name, value, text) in values {
        put_into_force(context, name, value, &text)?;
    }
    context.reply.ok();
    Ok(())
}

fn resetstat(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    context.node.stats.reset();
    context.node.slow.histograms.reset();
    context.reply.ok();
    Ok(())
}

fn rewrite(_: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    Err("ERR The server is running without a config file".into())
}
