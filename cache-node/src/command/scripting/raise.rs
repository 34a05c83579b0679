//! Errors in scripts: raised by our functions, seen by the script as Redis's are, and told to the client with their place.

use std::fmt;

use mlua::{Error, Lua, Table, Value};

/// Where our own Lua code says it comes from: it is no place to tell a script's author.
pub const HOST: &str = "=host";

/// An error that a function of ours raises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Raised {
    /// A string, with its place.
    Text(Vec<u8>),
    /// An error of one of `redis`'s functions: a table with `err`. The first word is its code.
    Reply(Vec<u8>),
    /// A command's, which is counted already.
    Command(Vec<u8>),
    /// By `SCRIPT KILL`.
    Killed,
    /// It ran for too long.
    Endless,
}

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.text()))
    }
}

impl std::error::Error for Raised {}

impl Raised {
    fn text(&self) -> Vec<u8> {
        match self {
            Self::Text(text) | Self::Reply(text) | Self::Command(text) => text.clone(),
            Self::Killed => b"Script killed by user with SCRIPT KILL...".to_vec(),
            Self::Endless => b"Script ended: it ran for longer than any may".to_vec(),
        }
    }
}

impl From<Raised> for Error {
    fn from(raised: Raised) -> Self {
        Self::external(raised)
    }
}

/// What a library's function fails with.
#[derive(Debug)]
pub enum Oops {
    /// A message that lacks its place.
    Text(String),
    Lua(Error),
}

impl From<Error> for Oops {
    fn from(error: Error) -> Self {
        Self::Lua(error)
    }
}

impl From<String> for Oops {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Oops {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl Oops {
    /// To be raised, with the place of the function's caller.
    pub fn raise(self, lua: &Lua) -> Error {
        let text = match self {
            Self::Lua(error) => return error,
            Self::Text(text) => text,
        };
        let place = lua.inspect_stack(1, |frame| {
            let line = frame.current_line()?;
            Some(format!("{}:{line}: ", frame.source().short_src?))
        });
        let place = place.flatten().unwrap_or_default();
        Raised::Text(format!("{place}{text}").into_bytes()).into()
    }
}

/// As Lua's own functions complain of an argument.
pub fn bad_argument(index: usize, function: &str, what: &str) -> Oops {
    format!("bad argument #{index} to '{function}' ({what})").into()
}

/// An error of a function of ours, if it is one.
pub fn raised(error: &Error) -> Option<&Raised> {
    match error {
        Error::CallbackError { cause, .. } | Error::WithContext { cause, .. } => raised(cause),
        Error::ExternalError(error) => error.downcast_ref(),
        _ => None,
    }
}

/// The first line of what happened, without what mlua adds.
pub fn first_line(error: &Error) -> String {
    let inner = match error {
        Error::CallbackError { cause, .. } | Error::WithContext { cause, .. } => {
            return first_line(cause);
        }
        Error::RuntimeError(text) | Error::MemoryError(text) => text.clone(),
        Error::SyntaxError { message, .. } => message.clone(),
        other => other.to_string(),
    };
    inner.lines().next().unwrap_or_default().to_owned()
}

/// What a script sees of an error that it caught: `pcall` shows the text of a command's error, others the table.
pub fn caught(lua: &Lua, error: Value, as_text: bool) -> mlua::Result<Value> {
    let Value::Error(error) = error else {
        return Ok(error);
    };
    match raised(&error) {
        Some(raised @ (Raised::Reply(text) | Raised::Command(text))) if !as_text => {
            let table = lua.create_table()?;
            table.raw_set("err", lua.create_string(text)?)?;
            if matches!(raised, Raised::Command(_)) {
                table.raw_set(COUNTED, true)?;
            }
            Ok(Value::Table(table))
        }
        Some(raised) => Ok(Value::String(lua.create_string(raised.text())?)),
        None => Ok(Value::String(lua.create_string(first_line(&error))?)),
    }
}

/// Why a script failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The first word is its code.
    pub message: Vec<u8>,
    /// Source and line.
    pub place: Option<(String, usize)>,
    /// It is a command's, and was counted as its.
    pub counted: bool,
}

/// What marks a table with `err` as an error that was counted already: Redis's name for it.
pub const COUNTED: &str = "ignore_error_stats_update";

/// Whether a table is marked so.
pub fn is_counted(table: &Table) -> bool {
    matches!(table.raw_get::<Value>(COUNTED), Ok(Value::Boolean(true)))
}

/// What is told of an error that nobody caught, and where it came from. Called where it was raised.
pub fn uncaught(lua: &Lua, error: &Value) -> Failure {
    let text = |text: &[u8]| [b"ERR ", text].concat();
    let counted = match error {
        Value::Error(error) => matches!(raised(error), Some(Raised::Command(_))),
        Value::Table(table) => is_counted(table),
        _ => false,
    };
    let message = match error {
        Value::Error(error) => match raised(error) {
            Some(Raised::Reply(reply) | Raised::Command(reply)) => reply.clone(),
            Some(raised) => text(&raised.text()),
            None => text(first_line(error).as_bytes()),
        },
        Value::Table(table) => match table.raw_get::<Value>("err") {
            Ok(Value::String(err)) => err.as_bytes().to_vec(),
            _ => b"ERR unknown error".to_vec(),
        },
        Value::String(string) => text(&string.as_bytes()),
        other => text(other.to_string().unwrap_or_default().as_bytes()),
    };
    Failure {
        message,
        place: place(lua),
        counted,
    }
}

fn place(lua: &Lua) -> Option<(String, usize)> {
    // The handler itself is the first; C functions and our own Lua code have no lines to tell.
    for level in 1.. {
        let found = lua.inspect_stack(level, |frame| {
            let source = frame.source();
            let own = source.what == "C" || source.source.as_deref() == Some(HOST);
            match (own, source.source, frame.current_line()) {
                (false, Some(source), Some(line)) => Some((source.into_owned(), line)),
                _ => None,
            }
        })?;
        if found.is_some() {
            return found;
        }
    }
    None
}
