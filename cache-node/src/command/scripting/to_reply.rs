//! What a script returns as its client sees it.

use mlua::{Table, Value};

use super::numbers::{general, truncated};
use super::raise::is_counted;
use super::stack;
use crate::limits::SCRIPT_DEPTH_MAX;
use crate::protocol::Reply;

/// An error among what a script returns.
pub struct Told<'t> {
    pub text: &'t str,
    /// It is that of a command, which was counted then.
    pub counted: bool,
}

/// Writes a value, and tells `errors` of each error in it. `resp3`: what the script has asked for with `redis.setresp`, which decides how a boolean
/// is meant.
pub fn to_reply(
    reply: &mut Reply<'_>,
    value: &Value,
    resp3: bool,
    errors: &mut dyn FnMut(Told<'_>),
) -> mlua::Result<()> {
    write(
        &mut Writer {
            reply,
            resp3,
            errors,
        },
        value,
        0,
    )
}

struct Writer<'w, 'r> {
    reply: &'w mut Reply<'r>,
    resp3: bool,
    errors: &'w mut dyn FnMut(Told<'_>),
}

impl Writer<'_, '_> {
    fn error(&mut self, text: &str, counted: bool) {
        self.reply.error(text);
        (self.errors)(Told { text, counted });
    }
}

fn write(to: &mut Writer<'_, '_>, value: &Value, depth: usize) -> mlua::Result<()> {
    if depth == SCRIPT_DEPTH_MAX || stack::is_spent() {
        to.error("ERR reached lua stack limit", false);
        return Ok(());
    }
    let (reply, resp3) = (&mut *to.reply, to.resp3);
    match value {
        Value::String(text) => reply.bulk(&text.as_bytes()),
        Value::Boolean(yes) if resp3 => reply.boolean(*yes),
        Value::Boolean(true) => reply.integer(1),
        Value::Integer(n) => reply.integer(*n),
        Value::Number(n) => reply.integer(truncated(*n)),
        Value::Table(table) => write_table(to, table, depth)?,
        _ => reply.null(),
    }
    Ok(())
}

fn write_table(to: &mut Writer<'_, '_>, table: &Table, depth: usize) -> mlua::Result<()> {
    if let Some(error) = text(&table.raw_get("err")?) {
        let error = String::from_utf8_lossy(&error).into_owned();
        to.error(error.trim_end_matches(['\r', '\n']), is_counted(table));
        return Ok(());
    }
    let reply = &mut *to.reply;
    if let Some(ok) = text(&table.raw_get("ok")?) {
        line(reply, b'+', &ok);
        return Ok(());
    }
    let double = match table.raw_get("double")? {
        Value::Integer(n) => Some(n as f64),
        Value::Number(n) => Some(n),
        _ => None,
    };
    if let Some(double) = double {
        write_double(reply, double);
        return Ok(());
    }
    if let Some(number) = text(&table.raw_get("big_number")?) {
        match reply.resp3 {
            true => line(reply, b'(', &number),
            false => reply.bulk(&one_line(&number)),
        }
        return Ok(());
    }
    if let Value::Table(verbatim) = table.raw_get("verbatim_string")?
        && let Some(format) = text(&verbatim.raw_get("format")?)
        && let Some(string) = text(&verbatim.raw_get("string")?)
    {
        write_verbatim(reply, &format, &string);
        return Ok(());
    }
    if let Value::Table(map) = table.raw_get("map")? {
        let pairs = pairs(&map)?;
        reply.map(pairs.len());
        for (key, value) in pairs {
            write(to, &key, depth + 1)?;
            write(to, &value, depth + 1)?;
        }
        return Ok(());
    }
    if let Value::Table(set) = table.raw_get("set")? {
        let members = pairs(&set)?;
        reply.set(members.len());
        for (member, _) in members {
            write(to, &member, depth + 1)?;
        }
        return Ok(());
    }
    write_array(to, table, depth)
}

/// Up to the first hole.
fn write_array(to: &mut Writer<'_, '_>, table: &Table, depth: usize) -> mlua::Result<()> {
    let mut items = Vec::new();
    for i in 1.. {
        match table.raw_get(i)? {
            Value::Nil => break,
            item => items.push(item),
        }
    }
    to.reply.array(items.len());
    for item in &items {
        write(to, item, depth + 1)?;
    }
    Ok(())
}

fn pairs(table: &Table) -> mlua::Result<Vec<(Value, Value)>> {
    table.pairs().collect()
}

/// A string's bytes.
fn text(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.as_bytes().to_vec()),
        _ => None,
    }
}

fn one_line(text: &[u8]) -> Vec<u8> {
    let blank = |b: &u8| if matches!(b, b'\r' | b'\n') { b' ' } else { *b };
    text.iter().map(blank).collect()
}

fn line(reply: &mut Reply<'_>, mark: u8, text: &[u8]) {
    reply.out.push_byte(mark);
    reply.out.push(&one_line(text));
    reply.out.push(b"\r\n");
}

fn write_double(reply: &mut Reply<'_>, value: f64) {
    // Redis takes the sign of what is no number away.
    let text = if value.is_nan() {
        "nan".into()
    } else {
        general(value, 17)
    };
    match reply.resp3 {
        true => line(reply, b',', text.as_bytes()),
        false => reply.text(&text),
    }
}

fn write_verbatim(reply: &mut Reply<'_>, format: &[u8], string: &[u8]) {
    if !reply.resp3 {
        return reply.bulk(string);
    }
    // Three letters, whatever was given.
    let mut mark = *b"   ";
    for (to, from) in mark.iter_mut().zip(format) {
        *to = *from;
    }
    reply
        .out
        .push(format!("={}\r\n", string.len() + 4).as_bytes());
    reply.out.push(&mark);
    reply.out.push_byte(b':');
    reply.out.push(string);
    reply.out.push(b"\r\n");
}
