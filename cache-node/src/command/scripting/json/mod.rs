//! The library `cjson` of scripts, as lua-cjson 2.1 has it. What is set lasts for the script that sets it.

mod decode;
mod encode;

use std::cell::Cell;

use mlua::{Lua, MultiValue, Table, Value};

use super::raise::{Oops, bad_argument};

/// How it encodes and decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settings {
    /// An array may have so many times as many places as items,
    sparse_ratio: i64,
    /// once it has more places than this.
    sparse_safe: i64,
    /// A sparser one becomes an object, else an error.
    sparse_convert: bool,
    encode_depth: i64,
    decode_depth: i64,
    /// Digits of a number.
    precision: i64,
    encode_invalid: Invalid,
    decode_invalid: bool,
    keep_buffer: bool,
}

/// What becomes of a number that JSON has no form for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Invalid {
    Error,
    Shown,
    Null,
}

const DEFAULT: Settings = Settings {
    sparse_ratio: 2,
    sparse_safe: 10,
    sparse_convert: false,
    encode_depth: 1000,
    decode_depth: 1000,
    precision: 14,
    encode_invalid: Invalid::Error,
    decode_invalid: true,
    keep_buffer: true,
};

thread_local! {
    static SETTINGS: Cell<Settings> = const { Cell::new(DEFAULT) };
}

/// The next script begins with what is usual.
pub fn forget_settings() {
    SETTINGS.set(DEFAULT);
}

fn string(args: &MultiValue, function: &str) -> Result<Vec<u8>, Oops> {
    match (args.len(), args.front()) {
        (1, Some(Value::String(text))) => Ok(text.as_bytes().to_vec()),
        (1, Some(Value::Integer(n))) => Ok(n.to_string().into_bytes()),
        (1, Some(Value::Number(n))) => Ok(super::numbers::general(*n, 14).into_bytes()),
        (0, _) => Err(bad_argument(1, function, "expected 1 argument")),
        (1, Some(other)) => {
            let got = format!("string expected, got {}", other.type_name());
            Err(bad_argument(1, function, &got))
        }
        _ => Err(bad_argument(1, function, "expected 1 argument")),
    }
}

/// The whole number of an optional argument, within bounds.
fn whole(
    args: &MultiValue,
    index: usize,
    (function, least, most): (&str, i64, i64),
) -> Result<Option<i64>, Oops> {
    let number = match args.get(index) {
        None | Some(Value::Nil) => return Ok(None),
        Some(Value::Integer(n)) => *n,
        Some(Value::Number(n)) => *n as i64,
        Some(other) => {
            let got = format!("number expected, got {}", other.type_name());
            return Err(bad_argument(index + 1, function, &got));
        }
    };
    if (least..=most).contains(&number) {
        return Ok(Some(number));
    }
    let what = format!("expected integer between {least} and {most}");
    Err(bad_argument(index + 1, function, &what))
}

fn flag(args: &MultiValue, index: usize, function: &str) -> Result<Option<bool>, Oops> {
    match args.get(index) {
        None | Some(Value::Nil) => Ok(None),
        Some(Value::Boolean(yes)) => Ok(Some(*yes)),
        Some(other) => {
            let got = format!("boolean expected, got {}", other.type_name());
            Err(bad_argument(index + 1, function, &got))
        }
    }
}

const MOST: i64 = i32::MAX as i64;

fn sparse_array(_: &Lua, args: &MultiValue) -> Result<Vec<Value>, Oops> {
    let name = "encode_sparse_array";
    let mut settings = SETTINGS.get();
    if let Some(yes) = flag(args, 0, name)? {
        settings.sparse_convert = yes;
    }
    if let Some(ratio) = whole(args, 1, (name, 0, MOST))? {
        settings.sparse_ratio = ratio;
    }
    if let Some(safe) = whole(args, 2, (name, 0, MOST))? {
        settings.sparse_safe = safe;
    }
    SETTINGS.set(settings);
    Ok(vec![
        Value::Boolean(settings.sparse_convert),
        Value::Integer(settings.sparse_ratio),
        Value::Integer(settings.sparse_safe),
    ])
}

fn encode_invalid_numbers(lua: &Lua, args: &MultiValue) -> Result<Vec<Value>, Oops> {
    let mut settings = SETTINGS.get();
    settings.encode_invalid = match args.front() {
        None | Some(Value::Nil) => settings.encode_invalid,
        Some(Value::Boolean(true)) => Invalid::Shown,
        Some(Value::Boolean(false)) => Invalid::Error,
        Some(Value::String(text)) if *text == "null" => Invalid::Null,
        Some(_) => {
            return Err(bad_argument(1, "encode_invalid_numbers", "invalid option"));
        }
    };
    SETTINGS.set(settings);
    Ok(vec![match settings.encode_invalid {
        Invalid::Error => Value::Boolean(false),
        Invalid::Shown => Value::Boolean(true),
        Invalid::Null => Value::String(lua.create_string("null")?),
    }])
}

fn decode_invalid_numbers(_: &Lua, args: &MultiValue) -> Result<Vec<Value>, Oops> {
    let mut settings = SETTINGS.get();
    if let Some(yes) = flag(args, 0, "decode_invalid_numbers")? {
        settings.decode_invalid = yes;
    }
    SETTINGS.set(settings);
    Ok(vec![Value::Boolean(settings.decode_invalid)])
}

/// No buffer outlives its call, so what is asked for changes the answer alone.
fn encode_keep_buffer(_: &Lua, args: &MultiValue) -> Result<Vec<Value>, Oops> {
    let mut settings = SETTINGS.get();
    if let Some(yes) = flag(args, 0, "encode_keep_buffer")? {
        settings.keep_buffer = yes;
    }
    SETTINGS.set(settings);
    Ok(vec![Value::Boolean(settings.keep_buffer)])
}

fn limit(
    args: &MultiValue,
    bounds: (&str, i64, i64),
    field: fn(&mut Settings) -> &mut i64,
) -> Result<Vec<Value>, Oops> {
    let mut settings = SETTINGS.get();
    if let Some(number) = whole(args, 0, bounds)? {
        *field(&mut settings) = number;
    }
    SETTINGS.set(settings);
    Ok(vec![Value::Integer(*field(&mut settings))])
}

type Setter = fn(&Lua, &MultiValue) -> Result<Vec<Value>, Oops>;

const SETTERS: [(&str, Setter); 8] = [
    ("encode_sparse_array", sparse_array),
    ("encode_invalid_numbers", encode_invalid_numbers),
    ("decode_invalid_numbers", decode_invalid_numbers),
    ("encode_keep_buffer", encode_keep_buffer),
    ("encode_max_depth", |_, a| {
        limit(a, ("encode_max_depth", 1, MOST), |s| &mut s.encode_depth)
    }),
    ("decode_max_depth", |_, a| {
        limit(a, ("decode_max_depth", 1, MOST), |s| &mut s.decode_depth)
    }),
    ("encode_number_precision", |_, a| {
        limit(a, ("encode_number_precision", 1, 14), |s| &mut s.precision)
    }),
    ("new", |_, _| Err("cjson.new is not supported".into())),
];

fn encode(lua: &Lua, args: &MultiValue) -> Result<Value, Oops> {
    let (1, Some(value)) = (args.len(), args.front()) else {
        return Err(bad_argument(1, "encode", "expected 1 argument"));
    };
    let text = encode::encode(value, SETTINGS.get())?;
    Ok(Value::String(lua.create_string(text)?))
}

fn decode(lua: &Lua, args: &MultiValue) -> Result<Value, Oops> {
    decode::decode(lua, &string(args, "decode")?, SETTINGS.get())
}

/// Makes the table.
pub fn make(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    let encode = |lua: &Lua, args: MultiValue| encode(lua, &args).map_err(|e| e.raise(lua));
    let decode = |lua: &Lua, args: MultiValue| decode(lua, &args).map_err(|e| e.raise(lua));
    table.raw_set("encode", lua.create_function(encode)?)?;
    table.raw_set("decode", lua.create_function(decode)?)?;
    for (name, setter) in SETTERS {
        let function = lua.create_function(move |lua, args: MultiValue| {
            let values = setter(lua, &args).map_err(|e| e.raise(lua))?;
            Ok(MultiValue::from_vec(values))
        })?;
        table.raw_set(name, function)?;
    }
    table.raw_set("null", Value::NULL)?;
    table.raw_set("_NAME", "cjson")?;
    table.raw_set("_VERSION", "2.1.0")?;
    Ok(table)
}
