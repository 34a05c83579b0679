//! The library `struct` of scripts: numbers and strings as bytes, by a format.

use mlua::{Lua, MultiValue, Table, Value};

use super::raise::{Oops, bad_argument};

/// Bytes of the largest whole number.
const WIDTH_MAX: usize = 32;
/// Where nothing else is said, fields are aligned to this at most.
const ALIGN_MAX: usize = 8;

/// One field of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    kind: Kind,
    size: usize,
    /// Zero bytes before it.
    padding: usize,
    little: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Padding,
    Signed,
    Unsigned,
    Float,
    Double,
    /// Up to a zero byte.
    ZeroEnded,
    /// `size` bytes.
    Chars,
    /// As many bytes as the number before says, or as the value has.
    CharsByNumber,
}

/// Reads a format, field by field.
struct Format<'f> {
    text: &'f [u8],
    at: usize,
    little: bool,
    align: usize,
    /// Bytes before the next field, for alignment.
    total: usize,
}

impl<'f> Format<'f> {
    fn new(text: &'f [u8]) -> Self {
        Self {
            text,
            at: 0,
            little: cfg!(target_endian = "little"),
            align: 1,
            total: 0,
        }
    }

    fn number(&mut self) -> Result<Option<usize>, Oops> {
        let digits = self.text[self.at..]
            .iter()
            .take_while(|b| b.is_ascii_digit());
        let digits = digits.count();
        if digits == 0 {
            return Ok(None);
        }
        let mut number: usize = 0;
        for &b in &self.text[self.at..self.at + digits] {
            number = number * 10 + usize::from(b - b'0');
            if number > i32::MAX as usize {
                return Err("integral size overflow".into());
            }
        }
        self.at += digits;
        Ok(Some(number))
    }

    fn width(&mut self, usual: usize) -> Result<usize, Oops> {
        match self.number()?.unwrap_or(usual) {
            width if width > WIDTH_MAX => {
                Err(format!("integral size {width} is larger than limit of {WIDTH_MAX}").into())
            }
            width => Ok(width),
        }
    }

    /// The next field; the function's name is for errors.
    fn next(&mut self, name: &str) -> Result<Option<Field>, Oops> {
        while let Some(&option) = self.text.get(self.at) {
            self.at += 1;
            let (kind, size) = match option {
                b' ' => continue,
                b'<' | b'>' => {
                    self.little = option == b'<';
                    continue;
                }
                b'!' => {
                    let align = self.width(ALIGN_MAX)?;
                    if !align.is_power_of_two() {
                        return Err("alignment is not a power of 2".into());
                    }
                    self.align = align;
                    continue;
                }
                b'b' => (Kind::Signed, 1),
                b'B' => (Kind::Unsigned, 1),
                b'h' => (Kind::Signed, 2),
                b'H' => (Kind::Unsigned, 2),
                b'l' => (Kind::Signed, 8),
                b'L' | b'T' => (Kind::Unsigned, 8),
                b'i' => (Kind::Signed, self.width(4)?),
                b'I' => (Kind::Unsigned, self.width(4)?),
                b'f' => (Kind::Float, 4),
                b'd' | b'n' => (Kind::Double, 8),
                b'x' => (Kind::Padding, 1),
                b's' => (Kind::ZeroEnded, 0),
                b'c' => match self.number()? {
                    Some(0) => (Kind::CharsByNumber, 0),
                    size => (Kind::Chars, size.unwrap_or(1)),
                },
                other => {
                    let other = char::from(other);
                    let what = format!("invalid format option '{other}'");
                    return Err(bad_argument(1, name, &what));
                }
            };
            let padding = self.padding(kind, size);
            return Ok(Some(Field {
                kind,
                size,
                padding,
                little: self.little,
            }));
        }
        Ok(None)
    }

    fn padding(&self, kind: Kind, size: usize) -> usize {
        let aligned = matches!(
            kind,
            Kind::Signed | Kind::Unsigned | Kind::Float | Kind::Double
        );
        let align = size.min(self.align);
        match aligned && align > 1 && align.is_power_of_two() {
            true => (align - (self.total & (align - 1))) & (align - 1),
            false => 0,
        }
    }
}

fn string(args: &MultiValue, index: usize, name: &str) -> Result<Vec<u8>, Oops> {
    match args.get(index) {
        Some(Value::String(text)) => Ok(text.as_bytes().to_vec()),
        Some(Value::Integer(n)) => Ok(n.to_string().into_bytes()),
        Some(Value::Number(n)) => Ok(super::numbers::general(*n, 14).into_bytes()),
        other => {
            let got = other.map_or("no value", Value::type_name);
            let got = format!("string expected, got {got}");
            Err(bad_argument(index + 1, name, &got))
        }
    }
}

fn number(args: &MultiValue, index: usize, name: &str) -> Result<f64, Oops> {
    let parsed = match args.get(index) {
        Some(Value::Integer(n)) => return Ok(*n as f64),
        Some(Value::Number(n)) => return Ok(*n),
        Some(Value::String(text)) => text.to_string_lossy().trim().parse().ok(),
        _ => None,
    };
    parsed.ok_or_else(|| {
        let got = args.get(index).map_or("no value", Value::type_name);
        bad_argument(index + 1, name, &format!("number expected, got {got}"))
    })
}

fn put_whole(out: &mut Vec<u8>, value: f64, field: Field) {
    // Beyond 64 bits the sign goes on; unsigned numbers have none.
    let wide = if value < 0.0 {
        value as i64 as i128
    } else {
        i128::from(value as u64)
    };
    let mut bytes: Vec<u8> = (0..field.size)
        .map(|i| (wide >> (8 * i).min(120)) as u8)
        .collect();
    if !field.little {
        bytes.reverse();
    }
    out.extend_from_slice(&bytes);
}

fn put(out: &mut Vec<u8>, bytes: &mut [u8], little: bool) {
    if !little {
        bytes.reverse();
    }
    out.extend_from_slice(bytes);
}

fn pack(lua: &Lua, args: &MultiValue) -> Result<MultiValue, Oops> {
    let text = string(args, 0, "pack")?;
    let mut format = Format::new(&text);
    let (mut out, mut next) = (Vec::new(), 1);
    while let Some(field) = format.next("pack")? {
        out.resize(out.len() + field.padding, 0);
        let taken = usize::from(field.kind != Kind::Padding);
        match field.kind {
            Kind::Padding => out.push(0),
            Kind::Signed | Kind::Unsigned => {
                put_whole(&mut out, number(args, next, "pack")?, field)
            }
            Kind::Float => {
                let value = number(args, next, "pack")? as f32;
                put(&mut out, &mut value.to_le_bytes(), field.little);
            }
            Kind::Double => {
                let value = number(args, next, "pack")?;
                put(&mut out, &mut value.to_le_bytes(), field.little);
            }
            Kind::ZeroEnded => {
                out.extend_from_slice(&string(args, next, "pack")?);
                out.push(0);
            }
            Kind::Chars | Kind::CharsByNumber => {
                let value = string(args, next, "pack")?;
                let size = if field.kind == Kind::Chars {
                    field.size
                } else {
                    value.len()
                };
                let Some(value) = value.get(..size) else {
                    return Err(bad_argument(next + 2, "pack", "string too short"));
                };
                out.extend_from_slice(value);
            }
        }
        next += taken;
        format.total = out.len();
    }
    let packed = Value::String(lua.create_string(out)?);
    Ok(MultiValue::from_vec(vec![packed]))
}

fn get_whole(bytes: &[u8], field: Field) -> f64 {
    let byte = |i: usize| {
        if field.little {
            bytes[i]
        } else {
            bytes[field.size - 1 - i]
        }
    };
    let low = (0..field.size.min(8)).fold(0u64, |n, i| n | u64::from(byte(i)) << (8 * i));
    if field.kind == Kind::Unsigned {
        return low as f64;
    }
    let shift = 64 - 8 * field.size.min(8) as u32;
    match shift {
        64 => 0.0,
        _ => ((low << shift) as i64 >> shift) as f64,
    }
}

fn fixed<const N: usize>(bytes: &[u8], little: bool) -> [u8; N] {
    let mut fixed = [0; N];
    fixed.copy_from_slice(bytes);
    if !little {
        fixed.reverse();
    }
    fixed
}

fn unpack(lua: &Lua, args: &MultiValue) -> Result<MultiValue, Oops> {
    const SHORT: &str = "data string too short";
    let text = string(args, 0, "unpack")?;
    let data = string(args, 1, "unpack")?;
    let first = match args.get(2) {
        None | Some(Value::Nil) => 1.0,
        Some(_) => number(args, 2, "unpack")?,
    };
    if first < 1.0 {
        return Err(bad_argument(3, "unpack", "offset must be 1 or greater"));
    }
    let mut at = first as usize - 1;
    let mut format = Format::new(&text);
    let mut values: Vec<Value> = Vec::new();
    loop {
        format.total = at;
        let Some(field) = format.next("unpack")? else {
            break;
        };
        at = at.saturating_add(field.padding);
        let size = match field.kind {
            Kind::Padding => 1,
            Kind::CharsByNumber => match values.pop() {
                Some(Value::Number(n)) if n >= 0.0 => n as usize,
                _ => return Err("format 'c0' needs a previous size".into()),
            },
            Kind::ZeroEnded => {
                let rest = data.get(at..).unwrap_or_default();
                let end = rest.iter().position(|&b| b == 0);
                end.ok_or("unfinished string in data")?
            }
            _ => field.size,
        };
        let end = at.checked_add(size).ok_or(SHORT)?;
        let Some(bytes) = data.get(at..end) else {
            return Err(bad_argument(2, "unpack", SHORT));
        };
        at = end + usize::from(field.kind == Kind::ZeroEnded);
        if values.len() >= crate::limits::SCRIPT_RESULTS_MAX {
            return Err("too many results to unpack".into());
        }
        match field.kind {
            Kind::Padding => {}
            Kind::Signed | Kind::Unsigned => values.push(Value::Number(get_whole(bytes, field))),
            Kind::Float => {
                let value = f32::from_le_bytes(fixed(bytes, field.little));
                values.push(Value::Number(value.into()));
            }
            Kind::Double => {
                let value = f64::from_le_bytes(fixed(bytes, field.little));
                values.push(Value::Number(value));
            }
            _ => values.push(Value::String(lua.create_string(bytes)?)),
        }
    }
    values.push(Value::Number((at + 1) as f64));
    Ok(MultiValue::from_vec(values))
}

fn size(_: &Lua, args: &MultiValue) -> Result<MultiValue, Oops> {
    let text = string(args, 0, "size")?;
    let mut format = Format::new(&text);
    while let Some(field) = format.next("size")? {
        let size = match field.kind {
            Kind::ZeroEnded => {
                return Err(bad_argument(1, "size", "option 's' has no fixed size"));
            }
            Kind::CharsByNumber => {
                return Err(bad_argument(1, "size", "option 'c0' has no fixed size"));
            }
            Kind::Padding => 1,
            _ => field.size,
        };
        format.total += field.padding + size;
        if format.total > i32::MAX as usize {
            return Err(bad_argument(1, "size", "format result too large"));
        }
    }
    Ok(MultiValue::from_vec(vec![Value::Number(
        format.total as f64,
    )]))
}

type Function = fn(&Lua, &MultiValue) -> Result<MultiValue, Oops>;

/// Makes the table.
pub fn make(lua: &Lua) -> mlua::Result<Table> {
    const FUNCTIONS: [(&str, Function); 3] = [("pack", pack), ("unpack", unpack), ("size", size)];
    let table = lua.create_table()?;
    for (name, function) in FUNCTIONS {
        let function = lua.create_function(move |lua, args: MultiValue| {
            function(lua, &args).map_err(|e| e.raise(lua))
        })?;
        table.raw_set(name, function)?;
    }
    Ok(table)
}
