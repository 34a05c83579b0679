//! Lua scripts: `EVAL` and its siblings, and `SCRIPT`.

mod bit;
pub mod cache;
mod call;
mod execute;
mod header;
mod host;
mod json;
mod msgpack;
mod numbers;
mod raise;
mod random;
mod redis_table;
pub mod running;
mod stack;
mod structs;
mod to_lua;
mod to_reply;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::errors::NOT_INTEGER;
use super::table::{Command, Flags, Group};
use super::{Context, Stop};
use crate::node::Node;
use crate::protocol::Args;
use crate::protocol::number::parse_i64;
use cache::{Script, Scripts};
use running::{Kill, Running};

/// What all threads share of scripts.
#[derive(Debug, Default)]
pub struct Scripting {
    pub scripts: Scripts,
    pub running: Running,
    /// `DEBUG SET-DISABLE-DENY-SCRIPTS`: scripts may execute what is meant for clients only.
    pub allows_all: AtomicBool,
}

const NO_SCRIPT: &str = "NOSCRIPT No matching script. Please use EVAL.";
const READS: Flags = Flags::NOSCRIPT
    .and(Flags::STALE)
    .and(Flags::SKIP_MONITOR)
    .and(Flags::NO_MANDATORY_KEYS)
    .and(Flags::MOVABLE_KEYS)
    .and(Flags::WHOLE);
const EVAL: Flags = READS.and(Flags::MAY_WRITE);
const EVAL_RO: Flags = READS.and(Flags::READONLY);
const COST: &str = "Depends on the script that is executed.";

pub const COMMANDS: &[Command] = &[
    Command::new("eval", -3, Group::Scripting, eval)
        .flags(EVAL)
        .counted_keys(2)
        .doc("2.6.0", COST, "Executes a server-side Lua script."),
    Command::new("eval_ro", -3, Group::Scripting, eval_ro)
        .flags(EVAL_RO)
        .counted_keys(2)
        .doc("7.0.0", COST, "Executes a read-only server-side Lua script."),
    Command::new("evalsha", -3, Group::Scripting, evalsha)
        .flags(EVAL)
        .counted_keys(2)
        .doc("2.6.0", COST, "Executes a server-side Lua script by SHA1 digest."),
    Command::new("evalsha_ro", -3, Group::Scripting, evalsha_ro)
        .flags(EVAL_RO)
        .counted_keys(2)
        .doc("7.0.0", COST, "Executes a read-only server-side Lua script by SHA1 digest."),
    Command::new("script", -2, Group::Scripting, help)
        .doc("2.6.0", "Depends on subcommand.", "A container for Lua scripts management commands.")
        .with(&[
            Command::new("load", 3, Group::Scripting, load)
                .flags(Flags::NOSCRIPT.and(Flags::STALE))
                .doc("2.6.0", "O(N) with N being the length in bytes of the script body.", "Loads a server-side Lua script to the script cache."),
            Command::new("exists", -3, Group::Scripting, exists)
                .flags(Flags::NOSCRIPT)
                .doc("2.6.0", "O(N) with N being the number of scripts to check (so checking a single script is an O(1) operation).", "Determines whether server-side Lua scripts exist in the script cache."),
            Command::new("flush", -2, Group::Scripting, flush)
                .flags(Flags::NOSCRIPT)
                .doc("2.6.0", "O(N) with N being the number of scripts in cache", "Removes all server-side Lua scripts from the script cache."),
            Command::new("kill", 2, Group::Scripting, kill)
                .flags(Flags::NOSCRIPT.and(Flags::ALLOW_BUSY))
                .doc("2.6.0", "O(1)", "Terminates a server-side Lua script during execution."),
            Command::new("debug", 3, Group::Scripting, debug)
                .flags(Flags::NOSCRIPT)
                .doc("3.2.0", "O(1)", "Sets the debug mode of server-side Lua scripts. There is no debugger."),
            Command::new("help", 2, Group::Scripting, help)
                .flags(Flags::LOADING.and(Flags::STALE))
                .doc("5.0.0", "O(1)", "Returns helpful text about the different subcommands."),
        ]),
];

/// Whether a command must not be executed while a script that takes long holds everything.
#[cold]
pub fn is_barred(node: &Node, command: &Command) -> bool {
    !command.flags.has(Flags::ALLOW_BUSY) && node.scripting.running.is_all_busy()
}

/// Whether a script may write by what it says of itself.
#[cold]
pub fn may_write(node: &Node, command: &Command, args: Args<'_>) -> bool {
    let flags = match command.name {
        "eval" => header::parse(args.at(1)).ok().map(|(flags, _)| flags),
        _ => node.scripting.scripts.find(args.at(1)).map(|s| s.flags),
    };
    !flags.is_some_and(|flags| flags.no_writes)
}

/// How many keys follow, and the keys and arguments.
fn key_count(args: Args<'_>) -> Result<usize, Stop> {
    let count = parse_i64(args.at(2)).ok_or(NOT_INTEGER)?;
    if count > args.len() as i64 - 3 {
        return Err("ERR Number of keys can't be greater than number of args".into());
    }
    usize::try_from(count).map_err(|_| "ERR Number of keys can't be negative".into())
}

fn eval(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    eval_text(context, args, false)
}

fn eval_ro(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    eval_text(context, args, true)
}

fn evalsha(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    eval_known(context, args, false)
}

fn evalsha_ro(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    eval_known(context, args, true)
}

fn eval_text(context: &mut Context<'_>, args: Args<'_>, reads: bool) -> Result<(), Stop> {
    let keys = key_count(args)?;
    let scripts = &context.node.scripting.scripts;
    let sha = redis_table::sha1_hex(args.at(1));
    let known = scripts.find(sha.as_bytes());
    let script = match known {
        Some(script) => script,
        None => prepare(context, args.at(1), false)?,
    };
    execute::run(context, &script, args, keys, reads)
}

fn eval_known(context: &mut Context<'_>, args: Args<'_>, reads: bool) -> Result<(), Stop> {
    if args.at(1).len() != 40 {
        return Err(NO_SCRIPT.into());
    }
    let keys = key_count(args)?;
    let script = context
        .node
        .scripting
        .scripts
        .find(args.at(1))
        .ok_or(NO_SCRIPT)?;
    execute::run(context, &script, args, keys, reads)
}

/// Checks that a script compiles, and remembers it.
fn prepare(context: &Context<'_>, text: &[u8], loaded: bool) -> Result<Arc<Script>, Stop> {
    let script = Script::new(text).map_err(|error| format!("ERR {error}"))?;
    let script = Arc::new(script);
    execute::with_host(context.node, |host| {
        host.compile(&script.sha, script.code())
            .map_err(|error| format!("ERR Error compiling script (new function): {error}"))
    })??;
    let scripts = &context.node.scripting.scripts;
    match scripts.add(script.clone(), loaded) {
        Ok(()) => Ok(script),
        Err(cache::Full) => Err(format!(
            "OOM scripts take {} bytes already, and no more may be loaded: SCRIPT FLUSH makes room",
            scripts.size().1
        )
        .into()),
    }
}

fn load(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let script = prepare(context, args.at(2), true)?;
    context.reply.text(&script.sha);
    Ok(())
}

fn exists(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let scripts = &context.node.scripting.scripts;
    context.reply.array(args.len() - 2);
    for sha in args.from(2).iter() {
        let known = scripts.find(sha).is_some();
        context.reply.integer(i64::from(known));
    }
    Ok(())
}

fn flush(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let mode = args.get(2).unwrap_or(b"SYNC");
    let known = [&b"SYNC"[..], b"ASYNC"]
        .iter()
        .any(|m| mode.eq_ignore_ascii_case(m));
    if args.len() > 3 || !known {
        return Err("ERR SCRIPT FLUSH only support SYNC|ASYNC option".into());
    }
    context.node.scripting.scripts.flush();
    context.reply.ok();
    Ok(())
}

fn kill(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    match context.node.scripting.running.kill() {
        Kill::Done => context.reply.ok(),
        Kill::NotBusy => return Err("NOTBUSY No scripts in execution right now.".into()),
        Kill::Unkillable => {
            return Err("UNKILLABLE Sorry the script already executed write commands against the dataset. You can either wait the script termination or kill the server in a hard way using the SHUTDOWN NOSAVE command.".into());
        }
    }
    Ok(())
}

fn debug(_: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    Err("ERR SCRIPT DEBUG is not supported: there is no debugger".into())
}

fn help(context: &mut Context<'_>, _: Args<'_>) -> Result<(), Stop> {
    const LINES: [&str; 14] = [
        "SCRIPT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "EXISTS <sha1> [<sha1> ...]",
        "    Return information about the existence of the scripts in the script cache.",
        "FLUSH [ASYNC|SYNC]",
        "    Flush the Lua scripts cache. Very dangerous on replicas.",
        "    Threads make a new Lua state before their next script in both modes.",
        "KILL",
        "    Kill the scripts that take long and have written nothing.",
        "LOAD <script>",
        "    Load a script into the scripts cache without executing it.",
        "DEBUG (YES|SYNC|NO)",
        "    Not supported.",
        "HELP",
        "    Prints this help.",
    ];
    context.reply.array(LINES.len());
    LINES.iter().for_each(|line| context.reply.simple(line));
    Ok(())
}
