//! `DEBUG`: what test suites need, for those who may: see `--enable-debug-command`.

use std::time::Duration;

use super::errors::{NO_SUCH_KEY, NOT_FLOAT, NOT_INTEGER, SYNTAX};
use super::table::{Command, Flags, Group};
use super::{Context, Stop, glob};
use crate::config::DebugAccess;
use crate::limits::DEBUG_SLEEP_MAX;
use crate::protocol::Args;
use crate::protocol::number::parse_i64;

pub const COMMANDS: &[Command] = &[Command::new("debug", -2, Group::Server, debug)
    .flags(
        Flags::ADMIN
            .and(Flags::NOSCRIPT)
            .and(Flags::LOADING)
            .and(Flags::STALE),
    )
    .doc(
        "1.0.0",
        "Depends on subcommand.",
        "A container for debugging commands.",
    )];

const HELP: [&str; 7] = [
    "DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "OBJECT <key>: about a key's value.",
    "SLEEP <seconds>: holds this connection's thread.",
    "SET-ACTIVE-EXPIRE (0|1): whether expired keys are removed before anybody asks for them.",
    "STRINGMATCH-LEN <length> <pattern>: matches a text of so many bytes.",
    "CHANGE-REPL-ID: an error; data IDs are the node's own.",
    "HELP",
];

fn debug(context: &mut Context<'_>, args: Args<'_>) -> Result<(), Stop> {
    let allowed = match context.node.config.enable_debug_command {
        DebugAccess::No => false,
        DebugAccess::Yes => true,
        DebugAccess::Local => context
            .session
            .client
            .address
            .ip()
            .to_canonical()
            .is_loopback(),
    };
    if !allowed {
        return Err("ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.".into());
    }
    let name = args.at(1).to_ascii_uppercase();
    match (name.as_slice(), args.len()) {
        (b"SLEEP", 3) => sleep(args.at(2))?,
        (b"OBJECT", 3) => return object(context, args.at(2)),
        (b"SET-ACTIVE-EXPIRE", 3) => {
            let on = parse_i64(args.at(2)).ok_or(NOT_INTEGER)? != 0;
            context.node.store.set_sweeps(on);
        }
        (b"STRINGMATCH-LEN", 4) => {
            let length = parse_i64(args.at(2)).and_then(|n| usize::try_from(n).ok());
            let length = length.filter(|&n| n <= 1 << 20).ok_or(NOT_INTEGER)?;
            glob::matches(args.at(3), &vec![b'a'; length], false);
        }
        (b"HELP", 2) => {
            context.reply.array(HELP.len());
            HELP.iter().for_each(|line| context.reply.simple(line));
            return Ok(());
        }
        (b"SLEEP" | b"OBJECT" | b"SET-ACTIVE-EXPIRE" | b"STRINGMATCH-LEN", _) => {
            return Err(SYNTAX.into());
        }
        _ => {
            let name = super::dispatch::shown(args.at(1), 128);
            return Err(format!("ERR DEBUG {name} is not supported. Try DEBUG HELP.").into());
        }
    }
    context.reply.ok();
    Ok(())
}

fn sleep(text: &[u8]) -> Result<(), Stop> {
    let text = std::str::from_utf8(text).ok();
    let seconds: f64 = text.and_then(|t| t.parse().ok()).ok_or(NOT_FLOAT)?;
    let time = Duration::try_from_secs_f64(seconds).map_err(|_| NOT_FLOAT)?;
    std::thread::sleep(time.min(DEBUG_SLEEP_MAX));
    Ok(())
}

fn object(context: &mut Context<'_>, key: &[u8]) -> Result<(), Stop> {
    let (guard, p) = context.read(key)?;
    let item = guard.peek(p, key, context.now_ms).ok_or(NO_SUCH_KEY)?;
    let text = format!(
        "Value at:0x0 refcount:1 encoding:{} serializedlength:{} lru:0 lru_seconds_idle:0",
        super::object::encoding_of(item),
        item.bytes()
    );
    drop(guard);
    context.reply.simple(&text);
    Ok(())
}
