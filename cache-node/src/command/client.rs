//! `CLIENT`: this connection, and the others.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::errors::{SYNTAX, wrong_arity};
use super::introspect::HELP;
use super::session::ReplyMode;
use super::table::{Command, Flags, Group, TABLE};
use super::{Context, Stop, pause, tracking};
use crate::limits::CLIENT_NAME_MAX;
use crate::node::Node;
use crate::protocol::Args;
use crate::protocol::number::parse_i64;
use crate::server::registry::{Client, flag};

const SELF: Flags = Flags::NOSCRIPT.and(Flags::LOADING).and(Flags::STALE);
const OTHERS: Flags = SELF.and(Flags::ADMIN);

const fn sub(name: &'static str, arity: i16, handler: super::Handler) -> Command {
    Command::new(name, arity, Group::Connection, handler)
}

pub const COMMANDS: &[Command] = &[sub("client", -2, container)
    .doc("2.4.0", "Depends on subcommand.", "A container for client connection commands.")
    .with(&[
        sub("id", 2, id).flags(SELF).doc("5.0.0", "O(1)", "Returns the unique client ID of the connection."),
        sub("getname", 2, getname).flags(SELF).doc("2.6.9", "O(1)", "Returns the name of the connection."),
        sub("setname", 3, setname).flags(SELF).doc("2.6.9", "O(1)", "Sets the connection name."),
        sub("setinfo", 4, setinfo).flags(SELF).doc("7.2.0", "O(1)", "Sets information specific to the client or connection."),
        sub("info", 2, info).flags(SELF).doc("6.2.0", "O(1)", "Returns information about the connection."),
        sub("list", -2, list).flags(OTHERS).doc("2.4.0", "O(N) where N is the number of client connections", "Lists open connections."),
        sub("kill", -3, kill).flags(OTHERS).doc("2.4.0", "O(N) where N is the number of client connections", "Terminates open connections."),
        sub("no-evict", 3, no_evict).flags(OTHERS).doc("7.0.0", "O(1)", "Sets the client eviction mode of the connection. Connections are never evicted here."),
        sub("no-touch", 3, no_touch).flags(SELF).doc("7.2.0", "O(1)", "Controls whether commands sent by the client affect the age of accessed keys. Keys have no age here."),
        sub("reply", 3, reply).flags(SELF).doc("3.2.0", "O(1)", "Instructs the server whether to reply to commands."),
        sub("unblock", -3, super::blocking::unblock).flags(OTHERS.and(Flags::WHOLE)).doc("5.0.0", "O(log N) where N is the number of client connections", "Unblocks a client blocked by a blocking command from a different connection."),
        sub("getredir", 2, tracking::getredir).flags(SELF).doc("6.0.0", "O(1)", "Returns the client ID to which the connection's tracking notifications are redirected."),
        sub("tracking", -3, tracking::tracking).flags(SELF.and(Flags::WHOLE)).doc("6.0.0", "O(1). Some options may introduce additional complexity.", "Controls server-assisted client-side caching for the connection."),
        sub("caching", 3, tracking::caching).flags(SELF).doc("6.0.0", "O(1)", "Instructs the server whether to track the keys in the next request."),
        sub("trackinginfo", 2, tracking::trackinginfo).flags(SELF).doc("6.2.0", "O(1)", "Returns information about server-assisted client-side caching for the connection."),
        sub("pause", -3, pause::pause).flags(OTHERS).doc("3.0.0", "O(1)", "Suspends commands processing."),
        sub("unpause", 2, pause::unpause).flags(OTHERS).doc("6.2.0", "O(N) Where N is the number of paused clients", "Resumes processing commands from paused clients."),
        HELP,
    ])];

fn container(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    Err(wrong_arity(context.name))
}

fn id(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    context.reply.unsigned(context.session.client.id);
    Ok(())
}

fn getname(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    let name = context.session.labels().name;
    match name.is_empty() {
        true => context.reply.null(),
        false => context.reply.bulk(&name),
    }
    Ok(())
}

/// Printable characters without blanks, and not too many.
pub fn check_label(label: &[u8]) -> Result<(), &'static str> {
    if !label.iter().all(|b| (b'!'..=b'~').contains(b)) {
        return Err("ERR Client names cannot contain spaces, newlines or special characters.");
    }
    if label.len() > CLIENT_NAME_MAX {
        return Err(
            "ERR a connection's name, library name and version may have 16384 bytes each: shorten it",
        );
    }
    Ok(())
}

fn setname(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    check_label(args.at(2))?;
    context.session.client.labels.lock().name = args.at(2).to_vec();
    context.reply.ok();
    Ok(())
}

fn setinfo(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let (attribute, value) = (args.at(2), args.at(3));
    let is_name = attribute.eq_ignore_ascii_case(b"LIB-NAME");
    if !is_name && !attribute.eq_ignore_ascii_case(b"LIB-VER") {
        let attribute = super::dispatch::shown(attribute, 128);
        return Err(format!("ERR Unrecognized option '{attribute}'").into());
    }
    let which = if is_name { "lib-name" } else { "lib-ver" };
    if check_label(value).is_err() {
        return Err(
            format!("ERR {which} cannot contain spaces, newlines or special characters.").into(),
        );
    }
    let mut labels = context.session.client.labels.lock();
    if is_name {
        labels.library = value.to_vec();
    } else {
        labels.library_version = value.to_vec();
    }
    drop(labels);
    context.reply.ok();
    Ok(())
}

/// Bytes of a command as it was sent, if it was by the protocol's rules.
fn sent_bytes(args: Args<'_>) -> u64 {
    let line = |n: usize| 3 + n.checked_ilog10().unwrap_or(0) as usize + 1;
    let words = args.iter().map(|arg| line(arg.len()) + arg.len() + 2);
    (line(args.len()) + words.sum::<usize>()) as u64
}

/// One line about a connection, as Redis writes it; fields that have no meaning here have Redis's neutral values. `executed`: bytes of the command
/// that it is executing.
fn describe(node: &Node, client: &Client, now_ms: u64, executed: u64) -> String {
    let labels = client.labels.lock().clone();
    let age = now_ms.saturating_sub(client.created_ms) / 1000;
    let idle = now_ms.saturating_sub(client.active_ms.load(Ordering::Relaxed)) / 1000;
    let mut flags = String::new();
    for (bit, letter) in [
        (flag::READONLY, 'r'),
        (flag::PARKED, 'b'),
        (flag::NO_EVICT, 'e'),
        (flag::NO_TOUCH, 'T'),
        (flag::MONITOR, 'O'),
        (flag::TRACKING, 't'),
    ] {
        if client.has(bit) || (letter == 'b' && node.blocked.is_waiting(client.id)) {
            flags.push(letter);
        }
    }
    let [channels, patterns, shard] =
        [0, 1, 2].map(|i| client.subscriptions[i].load(Ordering::Relaxed));
    if channels + patterns + shard > 0 {
        flags.push('P');
    }
    let queued = client.queued.load(Ordering::Relaxed);
    if queued >= 0 {
        flags.push('x');
    }
    let redirect = client.redirect.load(Ordering::Relaxed);
    if flags.is_empty() {
        flags.push('N');
    }
    let last = client.last_command.load(Ordering::Relaxed) as usize;
    let command = TABLE
        .entries
        .get(last)
        .map_or("NULL", |e| e.full_name.as_str());
    let input = client.input_bytes.load(Ordering::Relaxed) + executed;
    let output = client.output_bytes.load(Ordering::Relaxed) + client.mail.bytes() as u64;
    let multi = client.queued_bytes.load(Ordering::Relaxed);
    let total = size_of::<Client>() as u64 + input + output + multi;
    // Replies wait in one buffer, and what is read is not kept: there is no list of replies, and nothing free.
    format!(
        "id={} addr={} laddr={} fd=-1 name={} age={age} idle={idle} flags={flags} db=0 sub={channels} psub={patterns} ssub={shard} multi={queued} \
         qbuf={input} qbuf-free=0 argv-mem={executed} multi-mem={multi} rbs={output} rbp={output} obl={output} oll=0 omem=0 tot-mem={total} events=r \
         cmd={command} user=default redir={redirect} resp={} lib-name={} lib-ver={}\n",
        client.id,
        client.address,
        client.local,
        String::from_utf8_lossy(&labels.name),
        if client.has(flag::RESP3) { 3 } else { 2 },
        String::from_utf8_lossy(&labels.library),
        String::from_utf8_lossy(&labels.library_version),
    )
}

fn info(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    context.session.publish();
    let (client, now_ms) = (&context.session.client, context.now_ms);
    let text = describe(context.node, client, now_ms, sent_bytes(args));
    context.reply.verbatim(&text);
    Ok(())
}

/// Connections by what they are for. Nodes of a cluster have a port of their own, so there are two types here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Normal,
    PubSub,
    /// There are none.
    Node,
}

impl Type {
    fn read(text: &[u8]) -> Result<Self, Stop> {
        let text = String::from_utf8_lossy(text).to_lowercase();
        match text.as_str() {
            "normal" => Ok(Self::Normal),
            "pubsub" => Ok(Self::PubSub),
            "master" | "replica" | "slave" => Ok(Self::Node),
            _ => Err(format!("ERR Unknown client type '{text}'").into()),
        }
    }

    fn of(client: &Client) -> Self {
        match client
            .subscriptions
            .iter()
            .any(|n| n.load(Ordering::Relaxed) > 0)
        {
            true => Self::PubSub,
            false => Self::Normal,
        }
    }
}

fn list(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    context.session.publish();
    let clients = match (args.get(2), args.len()) {
        (None, _) => context.node.clients.all(),
        (Some(word), 4) if word.eq_ignore_ascii_case(b"TYPE") => {
            let wanted = Type::read(args.at(3))?;
            let mut clients = context.node.clients.all();
            clients.retain(|client| Type::of(client) == wanted);
            clients
        }
        (Some(word), 4..) if word.eq_ignore_ascii_case(b"ID") => {
            let mut clients = Vec::new();
            for id in args.from(3).iter() {
                let id = parse_i64(id).ok_or("ERR Invalid client ID")?;
                let id = u64::try_from(id).ok();
                clients.extend(id.and_then(|id| context.node.clients.get(id)));
            }
            clients
        }
        _ => return Err(SYNTAX.into()),
    };
    let me = context.session.client.id;
    let text: String = clients
        .iter()
        .map(|client| {
            let executed = if client.id == me { sent_bytes(args) } else { 0 };
            describe(context.node, client, context.now_ms, executed)
        })
        .collect();
    context.reply.verbatim(&text);
    Ok(())
}

fn client_id(text: &[u8]) -> Option<u64> {
    u64::try_from(parse_i64(text)?).ok().filter(|&id| id > 0)
}

/// Which connections `CLIENT KILL` is to end.
#[derive(Debug)]
struct Filter {
    id: Option<u64>,
    address: Option<String>,
    local: Option<String>,
    kind: Option<Type>,
    user: bool,
    skip_me: bool,
}

fn kill(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    if args.len() == 3 {
        let address = String::from_utf8_lossy(args.at(2)).into_owned();
        let filter = Filter {
            address: Some(address),
            skip_me: false,
            ..Filter::new()
        };
        return match kill_matching(context, &filter) {
            0 => Err("ERR No such client".into()),
            _ => {
                context.reply.ok();
                Ok(())
            }
        };
    }
    let filter = Filter::read(args)?;
    let killed = kill_matching(context, &filter);
    context.reply.integer(killed);
    Ok(())
}

impl Filter {
    fn new() -> Self {
        Self {
            id: None,
            address: None,
            local: None,
            kind: None,
            user: true,
            skip_me: true,
        }
    }

    fn read(args: Args<'_>) -> Result<Self, Stop> {
        let mut filter = Self::new();
        let mut i = 2;
        while let Some(word) = args.get(i) {
            let value = args.get(i + 1).ok_or(SYNTAX)?;
            let text = || String::from_utf8_lossy(value).into_owned();
            match word.to_ascii_uppercase().as_slice() {
                b"ID" => {
                    filter.id =
                        Some(client_id(value).ok_or("ERR client-id should be greater than 0")?);
                }
                b"TYPE" => filter.kind = Some(Type::read(value)?),
                b"ADDR" => filter.address = Some(text()),
                b"LADDR" => filter.local = Some(text()),
                b"USER" if value == b"default" => filter.user = true,
                b"USER" => return Err(format!("ERR No such user '{}'", text()).into()),
                b"SKIPME" => {
                    filter.skip_me = match text().to_lowercase().as_str() {
                        "yes" => true,
                        "no" => false,
                        _ => return Err(SYNTAX.into()),
                    }
                }
                _ => return Err(SYNTAX.into()),
            }
            i += 2;
        }
        Ok(filter)
    }

    fn matches(&self, client: &Arc<Client>, me: u64) -> bool {
        self.kind.is_none_or(|kind| kind == Type::of(client))
            && self.user
            && self.id.is_none_or(|id| id == client.id)
            && self
                .address
                .as_ref()
                .is_none_or(|a| *a == client.address.to_string())
            && self
                .local
                .as_ref()
                .is_none_or(|a| *a == client.local.to_string())
            && !(self.skip_me && client.id == me)
    }
}

fn kill_matching(context: &mut Context<'_>, filter: &Filter) -> i64 {
    let me = context.session.client.id;
    let mut killed = 0;
    for client in context.node.clients.all() {
        if !filter.matches(&client, me) {
            continue;
        }
        killed += 1;
        if client.id == me {
            // After the reply.
            context.session.close = true;
        } else {
            client.killed.store(true, Ordering::Release);
        }
    }
    if killed > 0 {
        context.node.clients.kills.fetch_add(1, Ordering::Release);
        context.node.wakers.wake_all();
    }
    killed
}

fn on_off(context: &Context<'_>, bit: u32, word: &[u8]) -> Result<(), Stop> {
    let on = match word.to_ascii_uppercase().as_slice() {
        b"ON" => true,
        b"OFF" => false,
        _ => return Err(SYNTAX.into()),
    };
    context.session.client.set(bit, on);
    Ok(())
}

fn no_evict(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    on_off(context, flag::NO_EVICT, args.at(2))?;
    context.reply.ok();
    Ok(())
}

fn no_touch(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    on_off(context, flag::NO_TOUCH, args.at(2))?;
    context.reply.ok();
    Ok(())
}

fn reply(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let session = &mut *context.session;
    match args.at(2).to_ascii_uppercase().as_slice() {
        b"ON" => {
            session.reply = ReplyMode::On;
            session.skip_next = false;
            context.reply.ok();
        }
        b"OFF" => session.reply = ReplyMode::Off,
        b"SKIP" if session.reply != ReplyMode::Off => session.skip_next = true,
        b"SKIP" => {}
        _ => return Err(SYNTAX.into()),
    }
    Ok(())
}
