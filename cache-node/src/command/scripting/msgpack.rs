//! The library `cmsgpack` of scripts: MessagePack, in the forms that Redis's library chooses.

use mlua::{Lua, MultiValue, Table, Value};

use super::raise::{Oops, bad_argument};

/// Tables within tables; what is deeper is packed as nil.
const NESTING: usize = 16;
const MISSING: &str = "Missing bytes in input.";
const BAD: &str = "Bad data format in input.";

fn pack(out: &mut Vec<u8>, value: &Value, depth: usize) -> Result<(), Oops> {
    match value {
        Value::Boolean(yes) => out.push(if *yes { 0xC3 } else { 0xC2 }),
        Value::Integer(n) => pack_integer(out, *n),
        Value::Number(n) => pack_number(out, *n),
        Value::String(text) => pack_string(out, &text.as_bytes()),
        Value::Table(_) if depth == NESTING => out.push(0xC0),
        Value::Table(table) => pack_table(out, table, depth)?,
        _ => out.push(0xC0),
    }
    Ok(())
}

fn pack_number(out: &mut Vec<u8>, number: f64) {
    if number.fract() == 0.0 && (-9.2e18..9.2e18).contains(&number) {
        pack_integer(out, number as i64);
    } else if f64::from(number as f32) == number {
        out.push(0xCA);
        out.extend_from_slice(&(number as f32).to_be_bytes());
    } else {
        out.push(0xCB);
        out.extend_from_slice(&number.to_be_bytes());
    }
}

fn pack_integer(out: &mut Vec<u8>, n: i64) {
    let bytes = n.to_be_bytes();
    let (mark, width) = match n {
        -0x20..=0x7F => return out.push(n as u8),
        0x80..=0xFF => (0xCC, 1),
        0x100..=0xFFFF => (0xCD, 2),
        0x1_0000..=0xFFFF_FFFF => (0xCE, 4),
        0x1_0000_0000.. => (0xCF, 8),
        -0x80..=-0x21 => (0xD0, 1),
        -0x8000..=-0x81 => (0xD1, 2),
        -0x8000_0000..=-0x8001 => (0xD2, 4),
        _ => (0xD3, 8),
    };
    out.push(mark);
    out.extend_from_slice(&bytes[8 - width..]);
}

/// A length, behind the first mark that can hold it; `few`: mark and reach of those within the mark.
fn pack_length(out: &mut Vec<u8>, length: usize, few: (u8, usize), marks: [Option<u8>; 3]) {
    let [one, two, four] = marks;
    match (one, two, four) {
        _ if length < few.1 => out.push(few.0 | length as u8),
        (Some(mark), ..) if length <= 0xFF => out.extend_from_slice(&[mark, length as u8]),
        (_, Some(mark), _) if length <= 0xFFFF => {
            out.push(mark);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        (.., mark) => {
            out.extend(mark);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

fn pack_string(out: &mut Vec<u8>, text: &[u8]) {
    pack_length(
        out,
        text.len(),
        (0xA0, 32),
        [Some(0xD9), Some(0xDA), Some(0xDB)],
    );
    out.extend_from_slice(text);
}

/// An array has the keys 1 to its length and no others.
fn array_length(table: &Table) -> mlua::Result<(usize, bool)> {
    let (mut count, mut most, mut array) = (0, 0, true);
    for pair in table.pairs::<Value, Value>() {
        count += 1;
        match pair?.0 {
            Value::Integer(n) if n > 0 => most = most.max(n),
            _ => array = false,
        }
    }
    Ok((count, array && most == count as i64))
}

fn pack_table(out: &mut Vec<u8>, table: &Table, depth: usize) -> Result<(), Oops> {
    let (count, is_array) = array_length(table)?;
    if is_array {
        pack_length(out, count, (0x90, 16), [None, Some(0xDC), Some(0xDD)]);
        for i in 1..=count {
            let item: Value = table.raw_get(i)?;
            pack(out, &item, depth + 1)?;
        }
        return Ok(());
    }
    pack_length(out, count, (0x80, 16), [None, Some(0xDE), Some(0xDF)]);
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        pack(out, &key, depth + 1)?;
        pack(out, &value, depth + 1)?;
    }
    Ok(())
}

fn pack_all(lua: &Lua, args: &MultiValue) -> Result<MultiValue, Oops> {
    if args.is_empty() {
        return Err(bad_argument(0, "pack", "MessagePack pack needs input."));
    }
    let mut out = Vec::new();
    for value in args {
        pack(&mut out, value, 0)?;
    }
    let text = Value::String(lua.create_string(out)?);
    Ok(MultiValue::from_vec(vec![text]))
}

struct Unpacker<'t> {
    lua: &'t Lua,
    text: &'t [u8],
    at: usize,
}

impl Unpacker<'_> {
    fn take(&mut self, length: usize) -> Result<&[u8], Oops> {
        let end = self.at.checked_add(length).ok_or(MISSING)?;
        let bytes = self.text.get(self.at..end).ok_or(MISSING)?;
        self.at = end;
        Ok(bytes)
    }

    fn unsigned(&mut self, width: usize) -> Result<u64, Oops> {
        Ok(self
            .take(width)?
            .iter()
            .fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    fn signed(&mut self, width: usize) -> Result<i64, Oops> {
        let shift = 64 - 8 * width as u32;
        Ok((self.unsigned(width)? << shift) as i64 >> shift)
    }

    fn string(&mut self, length: usize) -> Result<Value, Oops> {
        let lua = self.lua;
        let bytes = self.take(length)?;
        Ok(Value::String(lua.create_string(bytes)?))
    }

    fn value(&mut self, depth: usize) -> Result<Value, Oops> {
        if depth > crate::limits::SCRIPT_DEPTH_MAX || super::stack::is_spent() {
            return Err("Too many nested data structures in input.".into());
        }
        let mark = self.take(1)?[0];
        match mark {
            0..=0x7F => Ok(Value::Number(f64::from(mark))),
            0xE0..=0xFF => Ok(Value::Number(f64::from(mark as i8))),
            0x80..=0x8F => self.map(usize::from(mark & 15), depth),
            0x90..=0x9F => self.array(usize::from(mark & 15), depth),
            0xA0..=0xBF => self.string(usize::from(mark & 31)),
            0xC0 => Ok(Value::Nil),
            0xC2 => Ok(Value::Boolean(false)),
            0xC3 => Ok(Value::Boolean(true)),
            0xC4..=0xC6 => self.long_string(1 << (mark - 0xC4)),
            0xCA => Ok(Value::Number(
                f32::from_bits(self.unsigned(4)? as u32).into(),
            )),
            0xCB => Ok(Value::Number(f64::from_bits(self.unsigned(8)?))),
            0xCC..=0xCF => Ok(Value::Number(self.unsigned(1 << (mark - 0xCC))? as f64)),
            0xD0..=0xD3 => Ok(Value::Number(self.signed(1 << (mark - 0xD0))? as f64)),
            0xD9..=0xDB => self.long_string(1 << (mark - 0xD9)),
            0xDC | 0xDD => {
                let length = self.unsigned(2 << (mark - 0xDC))? as usize;
                self.array(length, depth)
            }
            0xDE | 0xDF => {
                let length = self.unsigned(2 << (mark - 0xDE))? as usize;
                self.map(length, depth)
            }
            _ => Err(BAD.into()),
        }
    }

    fn long_string(&mut self, width: usize) -> Result<Value, Oops> {
        let length = self.unsigned(width)? as usize;
        self.string(length)
    }

    fn array(&mut self, length: usize, depth: usize) -> Result<Value, Oops> {
        let table = self.lua.create_table()?;
        for i in 1..=length {
            let item = self.value(depth + 1)?;
            table.raw_set(i, item)?;
        }
        Ok(Value::Table(table))
    }

    fn map(&mut self, length: usize, depth: usize) -> Result<Value, Oops> {
        let table = self.lua.create_table()?;
        for _ in 0..length {
            let (key, value) = (self.value(depth + 1)?, self.value(depth + 1)?);
            if key.is_nil() || matches!(key, Value::Number(n) if n.is_nan()) {
                return Err(BAD.into());
            }
            table.raw_set(key, value)?;
        }
        Ok(Value::Table(table))
    }
}

fn whole(args: &MultiValue, index: usize, usual: i64) -> Result<i64, Oops> {
    match args.get(index) {
        None | Some(Value::Nil) => Ok(usual),
        Some(Value::Integer(n)) => Ok(*n),
        Some(Value::Number(n)) => Ok(*n as i64),
        Some(other) => {
            let got = format!("number expected, got {}", other.type_name());
            Err(bad_argument(index + 1, "unpack_limit", &got))
        }
    }
}

/// Up to `limit` values (0: all) from `offset` on; with `tells`, first the offset of the next, or -1.
fn unpack(
    lua: &Lua,
    args: &MultiValue,
    (limit, offset): (i64, i64),
    tells: bool,
) -> Result<MultiValue, Oops> {
    let text = match args.front() {
        Some(Value::String(text)) => text.as_bytes().to_vec(),
        Some(Value::Integer(n)) => n.to_string().into_bytes(),
        Some(Value::Number(n)) => super::numbers::general(*n, 14).into_bytes(),
        other => {
            let got = other.map_or("no value", Value::type_name);
            let got = format!("string expected, got {got}");
            return Err(bad_argument(1, "unpack", &got));
        }
    };
    if offset < 0 || limit < 0 {
        return Err(format!(
            "Invalid request to unpack with offset of {offset} and limit of {}.",
            text.len()
        )
        .into());
    }
    if offset as usize > text.len() {
        return Err(format!(
            "Start offset {offset} greater than input length {}.",
            text.len()
        )
        .into());
    }
    let mut unpacker = Unpacker {
        lua,
        text: &text,
        at: offset as usize,
    };
    let mut values = Vec::new();
    while unpacker.at < text.len() && (limit == 0 || (values.len() as i64) < limit) {
        if values.len() >= crate::limits::SCRIPT_RESULTS_MAX {
            return Err("too many values to unpack".into());
        }
        values.push(unpacker.value(0)?);
    }
    if tells {
        let next = if unpacker.at < text.len() {
            unpacker.at as f64
        } else {
            -1.0
        };
        values.insert(0, Value::Number(next));
    }
    Ok(MultiValue::from_vec(values))
}

fn unpack_one(lua: &Lua, args: &MultiValue) -> Result<MultiValue, Oops> {
    unpack(lua, args, (1, whole(args, 1, 0)?), true)
}

fn unpack_limit(lua: &Lua, args: &MultiValue) -> Result<MultiValue, Oops> {
    unpack(lua, args, (whole(args, 1, 0)?, whole(args, 2, 0)?), true)
}

type Function = fn(&Lua, &MultiValue) -> Result<MultiValue, Oops>;

/// Makes the table.
pub fn make(lua: &Lua) -> mlua::Result<Table> {
    const FUNCTIONS: [(&str, Function); 4] = [
        ("pack", pack_all),
        ("unpack", |lua, args| unpack(lua, args, (0, 0), false)),
        ("unpack_one", unpack_one),
        ("unpack_limit", unpack_limit),
    ];
    let table = lua.create_table()?;
    for (name, function) in FUNCTIONS {
        let function = lua.create_function(move |lua, args: MultiValue| {
            function(lua, &args).map_err(|e| e.raise(lua))
        })?;
        table.raw_set(name, function)?;
    }
    table.raw_set("_NAME", "cmsgpack")?;
    table.raw_set("_VERSION", "lua-cmsgpack 0.4.0")?;
    table.raw_set("_DESCRIPTION", "MessagePack C implementation for Lua")?;
    Ok(table)
}
