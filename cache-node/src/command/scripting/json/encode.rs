//! Lua's values as JSON.

use mlua::{Table, Value};

use super::super::numbers::general;
use super::super::raise::Oops;
use super::super::stack;
use super::{Invalid, Settings};
use crate::limits::SCRIPT_DEPTH_MAX;

/// See the module's text.
pub fn encode(value: &Value, settings: Settings) -> Result<Vec<u8>, Oops> {
    let mut encoder = Encoder {
        text: Vec::new(),
        settings,
    };
    encoder.value(value, 0)?;
    Ok(encoder.text)
}

struct Encoder {
    text: Vec<u8>,
    settings: Settings,
}

impl Encoder {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Oops> {
        match value {
            Value::Nil => self.text.extend_from_slice(b"null"),
            Value::LightUserData(_) if value.is_null() => self.text.extend_from_slice(b"null"),
            Value::Boolean(true) => self.text.extend_from_slice(b"true"),
            Value::Boolean(false) => self.text.extend_from_slice(b"false"),
            Value::Integer(n) => self.number(*n as f64)?,
            Value::Number(n) => self.number(*n)?,
            Value::String(text) => self.string(&text.as_bytes()),
            Value::Table(table) => self.table(table, depth + 1)?,
            other => {
                let kind = other.type_name();
                return Err(format!("Cannot serialise {kind}: type not supported").into());
            }
        }
        Ok(())
    }

    fn number(&mut self, number: f64) -> Result<(), Oops> {
        if !number.is_finite() {
            match self.settings.encode_invalid {
                Invalid::Error => {
                    return Err("Cannot serialise number: must not be NaN or Inf".into());
                }
                Invalid::Null => {
                    self.text.extend_from_slice(b"null");
                    return Ok(());
                }
                Invalid::Shown => {}
            }
        }
        let text = general(number, self.settings.precision as usize);
        self.text.extend_from_slice(text.as_bytes());
        Ok(())
    }

    fn string(&mut self, string: &[u8]) {
        self.text.push(b'"');
        for &byte in string {
            let escaped: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'/' => b"\\/",
                0x08 => b"\\b",
                0x0C => b"\\f",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\t' => b"\\t",
                0..0x20 | 0x7F => {
                    self.text
                        .extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                    continue;
                }
                _ => {
                    self.text.push(byte);
                    continue;
                }
            };
            self.text.extend_from_slice(escaped);
        }
        self.text.push(b'"');
    }

    fn table(&mut self, table: &Table, depth: usize) -> Result<(), Oops> {
        let too_deep = depth as i64 > self.settings.encode_depth || depth > SCRIPT_DEPTH_MAX;
        if too_deep || stack::is_spent() {
            return Err(format!("Cannot serialise, excessive nesting ({depth})").into());
        }
        match self.places(table)? {
            Some(places) if places > 0 => self.array(table, places, depth),
            _ => self.object(table, depth),
        }
    }

    /// How many places an array has; None: it is none.
    fn places(&self, table: &Table) -> Result<Option<i64>, Oops> {
        let (mut most, mut items) = (0, 0);
        for pair in table.pairs::<Value, Value>() {
            let place = match pair?.0 {
                Value::Integer(n) if n > 0 => n,
                Value::Number(n) if n >= 1.0 && n.fract() == 0.0 => n as i64,
                _ => return Ok(None),
            };
            most = most.max(place);
            items += 1;
        }
        let settings = self.settings;
        let sparse = settings.sparse_ratio > 0
            && most > items * settings.sparse_ratio
            && most > settings.sparse_safe;
        match (sparse, settings.sparse_convert) {
            (true, true) => Ok(None),
            (true, false) => Err("Cannot serialise table: excessively sparse array".into()),
            _ => Ok(Some(most)),
        }
    }

    fn array(&mut self, table: &Table, places: i64, depth: usize) -> Result<(), Oops> {
        self.text.push(b'[');
        for i in 1..=places {
            if i > 1 {
                self.text.push(b',');
            }
            let item: Value = table.raw_get(i)?;
            self.value(&item, depth)?;
        }
        self.text.push(b']');
        Ok(())
    }

    fn object(&mut self, table: &Table, depth: usize) -> Result<(), Oops> {
        self.text.push(b'{');
        let mut first = true;
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair?;
            if !std::mem::take(&mut first) {
                self.text.push(b',');
            }
            match key {
                Value::String(key) => self.string(&key.as_bytes()),
                Value::Integer(_) | Value::Number(_) => {
                    self.text.push(b'"');
                    self.value(&key, depth)?;
                    self.text.push(b'"');
                }
                other => {
                    let kind = other.type_name();
                    let what = "table key must be a number or string";
                    return Err(format!("Cannot serialise {kind}: {what}").into());
                }
            }
            self.text.push(b':');
            self.value(&value, depth)?;
        }
        self.text.push(b'}');
        Ok(())
    }
}
