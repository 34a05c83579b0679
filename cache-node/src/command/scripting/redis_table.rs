//! The table `redis` of scripts.

use std::cell::Cell;

use mlua::{Error, Lua, MultiValue, Table, Value};
use sha1::{Digest, Sha1};

use super::call;
use super::numbers::general;
use super::raise::Raised;
use super::to_lua::to_lua;
use crate::command::connection::REDIS_VERSION;
use crate::protocol::Words;

/// What a script may change while it runs.
#[derive(Debug, Default)]
pub struct RunState {
    /// Replies come to it in RESP3.
    pub resp3: Cell<bool>,
}

thread_local! {
    pub static RUN: RunState = const { RunState { resp3: Cell::new(false) } };
}

const OUTSIDE: &str = "can only be called inside a script invocation";

/// 40 hex digits.
pub fn sha1_hex(bytes: &[u8]) -> String {
    Sha1::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// As Redis makes an error's text: a code, then the message.
fn with_code(text: &str) -> Vec<u8> {
    match text.strip_prefix('-') {
        None => format!("ERR {text}"),
        Some(coded) if coded.contains(' ') => coded.to_owned(),
        Some(word) => format!("ERR {word}"),
    }
    .into_bytes()
}

fn raise(text: &str) -> Error {
    Raised::Reply(with_code(text)).into()
}

fn error_table(lua: &Lua, text: &[u8]) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("err", lua.create_string(text)?)?;
    Ok(table)
}

/// The arguments of a command: strings, and numbers with all their digits.
fn words(args: &MultiValue) -> Result<Words, &'static str> {
    if args.is_empty() {
        return Err("Please specify at least one argument for this redis lib call");
    }
    let mut words = Words::default();
    for arg in args {
        match arg {
            Value::String(text) => words.push(&text.as_bytes()),
            Value::Integer(n) => words.push(general(*n as f64, 17).as_bytes()),
            Value::Number(n) => words.push(general(*n, 17).as_bytes()),
            _ => return Err("Lua redis lib command arguments must be strings or integers"),
        }
    }
    Ok(words)
}

/// `redis.call` and, with errors as values, `redis.pcall`.
fn command(lua: &Lua, args: &MultiValue, raises: bool) -> mlua::Result<Value> {
    let words = match words(args) {
        Ok(words) => words,
        Err(text) if raises => return Err(raise(text)),
        Err(text) => return Ok(Value::Table(error_table(lua, &with_code(text))?)),
    };
    let resp3 = RUN.with(|run| run.resp3.get());
    let Some(result) = call::borrow(|caller| caller.command(&words, resp3)) else {
        return Err(raise(&format!("redis.call/pcall {OUTSIDE}")));
    };
    let reply = match result {
        Ok(reply) => reply,
        Err(refused) => [b"-", &with_code(&refused)[..], b"\r\n"].concat(),
    };
    if raises && let Some(error) = reply.strip_prefix(b"-") {
        return Err(Raised::Command(error.trim_ascii_end().to_vec()).into());
    }
    to_lua(lua, &reply)
}

fn one_string(args: &MultiValue) -> Option<Vec<u8>> {
    match (args.len(), args.front()) {
        (1, Some(Value::String(text))) => Some(text.as_bytes().to_vec()),
        _ => None,
    }
}

fn number(value: Option<&Value>) -> Option<f64> {
    match value? {
        Value::Integer(n) => Some(*n as f64),
        Value::Number(n) => Some(*n),
        Value::String(text) => text.to_str().ok()?.trim().parse().ok(),
        _ => None,
    }
}

fn error_reply(lua: &Lua, args: MultiValue) -> mlua::Result<Table> {
    match one_string(&args) {
        None => error_table(lua, b"ERR wrong number or type of arguments"),
        Some(text) if text.first() == Some(&b'-') => error_reply_text(lua, &text[1..]),
        Some(text) => error_reply_text(lua, &text),
    }
}

fn error_reply_text(lua: &Lua, text: &[u8]) -> mlua::Result<Table> {
    let text = text.trim_ascii_end();
    match text.contains(&b' ') {
        true => error_table(lua, text),
        false => error_table(lua, &[b"ERR ", text].concat()),
    }
}

fn status_reply(lua: &Lua, args: MultiValue) -> mlua::Result<Table> {
    let Some(text) = one_string(&args) else {
        return error_table(lua, b"ERR wrong number or type of arguments");
    };
    let table = lua.create_table()?;
    table.raw_set("ok", lua.create_string(text)?)?;
    Ok(table)
}

fn sha1hex(lua: &Lua, args: MultiValue) -> mlua::Result<mlua::LuaString> {
    if args.len() != 1 {
        return Err(raise("wrong number of arguments"));
    }
    let text = args.front().cloned().unwrap_or_default();
    let text = lua.coerce_string(text)?;
    lua.create_string(sha1_hex(
        text.as_ref()
            .map(|t| t.as_bytes())
            .as_deref()
            .unwrap_or(b""),
    ))
}

fn log(lua: &Lua, args: MultiValue) -> mlua::Result<()> {
    if args.len() < 2 {
        return Err(raise("redis.log() requires two arguments or more."));
    }
    let Some(level) = number(args.front()) else {
        return Err(raise("First argument must be a number (log level)."));
    };
    let mut parts = Vec::new();
    for arg in args.iter().skip(1) {
        if matches!(arg, Value::String(_) | Value::Integer(_) | Value::Number(_))
            && let Some(text) = lua.coerce_string(arg.clone())?
        {
            parts.push(text.to_string_lossy());
        }
    }
    let message = parts.join(" ");
    match level as i64 {
        0 => tracing::trace!(target: "script", "{message}"),
        1 => tracing::debug!(target: "script", "{message}"),
        2 => tracing::info!(target: "script", "{message}"),
        3 => tracing::warn!(target: "script", "{message}"),
        _ => return Err(raise("Invalid debug level.")),
    }
    Ok(())
}

fn setresp(args: &MultiValue) -> mlua::Result<()> {
    if args.len() != 1 {
        return Err(raise("redis.setresp() requires one argument."));
    }
    let resp3 = match number(args.front()).map(|n| n as i64) {
        Some(2) => false,
        Some(3) => true,
        _ => return Err(raise("RESP version must be 2 or 3.")),
    };
    RUN.with(|run| run.resp3.set(resp3));
    Ok(())
}

/// What a script writes is always replicated; to ask for less is refused.
fn set_repl(args: &MultiValue) -> mlua::Result<()> {
    if args.len() != 1 {
        return Err(raise("redis.set_repl() requires two arguments."));
    }
    match number(args.front()).unwrap_or_default() as i64 {
        3 => Ok(()),
        0..=2 => Err(raise(
            "redis.set_repl() takes REPL_ALL only: what a script writes is always replicated",
        )),
        _ => Err(raise(
            "Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.",
        )),
    }
}

fn acl_check_cmd(args: &MultiValue) -> mlua::Result<bool> {
    let words = words(args).map_err(raise)?;
    match call::borrow(|caller| caller.may(&words)) {
        None => Err(raise(&format!("redis.acl_check_cmd {OUTSIDE}"))),
        Some(None) => Err(raise("Invalid command passed to redis.acl_check_cmd()")),
        Some(Some(may)) => Ok(may),
    }
}

fn version_number() -> i64 {
    let parts = REDIS_VERSION
        .split('.')
        .map(|part| part.parse::<i64>().unwrap_or_default());
    parts.fold(0, |number, part| number << 8 | part)
}

/// Makes the table.
pub fn make(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let set = |name: &str, value: Value| table.raw_set(name, value);
    set(
        "call",
        Value::Function(lua.create_function(|lua, a: MultiValue| command(lua, &a, true))?),
    )?;
    set(
        "pcall",
        Value::Function(lua.create_function(|lua, a: MultiValue| command(lua, &a, false))?),
    )?;
    set(
        "error_reply",
        Value::Function(lua.create_function(error_reply)?),
    )?;
    set(
        "status_reply",
        Value::Function(lua.create_function(status_reply)?),
    )?;
    set("sha1hex", Value::Function(lua.create_function(sha1hex)?))?;
    set("log", Value::Function(lua.create_function(log)?))?;
    set(
        "setresp",
        Value::Function(lua.create_function(|_, a: MultiValue| setresp(&a))?),
    )?;
    set(
        "set_repl",
        Value::Function(lua.create_function(|_, a: MultiValue| set_repl(&a))?),
    )?;
    set(
        "acl_check_cmd",
        Value::Function(lua.create_function(|_, a: MultiValue| acl_check_cmd(&a))?),
    )?;
    // Effects are what is replicated, so this is so already.
    set(
        "replicate_commands",
        Value::Function(lua.create_function(|_, _: MultiValue| Ok(true))?),
    )?;
    // There is no debugger.
    set(
        "breakpoint",
        Value::Function(lua.create_function(|_, _: MultiValue| Ok(false))?),
    )?;
    set(
        "debug",
        Value::Function(lua.create_function(|_, _: MultiValue| Ok(()))?),
    )?;
    for (name, number) in [
        ("LOG_DEBUG", 0),
        ("LOG_VERBOSE", 1),
        ("LOG_NOTICE", 2),
        ("LOG_WARNING", 3),
        ("REPL_NONE", 0),
        ("REPL_AOF", 1),
        ("REPL_SLAVE", 2),
        ("REPL_REPLICA", 2),
        ("REPL_ALL", 3),
        ("REDIS_VERSION_NUM", version_number()),
    ] {
        set(name, Value::Integer(number))?;
    }
    set(
        "REDIS_VERSION",
        Value::String(lua.create_string(REDIS_VERSION)?),
    )?;
    Ok(table)
}
