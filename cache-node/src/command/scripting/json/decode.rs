//! JSON as Lua's values, with the errors of lua-cjson: what was expected, what was found, and where.

use mlua::{Lua, Value};

use super::super::raise::Oops;
use super::super::stack;
use super::Settings;
use crate::limits::SCRIPT_DEPTH_MAX;

/// See the module's text.
pub fn decode(lua: &Lua, text: &[u8], settings: Settings) -> Result<Value, Oops> {
    // A wide encoding shows in the first two bytes of any JSON.
    if text.len() >= 2 && (text[0] == 0 || text[1] == 0) {
        return Err("JSON parser does not support UTF-16 or UTF-32".into());
    }
    let mut decoder = Decoder {
        lua,
        text,
        at: 0,
        settings,
    };
    let first = decoder.next();
    let value = decoder.value(first, 0)?;
    match decoder.next() {
        Found {
            token: Token::End, ..
        } => Ok(value),
        found => Err(expected("the end", &found)),
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    ObjectBegin,
    ObjectEnd,
    ArrayBegin,
    ArrayEnd,
    String(Vec<u8>),
    Number(f64),
    Boolean(bool),
    Null,
    Colon,
    Comma,
    End,
    Error(&'static str),
}

/// A token and where it begins, from 0 on.
struct Found {
    token: Token,
    at: usize,
}

fn expected(what: &str, found: &Found) -> Oops {
    let name = match &found.token {
        Token::ObjectBegin => "T_OBJ_BEGIN",
        Token::ObjectEnd => "T_OBJ_END",
        Token::ArrayBegin => "T_ARR_BEGIN",
        Token::ArrayEnd => "T_ARR_END",
        Token::String(_) => "T_STRING",
        Token::Number(_) => "T_NUMBER",
        Token::Boolean(_) => "T_BOOLEAN",
        Token::Null => "T_NULL",
        Token::Colon => "T_COLON",
        Token::Comma => "T_COMMA",
        Token::End => "T_END",
        Token::Error(text) => text,
    };
    format!(
        "Expected {what} but found {name} at character {}",
        found.at + 1
    )
    .into()
}

struct Decoder<'t> {
    lua: &'t Lua,
    text: &'t [u8],
    at: usize,
    settings: Settings,
}

impl Decoder<'_> {
    fn value(&mut self, found: Found, depth: usize) -> Result<Value, Oops> {
        match found.token {
            Token::String(text) => Ok(Value::String(self.lua.create_string(text)?)),
            Token::Number(number) => Ok(Value::Number(number)),
            Token::Boolean(yes) => Ok(Value::Boolean(yes)),
            Token::Null => Ok(Value::NULL),
            Token::ObjectBegin => self.object(depth + 1),
            Token::ArrayBegin => self.array(depth + 1),
            _ => Err(expected("value", &found)),
        }
    }

    fn descend(&self, depth: usize) -> Result<(), Oops> {
        let deep = depth as i64 <= self.settings.decode_depth && depth <= SCRIPT_DEPTH_MAX;
        if deep && !stack::is_spent() {
            return Ok(());
        }
        let at = self.at;
        Err(format!("Found too many nested data structures ({depth}) at character {at}").into())
    }

    fn object(&mut self, depth: usize) -> Result<Value, Oops> {
        self.descend(depth)?;
        let table = self.lua.create_table()?;
        let mut found = self.next();
        if found.token == Token::ObjectEnd {
            return Ok(Value::Table(table));
        }
        loop {
            let Token::String(key) = found.token else {
                return Err(expected("object key string", &found));
            };
            let key = self.lua.create_string(key)?;
            let colon = self.next();
            if colon.token != Token::Colon {
                return Err(expected("colon", &colon));
            }
            let first = self.next();
            table.raw_set(key, self.value(first, depth)?)?;
            let next = self.next();
            match next.token {
                Token::ObjectEnd => return Ok(Value::Table(table)),
                Token::Comma => found = self.next(),
                _ => return Err(expected("comma or object end", &next)),
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, Oops> {
        self.descend(depth)?;
        let table = self.lua.create_table()?;
        let mut found = self.next();
        if found.token == Token::ArrayEnd {
            return Ok(Value::Table(table));
        }
        for i in 1.. {
            let value = self.value(found, depth)?;
            table.raw_set(i, value)?;
            let next = self.next();
            match next.token {
                Token::ArrayEnd => break,
                Token::Comma => found = self.next(),
                _ => return Err(expected("comma or array end", &next)),
            }
        }
        Ok(Value::Table(table))
    }

    fn next(&mut self) -> Found {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.text.get(self.at) {
            self.at += 1;
        }
        let at = self.at;
        let single = match self.text.get(at) {
            None => Some(Token::End),
            Some(b'{') => Some(Token::ObjectBegin),
            Some(b'}') => Some(Token::ObjectEnd),
            Some(b'[') => Some(Token::ArrayBegin),
            Some(b']') => Some(Token::ArrayEnd),
            Some(b':') => Some(Token::Colon),
            Some(b',') => Some(Token::Comma),
            Some(_) => None,
        };
        if let Some(token) = single {
            self.at += usize::from(token != Token::End);
            return Found { token, at };
        }
        if self.text[at] == b'"' {
            return match self.string() {
                Ok(text) => Found {
                    token: Token::String(text),
                    at,
                },
                Err((text, at)) => Found {
                    token: Token::Error(text),
                    at,
                },
            };
        }
        let token = self.word();
        Found { token, at }
    }

    fn word(&mut self) -> Token {
        let rest = &self.text[self.at..];
        for (word, token) in [
            (&b"true"[..], Token::Boolean(true)),
            (b"false", Token::Boolean(false)),
            (b"null", Token::Null),
        ] {
            if rest.starts_with(word) {
                self.at += word.len();
                return token;
            }
        }
        let named = matches!(rest[0], b'i' | b'I' | b'n' | b'N');
        let failed = match rest[0] {
            b'0'..=b'9' | b'+' | b'-' => Token::Error("invalid number"),
            _ if named && self.settings.decode_invalid => Token::Error("invalid token"),
            _ => return Token::Error("invalid token"),
        };
        match number(rest) {
            None => failed,
            Some((_, _, false)) if !self.settings.decode_invalid => Token::Error("invalid number"),
            Some((number, length, _)) => {
                self.at += length;
                Token::Number(number)
            }
        }
    }

    /// The string that begins here. The error says what is wrong and where.
    fn string(&mut self) -> Result<Vec<u8>, (&'static str, usize)> {
        let mut string = Vec::new();
        self.at += 1;
        loop {
            let Some(&byte) = self.text.get(self.at) else {
                return Err(("unexpected end of string", self.at));
            };
            match byte {
                b'"' => {
                    self.at += 1;
                    return Ok(string);
                }
                b'\\' => self.escape(&mut string)?,
                _ => {
                    string.push(byte);
                    self.at += 1;
                }
            }
        }
    }

    fn escape(&mut self, string: &mut Vec<u8>) -> Result<(), (&'static str, usize)> {
        let plain = match self.text.get(self.at + 1) {
            Some(b'u') => return self.unicode(string),
            Some(b'"') => b'"',
            Some(b'\\') => b'\\',
            Some(b'/') => b'/',
            Some(b'b') => 0x08,
            Some(b'f') => 0x0C,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            _ => return Err(("invalid escape code", self.at)),
        };
        string.push(plain);
        self.at += 2;
        Ok(())
    }

    fn unicode(&mut self, string: &mut Vec<u8>) -> Result<(), (&'static str, usize)> {
        let invalid = ("invalid unicode escape code", self.at);
        let first = self.hex(self.at + 2).ok_or(invalid)?;
        let mut length = 6;
        let code = match first {
            0xD800..0xDC00 => {
                let second = self.text.get(self.at + 6..self.at + 8) == Some(b"\\u");
                let second = second
                    .then(|| self.hex(self.at + 8))
                    .flatten()
                    .ok_or(invalid)?;
                if !(0xDC00..0xE000).contains(&second) {
                    return Err(invalid);
                }
                length = 12;
                0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)
            }
            code => code,
        };
        let code = char::from_u32(code).ok_or(invalid)?;
        string.extend_from_slice(code.encode_utf8(&mut [0; 4]).as_bytes());
        self.at += length;
        Ok(())
    }

    fn hex(&self, at: usize) -> Option<u32> {
        let digits = self.text.get(at..at + 4)?;
        let digits = digits.iter().map(|&b| char::from(b).to_digit(16));
        digits
            .into_iter()
            .try_fold(0, |code, digit| Some(code << 4 | digit?))
    }
}

/// The number that text begins with, as C's `strtod` reads it, its length, and whether JSON has it in that form.
fn number(text: &[u8]) -> Option<(f64, usize, bool)> {
    let negative = text.first() == Some(&b'-');
    let signs = usize::from(negative || text.first() == Some(&b'+'));
    let rest = &text[signs..];
    let signed = |n: f64| if negative { -n } else { n };
    let begins = |word: &[u8]| {
        rest.get(..word.len())
            .is_some_and(|r| r.eq_ignore_ascii_case(word))
    };
    for (word, value) in [
        (&b"infinity"[..], f64::INFINITY),
        (b"inf", f64::INFINITY),
        (b"nan", f64::NAN),
    ] {
        if begins(word) {
            return Some((signed(value), signs + word.len(), false));
        }
    }
    if begins(b"0x") {
        let digits = rest[2..]
            .iter()
            .take_while(|b| b.is_ascii_hexdigit())
            .count();
        if digits > 0 {
            let value = rest[2..2 + digits].iter().fold(0.0, |n, &b| {
                n * 16.0 + f64::from(char::from(b).to_digit(16).unwrap_or_default())
            });
            return Some((signed(value), signs + 2 + digits, false));
        }
    }
    let count = |from: usize| {
        rest[from..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count()
    };
    let whole = count(0);
    let mut end = whole;
    if rest.get(end) == Some(&b'.') {
        end += 1 + count(end + 1);
    }
    if whole == 0 && end < 2 {
        return None;
    }
    if let Some(b'e' | b'E') = rest.get(end) {
        let sign = usize::from(matches!(rest.get(end + 1), Some(b'+' | b'-')));
        let digits = rest
            .get(end + 1 + sign..)
            .map_or(0, |_| count(end + 1 + sign));
        if digits > 0 {
            end += 1 + sign + digits;
        }
    }
    let value: f64 = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    let leading_zero = whole > 1 && rest[0] == b'0';
    let plain = !leading_zero && whole > 0 && text.first() != Some(&b'+');
    Some((signed(value), signs + end, plain))
}
