//! Commands on the node.

use super::errors::SYNTAX;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::node::now_us;
use crate::protocol::Args;

const FLUSH: Flags = Flags::WRITE.and(Flags::DANGEROUS).and(Flags::WHOLE);

pub const COMMANDS: &[Command] = &[
    Command::new("flushall", -1, Group::Server, flush)
        .flags(FLUSH)
        .doc(
            "1.0.0",
            "O(N) where N is the number of keys; ASYNC frees them in the background",
            "Removes all keys.",
        ),
    Command::new("flushdb", -1, Group::Server, flush)
        .flags(FLUSH)
        .doc(
            "1.0.0",
            "O(N) where N is the number of keys; ASYNC frees them in the background",
            "Removes all keys.",
        ),
    Command::new("time", 1, Group::Server, time)
        .flags(Flags::LOADING.and(Flags::STALE).and(Flags::FAST))
        .doc("2.6.0", "O(1)", "Returns the server time."),
    Command::new("info", -1, Group::Server, info)
        .flags(
            Flags::LOADING
                .and(Flags::STALE)
                .and(Flags::DANGEROUS)
                .and(Flags::WHOLE),
        )
        .doc(
            "1.0.0",
            "O(1)",
            "Returns information and statistics about the server.",
        ),
    Command::new("shutdown", -1, Group::Server, shutdown)
        .flags(
            Flags::ADMIN
                .and(Flags::NOSCRIPT)
                .and(Flags::LOADING)
                .and(Flags::STALE)
                .and(Flags::NO_MULTI)
                .and(Flags::ALLOW_BUSY),
        )
        .doc(
            "1.0.0",
            "O(1)",
            "Shuts a standalone server down. A member of a cluster refuses it.",
        ),
    Command::new("role", 1, Group::Server, role)
        .flags(
            Flags::NOSCRIPT
                .and(Flags::LOADING)
                .and(Flags::STALE)
                .and(Flags::FAST),
        )
        .doc("2.8.12", "O(1)", "Returns the replication role."),
    Command::new("memory", -2, Group::Server, container)
        .doc(
            "4.0.0",
            "Depends on subcommand.",
            "A container for memory diagnostics commands.",
        )
        .with(&[
            Command::new("usage", -3, Group::Server, memory_usage)
                .flags(Flags::READONLY)
                .keys(2, 2, 1)
                .doc("4.0.0", "O(1)", "Estimates the memory usage of a key."),
            super::introspect::HELP,
        ]),
];

fn container(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    Err(super::errors::wrong_arity(context.name))
}

fn flush(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let is_async = match (args.get(1), args.len()) {
        (None, _) => false,
        (Some(word), 2) if word.eq_ignore_ascii_case(b"SYNC") => false,
        (Some(word), 2) if word.eq_ignore_ascii_case(b"ASYNC") => true,
        _ => return Err(SYNTAX.into()),
    };
    let (mut guard, slots) = context.lock_for_flush()?;
    match slots {
        None => guard.clear_all(),
        Some(slots) => guard.flush_slots(&slots),
    }
    drop(guard);
    if !is_async {
        // The memory is free when the reply comes.
        context.node.store.free_garbage();
    }
    context.reply.ok();
    Ok(())
}

fn time(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let now = now_us();
    context.reply.array(2);
    context.reply.text(&(now / 1_000_000).to_string());
    context.reply.text(&(now % 1_000_000).to_string());
    Ok(())
}

fn info(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let sections: Vec<String> = args
        .from(1)
        .iter()
        .map(|s| String::from_utf8_lossy(s).to_lowercase())
        .collect();
    let keys = super::scan::count_keys(context)?;
    let text = super::info::info(context.node, &sections, keys);
    context.reply.verbatim(&text);
    Ok(())
}

fn shutdown(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    if context.node.is_cluster() {
        // An application's password must not take members away from under the operator.
        return Err("ERR SHUTDOWN is not for applications on a member of a cluster: ask its control port (CACHE.NODE SHUTDOWN), or send SIGTERM".into());
    }
    for word in args.from(1).iter() {
        match word.to_ascii_uppercase().as_slice() {
            b"NOSAVE" => {}
            b"NOW" | b"FORCE" | b"SAVE" => {
                return Err("ERR SHUTDOWN knows NOSAVE only: data is in memory, and a stop always waits for clients and replicas".into());
            }
            b"ABORT" => return Err("ERR No shutdown in progress.".into()),
            _ => return Err(SYNTAX.into()),
        }
    }
    context.node.shutdown_wanted.notify_one();
    // As in Redis there is no reply: the connection ends with the process.
    Ok(())
}

fn role(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let state = context.node.cluster.state();
    let reply = &mut context.reply;
    if state.role.follows() {
        let routing = context.node.cluster.routing();
        let primary = routing
            .nodes()
            .find(|(_, node, _)| node.member == state.sync.primary);
        let (host, port) = primary.map_or((String::new(), 0), |(_, n, _)| (n.host.clone(), n.port));
        reply.array(5);
        reply.text("slave");
        reply.text(&host);
        reply.integer(i64::from(port));
        reply.text(super::info::link(&state));
        reply.unsigned(state.offset);
        return Ok(());
    }
    let routing = context.node.cluster.routing();
    let replicas: Vec<_> = state.replicas.iter().filter(|r| r.synced).collect();
    reply.array(3);
    reply.text("master");
    reply.unsigned(state.offset);
    reply.array(replicas.len());
    for replica in replicas {
        let node = routing
            .nodes()
            .find(|(_, node, _)| node.member == replica.member);
        reply.array(3);
        reply.text(node.map_or(replica.member.as_str(), |(_, n, _)| n.host.as_str()));
        reply.text(&node.map_or(0, |(_, n, _)| n.port).to_string());
        reply.text(&replica.offset.to_string());
    }
    Ok(())
}

fn memory_usage(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    /// What an item's place in its table takes, on average.
    const ENTRY: u64 = 8;
    match (args.get(3), args.get(4), args.len()) {
        (None, ..) => {}
        (Some(word), Some(samples), 5) if word.eq_ignore_ascii_case(b"SAMPLES") => {
            // What an item takes is known exactly: there is nothing to sample.
            crate::protocol::number::parse_u64(samples).ok_or(super::errors::NOT_INTEGER)?;
        }
        _ => return Err(SYNTAX.into()),
    }
    let key = args.at(2);
    let (mut guard, p) = context.read(key)?;
    match guard.get(p, key, context.now_ms) {
        None => context.reply.null(),
        Some(item) => context.reply.unsigned(item.bytes() as u64 + ENTRY),
    }
    Ok(())
}
