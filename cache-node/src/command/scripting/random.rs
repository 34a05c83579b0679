//! `math.random` and `math.randomseed` of scripts: the numbers of POSIX's lrand48, so that a seed gives the same everywhere, as in Redis.

use std::cell::Cell;

use mlua::{Lua, MultiValue, Table, Value};

use super::raise::{Oops, bad_argument};

const MULTIPLIER: u64 = 0x5_DEEC_E66D;
const INCREMENT: u64 = 0xB;
const MASK: u64 = (1 << 48) - 1;
const REACH: u64 = 0x7FFF_FFFF;

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
}

fn seed(number: i64) {
    STATE.set((u64::from(number as u32) << 16) | 0x330E);
}

/// A number from 0 up to, but not including, 1.
fn next() -> f64 {
    let state = STATE.get().wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT) & MASK;
    STATE.set(state);
    ((state >> 17) % REACH) as f64 / REACH as f64
}

fn whole(args: &MultiValue, index: usize, function: &str) -> Result<i64, Oops> {
    match args.get(index) {
        Some(Value::Integer(n)) => Ok(*n),
        Some(Value::Number(n)) => Ok(*n as i64),
        Some(Value::String(text)) if number(&text.as_bytes()).is_some() => {
            Ok(number(&text.as_bytes()).unwrap_or_default() as i64)
        }
        other => {
            let what = other.map_or("no value", Value::type_name);
            let what = format!("number expected, got {what}");
            Err(bad_argument(index + 1, function, &what))
        }
    }
}

/// As Lua reads a string where it wants a number.
fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.trim().parse().ok()
}

fn random(args: &MultiValue) -> Result<Value, Oops> {
    let number = next();
    let (low, high) = match args.len() {
        0 => return Ok(Value::Number(number)),
        1 => (1, whole(args, 0, "random")?),
        2 => (whole(args, 0, "random")?, whole(args, 1, "random")?),
        _ => return Err("wrong number of arguments".into()),
    };
    if low > high {
        return Err(bad_argument(args.len(), "random", "interval is empty"));
    }
    let span = (high - low) as f64 + 1.0;
    Ok(Value::Number((number * span).floor() + low as f64))
}

/// Puts the functions into `math`, and seeds them from the hash of nothing in particular.
pub fn put(lua: &Lua, math: &Table) -> mlua::Result<()> {
    seed(uuid::Uuid::new_v4().as_u64_pair().0 as i64);
    math.raw_set(
        "random",
        lua.create_function(|lua, args: MultiValue| random(&args).map_err(|e| e.raise(lua)))?,
    )?;
    math.raw_set(
        "randomseed",
        lua.create_function(|lua, args: MultiValue| {
            seed(whole(&args, 0, "randomseed").map_err(|e| e.raise(lua))?);
            Ok(())
        })?,
    )
}
