//! `COMMAND`, and the `HELP` of containers: the table about itself.

use super::errors::{SYNTAX, wrong_arity};
use super::table::{Command, Entry, Flags, Group, KeySpec, TABLE};
use super::{Context, Stop, dispatch, glob};
use crate::protocol::number::parse_i64;
use crate::protocol::{Args, Reply};

const SHOW: Flags = Flags::LOADING.and(Flags::STALE);

const fn sub(name: &'static str, arity: i16, handler: super::Handler) -> Command {
    Command::new(name, arity, Group::Server, handler).flags(SHOW)
}

/// The `HELP` of a container.
pub const HELP: Command = sub("help", 2, help).doc(
    "5.0.0",
    "O(1)",
    "Returns helpful text about the different subcommands.",
);

pub const COMMANDS: &[Command] = &[sub("command", -1, all)
    .doc(
        "2.8.13",
        "O(N) where N is the total number of commands",
        "Returns detailed information about all commands.",
    )
    .with(&[
        sub("count", 2, count).doc("2.8.13", "O(1)", "Returns a count of commands."),
        sub("docs", -2, docs).doc(
            "7.0.0",
            "O(N) where N is the number of commands to look up",
            "Returns documentary information about one, multiple or all commands.",
        ),
        sub("info", -2, info).doc(
            "2.8.13",
            "O(N) where N is the number of commands to look up",
            "Returns information about one, multiple or all commands.",
        ),
        sub("list", -2, list).doc(
            "7.0.0",
            "O(N) where N is the total number of commands",
            "Returns a list of command names.",
        ),
        sub("getkeys", -4, getkeys).doc(
            "2.8.13",
            "O(N) where N is the number of arguments to the command",
            "Extracts the key names from an arbitrary command.",
        ),
        HELP,
    ])];

/// Where a command's keys are among its arguments.
pub fn key_positions(spec: KeySpec, arguments: usize) -> impl Iterator<Item = usize> {
    let (first, arguments) = (i64::from(spec.first), arguments as i64);
    let last = match i64::from(spec.last) {
        last if last < 0 => arguments + last,
        last => last.min(arguments - 1),
    };
    let step = usize::from(spec.step.max(1).unsigned_abs());
    let last = if first == 0 { -1 } else { last };
    (first..=last).step_by(step).map(|i| i as usize)
}

/// Where its keys are among the arguments of a command; an argument that should say how many there are and does not makes it have none there.
pub fn keys_of(command: &Command, args: Args<'_>) -> Vec<usize> {
    let mut keys: Vec<usize> = key_positions(command.keys, args.len()).collect();
    keys.extend(counted_keys(command, args).into_iter().flatten());
    if command.name == "sort" {
        keys.extend(stored_by_sort(args));
    }
    keys
}

/// The key after the last STORE of a `SORT`; as in Redis, that key may be such a word itself.
fn stored_by_sort(args: Args<'_>) -> Option<usize> {
    let (mut at, mut stored) = (2, None);
    while let Some(word) = args.get(at) {
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        if is(b"STORE") && at + 1 < args.len() {
            stored = Some(at + 1);
        }
        at += match () {
            () if is(b"LIMIT") => 3,
            () if is(b"GET") || is(b"BY") => 2,
            () => 1,
        };
    }
    stored
}

/// Those that an argument counts. None: it says no such number.
fn counted_keys(command: &Command, args: Args<'_>) -> Option<std::ops::RangeInclusive<usize>> {
    let at = usize::from(command.key_count_at);
    let count = args.get(at).filter(|_| at > 0).and_then(parse_i64)?;
    let count = usize::try_from(count).ok()?;
    (count > 0 && count < args.len() - at).then_some(at + 1..=at + count)
}

/// ACL categories, as Redis derives them.
fn categories(command: &Command) -> Vec<&'static str> {
    let flags = command.flags;
    let mut names = Vec::new();
    match command.group {
        Group::Generic => names.push("@keyspace"),
        Group::String => names.push("@string"),
        Group::Hash => names.push("@hash"),
        Group::List => names.push("@list"),
        Group::Set => names.push("@set"),
        Group::SortedSet => names.push("@sortedset"),
        Group::Bitmap => names.push("@bitmap"),
        Group::HyperLogLog => names.push("@hyperloglog"),
        Group::Connection => names.push("@connection"),
        Group::PubSub => names.push("@pubsub"),
        Group::Transactions => names.push("@transaction"),
        Group::Scripting => names.push("@scripting"),
        Group::Server | Group::Cluster => {}
    }
    let by_flag = [
        (flags.has(Flags::WRITE), "@write"),
        (flags.has(Flags::READONLY), "@read"),
        (flags.has(Flags::ADMIN), "@admin"),
        (
            flags.has(Flags::ADMIN) || flags.has(Flags::DANGEROUS),
            "@dangerous",
        ),
        (flags.has(Flags::BLOCKING), "@blocking"),
        (flags.has(Flags::FAST), "@fast"),
        (!flags.has(Flags::FAST), "@slow"),
    ];
    names.extend(
        by_flag
            .into_iter()
            .filter(|(yes, _)| *yes)
            .map(|(_, name)| name),
    );
    names
}

fn describe(reply: &mut Reply<'_>, entry: &Entry) {
    let command = entry.command;
    let KeySpec { first, last, step } = command.keys;
    reply.array(10);
    reply.text(&entry.full_name);
    reply.integer(i64::from(command.arity));
    let flags: Vec<&str> = command.flags.names().collect();
    reply.set(flags.len());
    flags.iter().for_each(|flag| reply.simple(flag));
    for n in [first, last, step] {
        reply.integer(i64::from(n));
    }
    let categories = categories(command);
    reply.set(categories.len());
    categories
        .iter()
        .for_each(|category| reply.simple(category));
    // Tips.
    reply.array(0);
    if first == 0 {
        reply.array(0);
    } else {
        reply.array(1);
        key_spec(reply, command);
    }
    reply.array(entry.subcommands.len());
    TABLE.entries[entry.subcommands.clone()]
        .iter()
        .for_each(|sub| describe(reply, sub));
}

/// A key specification of Redis 7: where the keys begin and which they are.
fn key_spec(reply: &mut Reply<'_>, command: &Command) {
    let KeySpec { first, last, step } = command.keys;
    let write = command.flags.has(Flags::WRITE);
    reply.map(3);
    reply.text("flags");
    reply.set(2);
    reply.simple(if write { "RW" } else { "RO" });
    reply.simple(if write { "update" } else { "access" });
    reply.text("begin_search");
    reply.map(2);
    reply.text("type");
    reply.text("index");
    reply.text("spec");
    reply.map(1);
    reply.text("index");
    reply.integer(i64::from(first));
    reply.text("find_keys");
    reply.map(2);
    reply.text("type");
    reply.text("range");
    reply.text("spec");
    reply.map(3);
    reply.text("lastkey");
    // Relative to the first.
    reply.integer(i64::from(if last > 0 { last - first } else { last }));
    reply.text("keystep");
    reply.integer(i64::from(step));
    reply.text("limit");
    reply.integer(0);
}

fn all(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    context.reply.array(TABLE.commands().count());
    TABLE
        .commands()
        .for_each(|entry| describe(&mut context.reply, entry));
    Ok(())
}

fn count(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    context.reply.integer(TABLE.commands().count() as i64);
    Ok(())
}

/// The entry of `name` or `container|name`.
pub fn by_full_name(name: &[u8]) -> Option<&'static Entry> {
    match name.iter().position(|&b| b == b'|') {
        None => TABLE.find(name),
        Some(bar) => TABLE.find_subcommand(TABLE.find(&name[..bar])?, &name[bar + 1..]),
    }
}

fn info(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    if args.len() == 2 {
        return all(context, args);
    }
    context.reply.array(args.len() - 2);
    for name in args.from(2).iter() {
        match by_full_name(name) {
            Some(entry) => describe(&mut context.reply, entry),
            None => context.reply.null_array(),
        }
    }
    Ok(())
}

fn docs(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let entries: Vec<&Entry> = match args.len() {
        2 => TABLE.commands().collect(),
        _ => args.from(2).iter().filter_map(by_full_name).collect(),
    };
    context.reply.map(entries.len());
    for entry in entries {
        document(&mut context.reply, entry);
    }
    Ok(())
}

fn document(reply: &mut Reply<'_>, entry: &Entry) {
    let command = entry.command;
    let subcommands = &TABLE.entries[entry.subcommands.clone()];
    reply.text(&entry.full_name);
    reply.map(4 + usize::from(!subcommands.is_empty()));
    for (field, text) in [
        ("summary", command.summary),
        ("since", command.since),
        ("group", command.group.name()),
        ("complexity", command.complexity),
    ] {
        reply.text(field);
        reply.text(text);
    }
    if !subcommands.is_empty() {
        reply.text("subcommands");
        reply.map(subcommands.len());
        subcommands.iter().for_each(|sub| document(reply, sub));
    }
}

fn list(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let chosen: Vec<&Entry> = match args.len() {
        2 => TABLE.entries.iter().collect(),
        5 if args.at(2).eq_ignore_ascii_case(b"FILTERBY") => filtered(args.at(3), args.at(4))?,
        _ => return Err(SYNTAX.into()),
    };
    context.reply.set(chosen.len());
    chosen
        .iter()
        .for_each(|entry| context.reply.text(&entry.full_name));
    Ok(())
}

fn filtered(by: &[u8], value: &[u8]) -> Result<Vec<&'static Entry>, Stop> {
    let entries = TABLE.entries.iter();
    Ok(match by.to_ascii_uppercase().as_slice() {
        // There are no modules.
        b"MODULE" => Vec::new(),
        b"ACLCAT" => {
            let category = format!("@{}", String::from_utf8_lossy(value).to_lowercase());
            entries
                .filter(|e| categories(e.command).contains(&category.as_str()))
                .collect()
        }
        b"PATTERN" => entries
            .filter(|e| glob::matches(value, e.full_name.as_bytes(), true))
            .collect(),
        _ => return Err(SYNTAX.into()),
    })
}

fn getkeys(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let command = args.from(2);
    let entry = dispatch::find(command).map_err(|_| "ERR Invalid command specified")?;
    if entry.command.keys.first == 0 && entry.command.key_count_at == 0 {
        return Err("ERR The command has no key arguments".into());
    }
    if !entry.command.takes(command.len()) {
        return Err("ERR Invalid number of arguments specified for command".into());
    }
    if entry.command.key_count_at > 0 && counted_keys(entry.command, command).is_none() {
        if entry.command.flags.has(Flags::NO_MANDATORY_KEYS) {
            context.reply.array(0);
            return Ok(());
        }
        return Err("ERR Invalid arguments specified for command".into());
    }
    let keys = keys_of(entry.command, command);
    context.reply.array(keys.len());
    keys.iter().for_each(|&i| context.reply.bulk(command.at(i)));
    Ok(())
}

fn help(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let (container, _) = context.name.split_once('|').unwrap_or((context.name, ""));
    let entry = TABLE
        .find(container.as_bytes())
        .ok_or_else(|| wrong_arity(context.name))?;
    let subcommands = &TABLE.entries[entry.subcommands.clone()];
    context.reply.array(1 + subcommands.len() * 2);
    let head = format!(
        "{} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        container.to_uppercase()
    );
    context.reply.simple(&head);
    for sub in subcommands {
        context.reply.simple(&sub.command.name.to_uppercase());
        context
            .reply
            .simple(&format!("    {}", sub.command.summary));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_where_the_table_says() {
        let positions = |name: &str, arguments| -> Vec<usize> {
            let entry = TABLE.find(name.as_bytes()).unwrap();
            key_positions(entry.command.keys, arguments).collect()
        };
        assert_eq!(positions("get", 2), [1]);
        assert_eq!(positions("del", 4), [1, 2, 3]);
        assert_eq!(positions("mset", 5), [1, 3]);
        assert_eq!(positions("rename", 3), [1, 2]);
        assert_eq!(positions("ping", 1), [0usize; 0]);
        assert_eq!(positions("copy", 4), [1, 2]);
    }

    #[test]
    fn every_command_is_found_and_documented() {
        for entry in TABLE.commands() {
            let upper = entry.command.name.to_uppercase();
            let found = TABLE.find(upper.as_bytes()).unwrap();
            assert_eq!(found.index, entry.index);
        }
        for entry in &TABLE.entries {
            assert!(!entry.command.summary.is_empty(), "{}", entry.full_name);
            assert!(by_full_name(entry.full_name.as_bytes()).is_some());
            // A command that writes has keys, or is about all of them.
            let writes = entry.command.flags.has(Flags::WRITE);
            let has_keys = entry.command.keys.first > 0 || entry.command.key_count_at > 0;
            assert!(!writes || has_keys || entry.full_name.starts_with("flush"));
        }
        assert!(TABLE.find(b"").is_none() && TABLE.find(&[b'x'; 1000]).is_none());
    }
}
