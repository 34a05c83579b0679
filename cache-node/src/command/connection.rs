//! Commands on the connection itself.

use super::errors::{CLUSTER_DISABLED, DB_OUT_OF_RANGE, WRONG_PASSWORD, database, wrong_arity};
use super::table::{Command, Flags, Group};
use super::{Context, Stop, client};
use crate::cluster::role::Role;
use crate::protocol::Args;
use crate::protocol::number::parse_i64;

/// The version of Redis whose commands and texts these are; clients look at it.
pub const REDIS_VERSION: &str = "7.2.0";

const ALWAYS: Flags = Flags::NOSCRIPT
    .and(Flags::LOADING)
    .and(Flags::STALE)
    .and(Flags::FAST)
    .and(Flags::NO_AUTH)
    .and(Flags::ALLOW_BUSY);
const FAST: Flags = Flags::LOADING.and(Flags::STALE).and(Flags::FAST);

pub const COMMANDS: &[Command] = &[
    Command::new("ping", -1, Group::Connection, ping)
        .flags(Flags::FAST.and(Flags::SUBSCRIBED))
        .doc("1.0.0", "O(1)", "Returns the server's liveliness response."),
    Command::new("echo", 2, Group::Connection, echo)
        .flags(FAST)
        .doc("1.0.0", "O(1)", "Returns the given string."),
    Command::new("auth", -2, Group::Connection, auth)
        .flags(ALWAYS)
        .doc("1.0.0", "O(N) where N is the number of passwords defined for the user", "Authenticates the connection."),
    Command::new("hello", -1, Group::Connection, hello)
        .flags(ALWAYS)
        .doc("6.0.0", "O(1)", "Handshakes with the server."),
    Command::new("select", 2, Group::Connection, select)
        .flags(FAST)
        .doc("1.0.0", "O(1)", "Changes the selected database. There is database 0 only."),
    Command::new("quit", -1, Group::Connection, quit)
        .flags(ALWAYS.and(Flags::UNQUEUED).and(Flags::SUBSCRIBED))
        .doc("1.0.0", "O(1)", "Closes the connection."),
    Command::new("reset", 1, Group::Connection, reset)
        .flags(ALWAYS.and(Flags::UNQUEUED).and(Flags::SUBSCRIBED))
        .doc("6.2.0", "O(1)", "Resets the connection."),
    Command::new("readonly", 1, Group::Cluster, readonly)
        .flags(FAST)
        .doc("3.0.0", "O(1)", "Enables read-only queries for a connection to a replica."),
    Command::new("readwrite", 1, Group::Cluster, readwrite)
        .flags(FAST)
        .doc("3.0.0", "O(1)", "Enables read-write queries for a connection to a replica."),
    Command::new("asking", 1, Group::Cluster, asking)
        .flags(Flags::FAST)
        .doc("3.0.0", "O(1)", "Signals that a redirection was followed. This server never answers ASK, so nothing follows from it."),
];

fn ping(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let subscribed = context.session.subscriptions.is_some() && !context.session.resp3;
    match args.len() {
        1 | 2 if subscribed => {
            context.reply.array(2);
            context.reply.text("pong");
            context.reply.bulk(args.get(1).unwrap_or_default());
        }
        1 => context.reply.simple("PONG"),
        2 => context.reply.bulk(args.at(1)),
        _ => return Err(wrong_arity(context.name)),
    }
    Ok(())
}

fn echo(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    context.reply.bulk(args.at(1));
    Ok(())
}

fn auth(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    match args.len() {
        2 if context.node.passwords.is_none() => {
            return Err("ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?".into());
        }
        2 => authenticate(context, b"default", args.at(1))?,
        3 => authenticate(context, args.at(1), args.at(2))?,
        _ => return Err(super::errors::SYNTAX.into()),
    }
    context.reply.ok();
    Ok(())
}

fn authenticate(context: &mut Context<'_>, user: &[u8], password: &[u8]) -> Result<(), Stop> {
    // Without passwords the default user is let in with any, as in Redis.
    let right = context
        .node
        .passwords
        .as_ref()
        .is_none_or(|p| p.check(password));
    if user != b"default" || !right {
        return Err(WRONG_PASSWORD.into());
    }
    context.session.authenticated = true;
    Ok(())
}

fn hello(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let mut resp3 = context.session.resp3;
    if let Some(version) = args.get(1) {
        let version =
            parse_i64(version).ok_or("ERR Protocol version is not an integer or out of range")?;
        resp3 = match version {
            2 => false,
            3 => true,
            _ => return Err("NOPROTO unsupported protocol version".into()),
        };
    }
    let mut name = None;
    let mut i = 2;
    while let Some(word) = args.get(i) {
        let left = args.len() - i - 1;
        if word.eq_ignore_ascii_case(b"AUTH") && left >= 2 {
            authenticate(context, args.at(i + 1), args.at(i + 2))?;
            i += 3;
        } else if word.eq_ignore_ascii_case(b"SETNAME") && left >= 1 {
            name = Some(args.at(i + 1));
            client::check_label(args.at(i + 1)).map_err(
                |_| "ERR Client names cannot contain spaces, newlines or special characters.",
            )?;
            i += 2;
        } else {
            let word = super::dispatch::shown(word, 128);
            return Err(format!("ERR Syntax error in HELLO option '{word}'").into());
        }
    }
    if !context.session.authenticated {
        return Err("NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time".into());
    }
    if let Some(name) = name {
        context.session.client.labels.lock().name = name.to_vec();
    }
    context.session.set_resp3(resp3);
    context.reply.resp3 = resp3;
    greet(context);
    Ok(())
}

fn greet(context: &mut Context<'_>) {
    let id = context.session.client.id;
    let replica = context.node.cluster.role().follows();
    let resp3 = context.session.resp3;
    let reply = &mut context.reply;
    reply.map(7);
    reply.text("server");
    reply.text("redis");
    reply.text("version");
    reply.text(REDIS_VERSION);
    reply.text("proto");
    reply.integer(if resp3 { 3 } else { 2 });
    reply.text("id");
    reply.unsigned(id);
    reply.text("mode");
    reply.text(if context.node.is_cluster() {
        "cluster"
    } else {
        "standalone"
    });
    reply.text("role");
    reply.text(if replica { "replica" } else { "master" });
    reply.text("modules");
    reply.array(0);
}

fn select(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    match database(args.at(1))? {
        0 => context.reply.ok(),
        _ if context.node.is_cluster() => {
            return Err("ERR SELECT is not allowed in cluster mode".into());
        }
        _ => return Err(DB_OUT_OF_RANGE.into()),
    }
    Ok(())
}

fn quit(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    context.session.close = true;
    context.reply.ok();
    Ok(())
}

fn reset(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let client = context.session.client.clone();
    context.node.monitors.remove(context.node, &client);
    context.session.reset(context.node.passwords.is_none());
    context.reply.resp3 = false;
    context.reply.simple("RESET");
    Ok(())
}

fn in_cluster(context: &Context<'_>) -> Result<(), Stop> {
    match context.node.is_cluster() {
        true => Ok(()),
        false => Err(CLUSTER_DISABLED.into()),
    }
}

fn readonly(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    in_cluster(context)?;
    context.session.set_readonly(true);
    context.reply.ok();
    Ok(())
}

fn readwrite(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    in_cluster(context)?;
    context.session.set_readonly(false);
    context.reply.ok();
    Ok(())
}

fn asking(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    in_cluster(context)?;
    context.reply.ok();
    Ok(())
}

/// The role as `ROLE` and `INFO` name it.
pub fn role_name(role: Role) -> &'static str {
    if role.follows() { "slave" } else { "master" }
}
