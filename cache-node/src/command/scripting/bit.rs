//! The library `bit` of scripts: 32-bit operations, whose results are signed.

use mlua::{Lua, MultiValue, Table, Value};

use super::raise::{Oops, bad_argument};

/// A number modulo 2^32, as LuaJIT's library takes it.
fn bits(args: &MultiValue, index: usize, function: &str) -> Result<u32, Oops> {
    let number = match args.get(index) {
        Some(Value::Integer(n)) => return Ok(*n as u32),
        Some(Value::Number(n)) => *n,
        Some(Value::String(text)) => match text.to_string_lossy().trim().parse() {
            Ok(number) => number,
            Err(_) => return Err(no_number(Some("string"), index, function)),
        },
        other => return Err(no_number(other.map(Value::type_name), index, function)),
    };
    // Adding this leaves the number, rounded, in the low bits.
    let shifted = number + 6_755_399_441_055_744.0;
    Ok(shifted.to_bits() as u32)
}

fn no_number(got: Option<&str>, index: usize, function: &str) -> Oops {
    let got = got.unwrap_or("no value");
    bad_argument(index + 1, function, &format!("number expected, got {got}"))
}

fn signed(bits: u32) -> Value {
    Value::Integer(i64::from(bits as i32))
}

fn fold(args: &MultiValue, name: &str, f: fn(u32, u32) -> u32) -> Result<Value, Oops> {
    let mut all = bits(args, 0, name)?;
    for i in 1..args.len() {
        all = f(all, bits(args, i, name)?);
    }
    Ok(signed(all))
}

fn shift(args: &MultiValue, name: &str, f: fn(u32, u32) -> u32) -> Result<Value, Oops> {
    Ok(signed(f(bits(args, 0, name)?, bits(args, 1, name)? & 31)))
}

fn to_hex(args: &MultiValue) -> Result<String, Oops> {
    let value = bits(args, 0, "tohex")?;
    let digits = match args.get(1) {
        None => 8,
        Some(_) => bits(args, 1, "tohex")? as i32,
    };
    let text = match digits < 0 {
        true => format!("{value:08X}"),
        false => format!("{value:08x}"),
    };
    let keep = (digits.unsigned_abs() as usize).min(8);
    Ok(text[8 - keep..].to_owned())
}

type Operation = fn(&MultiValue) -> Result<Value, Oops>;

const OPERATIONS: [(&str, Operation); 11] = [
    ("tobit", |a| Ok(signed(bits(a, 0, "tobit")?))),
    ("bnot", |a| Ok(signed(!bits(a, 0, "bnot")?))),
    ("bswap", |a| Ok(signed(bits(a, 0, "bswap")?.swap_bytes()))),
    ("band", |a| fold(a, "band", |x, y| x & y)),
    ("bor", |a| fold(a, "bor", |x, y| x | y)),
    ("bxor", |a| fold(a, "bxor", |x, y| x ^ y)),
    ("lshift", |a| shift(a, "lshift", |x, n| x << n)),
    ("rshift", |a| shift(a, "rshift", |x, n| x >> n)),
    ("arshift", |a| {
        shift(a, "arshift", |x, n| ((x as i32) >> n) as u32)
    }),
    ("rol", |a| shift(a, "rol", u32::rotate_left)),
    ("ror", |a| shift(a, "ror", u32::rotate_right)),
];

/// Makes the table.
pub fn make(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    for (name, operation) in OPERATIONS {
        let function = lua.create_function(move |lua, args: MultiValue| {
            operation(&args).map_err(|e| e.raise(lua))
        })?;
        table.raw_set(name, function)?;
    }
    let hex =
        lua.create_function(|lua, args: MultiValue| to_hex(&args).map_err(|e| e.raise(lua)))?;
    table.raw_set("tohex", hex)?;
    Ok(table)
}
