//! What a script returns as its client sees it.

use mlua::{Table, Value};

use super::numbers::{general, truncated};
use super::stack;
use crate::limits::SCRIPT_DEPTH_MAX;
use crate::protocol::Reply;

/// Writes a value. `resp3`: what the script has asked for with `redis.setresp`, which decides how a boolean is meant.
pub fn to_reply(reply: &mut Reply<'_>, value: &Value, resp3: bool) -> mlua::Result<()> {
    write(reply, value, resp3, 0)
}

fn write(reply: &mut Reply<'_>, value: &Value, resp3: bool, depth: usize) -> mlua::Result<()> {
    if depth == SCRIPT_DEPTH_MAX || stack::is_spent() {
        reply.error("ERR reached lua stack limit");
        return Ok(());
    }
    match value {
        Value::String(text) => reply.bulk(&text.as_bytes()),
        Value::Boolean(yes) if resp3 => reply.boolean(*yes),
        Value::Boolean(true) => reply.integer(1),
        Value::Integer(n) => reply.integer(*n),
        Value::Number(n) => reply.integer(truncated(*n)),
        Value::Table(table) => write_table(reply, table, resp3, depth)?,
        _ => reply.null(),
    }
    Ok(())
}

fn write_table(
    reply: &mut Reply<'_>,
    table: &Table,
    resp3: bool,
    depth: usize,
) -> mlua::Result<()> {
    if let Some(error) = text(&table.raw_get("err")?) {
        let error = String::from_utf8_lossy(&error).into_owned();
        reply.error(error.trim_end_matches(['\r', '\n']));
        return Ok(());
    }
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
            write(reply, &key, resp3, depth + 1)?;
            write(reply, &value, resp3, depth + 1)?;
        }
        return Ok(());
    }
    if let Value::Table(set) = table.raw_get("set")? {
        let members = pairs(&set)?;
        reply.set(members.len());
        for (member, _) in members {
            write(reply, &member, resp3, depth + 1)?;
        }
        return Ok(());
    }
    write_array(reply, table, resp3, depth)
}

/// Up to the first hole.
fn write_array(
    reply: &mut Reply<'_>,
    table: &Table,
    resp3: bool,
    depth: usize,
) -> mlua::Result<()> {
    let mut items = Vec::new();
    for i in 1.. {
        match table.raw_get(i)? {
            Value::Nil => break,
            item => items.push(item),
        }
    }
    reply.array(items.len());
    for item in &items {
        write(reply, item, resp3, depth + 1)?;
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
