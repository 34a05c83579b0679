//! A command's reply as Lua sees it: nil is false in RESP2, status and error are tables, and RESP3's types are tables that name theirs.

use mlua::{Lua, Result, Value};

use super::raise::{COUNTED, Raised};

/// Converts a reply of ours, which is well formed.
pub fn to_lua(lua: &Lua, reply: &[u8]) -> Result<Value> {
    Reader { lua, reply }.value()
}

struct Reader<'r> {
    lua: &'r Lua,
    reply: &'r [u8],
}

impl<'r> Reader<'r> {
    fn value(&mut self) -> Result<Value> {
        let line = self.line()?;
        let (kind, rest) = line.split_first().ok_or_else(broken)?;
        match kind {
            b':' => Ok(Value::Number(number(rest)? as f64)),
            b'$' => match length(rest)? {
                None => Ok(Value::Boolean(false)),
                Some(length) => self.string(length),
            },
            b'*' => match length(rest)? {
                None => Ok(Value::Boolean(false)),
                Some(length) => self.array(length),
            },
            b'+' => self.named("ok", Value::String(self.lua.create_string(rest)?)),
            b'-' => {
                let table = self.lua.create_table()?;
                table.raw_set("err", self.lua.create_string(rest)?)?;
                table.raw_set(COUNTED, true)?;
                Ok(Value::Table(table))
            }
            b'_' => Ok(Value::Nil),
            b'#' => Ok(Value::Boolean(rest == b"t")),
            b',' => self.named("double", Value::Number(double(rest)?)),
            b'(' => self.named("big_number", Value::String(self.lua.create_string(rest)?)),
            b'=' => self.verbatim(length(rest)?.unwrap_or_default()),
            b'%' => self.map(length(rest)?.unwrap_or_default()),
            b'|' => self.behind_attributes(length(rest)?.unwrap_or_default()),
            b'~' | b'>' => self.set(length(rest)?.unwrap_or_default()),
            _ => Err(broken()),
        }
    }

    fn line(&mut self) -> Result<&'r [u8]> {
        let end = self.reply.windows(2).position(|two| two == b"\r\n");
        let end = end.ok_or_else(broken)?;
        let line = &self.reply[..end];
        self.reply = &self.reply[end + 2..];
        Ok(line)
    }

    fn bytes(&mut self, length: usize) -> Result<&'r [u8]> {
        let bytes = self.reply.get(..length).ok_or_else(broken)?;
        self.reply = self.reply.get(length + 2..).ok_or_else(broken)?;
        Ok(bytes)
    }

    fn string(&mut self, length: usize) -> Result<Value> {
        let bytes = self.bytes(length)?;
        Ok(Value::String(self.lua.create_string(bytes)?))
    }

    fn array(&mut self, length: usize) -> Result<Value> {
        let table = self.lua.create_table_with_capacity(length, 0)?;
        for i in 1..=length {
            let value = self.value()?;
            table.raw_set(i, value)?;
        }
        Ok(Value::Table(table))
    }

    fn map(&mut self, length: usize) -> Result<Value> {
        let table = self.lua.create_table_with_capacity(0, length)?;
        for _ in 0..length {
            let (key, value) = (self.value()?, self.value()?);
            table.raw_set(key, value)?;
        }
        self.named("map", Value::Table(table))
    }

    fn set(&mut self, length: usize) -> Result<Value> {
        let table = self.lua.create_table_with_capacity(0, length)?;
        for _ in 0..length {
            let member = self.value()?;
            table.raw_set(member, true)?;
        }
        self.named("set", Value::Table(table))
    }

    /// What is told of a reply is not shown to scripts.
    fn behind_attributes(&mut self, length: usize) -> Result<Value> {
        for _ in 0..2 * length {
            self.value()?;
        }
        self.value()
    }

    fn verbatim(&mut self, length: usize) -> Result<Value> {
        let bytes = self.bytes(length)?;
        let (format, string) = bytes.split_at_checked(4).ok_or_else(broken)?;
        let table = self.lua.create_table()?;
        table.raw_set("format", self.lua.create_string(&format[..3])?)?;
        table.raw_set("string", self.lua.create_string(string)?)?;
        self.named("verbatim_string", Value::Table(table))
    }

    fn named(&self, name: &str, value: Value) -> Result<Value> {
        let table = self.lua.create_table()?;
        table.raw_set(name, value)?;
        Ok(Value::Table(table))
    }
}

fn broken() -> mlua::Error {
    Raised::Reply(b"ERR a command's reply could not be read".to_vec()).into()
}

fn number(text: &[u8]) -> Result<i64> {
    let text = std::str::from_utf8(text).map_err(|_| broken())?;
    // What is beyond comes as the nearest: Lua's numbers are not exact there anyway.
    text.parse::<i128>()
        .map(|n| n.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
        .map_err(|_| broken())
}

fn length(text: &[u8]) -> Result<Option<usize>> {
    Ok(usize::try_from(number(text)?).ok())
}

fn double(text: &[u8]) -> Result<f64> {
    let text = std::str::from_utf8(text).map_err(|_| broken())?;
    text.parse().map_err(|_| broken())
}
