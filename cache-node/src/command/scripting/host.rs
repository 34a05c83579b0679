//! The Lua state of a thread: made when its first script runs, and used for all of them. Scripts share nothing but its libraries.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use mlua::chunk::ChunkMode;
use mlua::{
    Error, Function, HookTriggers, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Value,
    VmState,
};

use super::call::{self, Caller};
use super::raise::{Failure, HOST, Raised, caught, first_line, uncaught};
use super::redis_table::{self, RUN};
use super::running::{Run, Verdict};
use super::to_reply::{Told, to_reply};
use super::{bit, json, msgpack, random, structs};
use crate::limits::{SCRIPT_FUNCTIONS_MAX, SCRIPT_HOOK_INSTRUCTIONS, SCRIPT_MEMORY_KEEP};
use crate::protocol::Reply;

const SANDBOX: &str = include_str!("sandbox.lua");
/// What scripts are called in errors.
const SCRIPT: &str = "@user_script";

/// See the module's text.
pub struct Host {
    lua: Lua,
    /// The globals themselves; scripts see them through a table that they cannot change.
    globals: Table,
    /// Tables that show others and hold nothing themselves.
    protected: Rc<RefCell<Vec<Table>>>,
    xpcall: Function,
    handler: Function,
    failure: Rc<RefCell<Option<Failure>>>,
    /// What the hook looks at.
    run: Rc<RefCell<Option<Arc<Run>>>>,
    ended: Rc<Cell<bool>>,
    functions: HashMap<String, Function>,
    /// Keeps the scripts' name alive: Lua's parser does not.
    _name: LuaString,
}

impl Host {
    /// A state that takes up to so many bytes.
    pub fn new(memory_max: usize) -> mlua::Result<Self> {
        let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::OS;
        let lua = Lua::new_with(libraries, LuaOptions::new())?;
        let globals = lua.globals();
        globals.raw_set("redis", redis_table::make(&lua)?)?;
        globals.raw_set("bit", bit::make(&lua)?)?;
        globals.raw_set("cjson", json::make(&lua)?)?;
        globals.raw_set("cmsgpack", msgpack::make(&lua)?)?;
        globals.raw_set("struct", structs::make(&lua)?)?;
        random::put(&lua, &globals.raw_get("math")?)?;
        let xpcall = globals.raw_get("xpcall")?;
        let failure = Rc::new(RefCell::new(None));
        let handler = {
            let failure = failure.clone();
            lua.create_function(move |lua, error: Value| {
                *failure.borrow_mut() = Some(uncaught(lua, &error));
                Ok(())
            })?
        };
        let protected = Rc::new(RefCell::new(Vec::new()));
        let host = lua.create_table()?;
        let keep = protected.clone();
        host.raw_set(
            "protected",
            lua.create_function(move |_, table: Table| {
                keep.borrow_mut().push(table);
                Ok(())
            })?,
        )?;
        host.raw_set(
            "caught",
            lua.create_function(|lua, (e, as_text): (Value, bool)| caught(lua, e, as_text))?,
        )?;
        let _name = lua.create_string(SCRIPT)?;
        let shown: Table = lua
            .load(SANDBOX)
            .set_name(HOST)
            .set_mode(ChunkMode::Text)
            .call((&globals, host))?;
        lua.set_globals(shown)?;
        let this = Self {
            globals,
            protected,
            xpcall,
            handler,
            failure,
            run: Rc::default(),
            ended: Rc::default(),
            functions: HashMap::new(),
            _name,
            lua,
        };
        this.watch_time()?;
        this.lua.set_memory_limit(memory_max)?;
        Ok(this)
    }

    /// Looks at the time, and whether it is to end, while a script runs.
    fn watch_time(&self) -> mlua::Result<()> {
        let (run, ended) = (self.run.clone(), self.ended.clone());
        let often = HookTriggers::new().every_nth_instruction(SCRIPT_HOOK_INSTRUCTIONS);
        self.lua.set_global_hook(often, move |lua, _| {
            let verdict = run
                .borrow()
                .as_ref()
                .map_or(Verdict::GoOn, |run| run.look());
            let raised = match verdict {
                Verdict::GoOn => return Ok(VmState::Continue),
                Verdict::Killed => Raised::Killed,
                Verdict::Endless => Raised::Endless,
            };
            // A script that catches the error meets it again at its next instruction.
            if !ended.replace(true) {
                let always = HookTriggers::new().every_nth_instruction(1);
                lua.set_hook(always, move |_, _| Err(raised.clone().into()))?;
                return Err(match verdict {
                    Verdict::Endless => Raised::Endless,
                    _ => Raised::Killed,
                }
                .into());
            }
            Err(raised.into())
        })
    }

    /// Whether it can run no further script.
    pub fn is_spent(&self) -> bool {
        self.ended.get()
    }

    /// It takes up to so many bytes from now on.
    pub fn set_memory_max(&self, bytes: usize) -> mlua::Result<()> {
        self.lua.set_memory_limit(bytes).map(|_| ())
    }

    /// Bytes that the state takes.
    pub fn memory(&self) -> usize {
        self.lua.used_memory()
    }

    /// Compiles a script, unless it was before. The error is Lua's.
    pub fn compile(&mut self, sha: &str, code: &[u8]) -> Result<Function, String> {
        if let Some(function) = self.functions.get(sha) {
            return Ok(function.clone());
        }
        if self.functions.len() >= SCRIPT_FUNCTIONS_MAX {
            self.functions.clear();
        }
        let chunk = self
            .lua
            .load(code)
            .set_name(SCRIPT)
            .set_mode(ChunkMode::Text);
        let function = chunk.into_function().map_err(|error| first_line(&error))?;
        self.functions.insert(sha.to_owned(), function.clone());
        Ok(function)
    }

    /// Runs a script. What it returned is to be written, or dropped, before the next.
    pub fn run(
        &mut self,
        function: &Function,
        keys: &[&[u8]],
        argv: &[&[u8]],
        run: Arc<Run>,
        caller: &mut dyn Caller,
    ) -> Result<Returned, Failure> {
        RUN.with(|state| state.resp3.set(false));
        json::forget_settings();
        *self.run.borrow_mut() = Some(run);
        let result = call::lend(caller, || self.call(function, keys, argv));
        *self.run.borrow_mut() = None;
        match result {
            Ok(Some(value)) => Ok(Returned {
                value,
                resp3: RUN.with(|state| state.resp3.get()),
            }),
            Ok(None) => Err(self.failure.take().unwrap_or_else(|| lost(None))),
            Err(error) => Err(lost(Some(&error))),
        }
    }

    /// What the script returned; None: it failed, and the handler knows why.
    fn call(
        &self,
        function: &Function,
        keys: &[&[u8]],
        argv: &[&[u8]],
    ) -> mlua::Result<Option<Value>> {
        *self.failure.borrow_mut() = None;
        self.globals.raw_set("KEYS", self.strings(keys)?)?;
        self.globals.raw_set("ARGV", self.strings(argv)?)?;
        let results: MultiValue = self.xpcall.call((function, &self.handler))?;
        let mut results = results.into_iter();
        match results.next() {
            Some(Value::Boolean(true)) => Ok(Some(results.next().unwrap_or_default())),
            // The handler is not called when memory is at its end.
            _ => match (self.failure.borrow().is_some(), results.next()) {
                (false, Some(Value::String(text))) => {
                    Err(Error::RuntimeError(text.to_string_lossy()))
                }
                (false, Some(Value::Error(error))) => Err(*error),
                _ => Ok(None),
            },
        }
    }

    fn strings(&self, words: &[&[u8]]) -> mlua::Result<Table> {
        let table = self.lua.create_table_with_capacity(words.len(), 0)?;
        for (i, word) in words.iter().enumerate() {
            table.raw_set(i + 1, self.lua.create_string(word)?)?;
        }
        Ok(table)
    }

    /// After a script: nothing of it is left for the next one, and little of its memory.
    pub fn tidy(&self) {
        let cleared = self.globals.raw_set("KEYS", Value::Nil);
        let cleared = cleared.and_then(|()| self.globals.raw_set("ARGV", Value::Nil));
        // Lua's own `table.insert` writes past the protection.
        let filled = self
            .protected
            .borrow()
            .iter()
            .any(|table| !table.is_empty());
        let collected = match self.memory() > SCRIPT_MEMORY_KEEP {
            true => self.lua.gc_collect(),
            false => Ok(()),
        };
        if filled || cleared.is_err() || collected.is_err() || self.memory() > SCRIPT_MEMORY_KEEP {
            self.ended.set(true);
        }
    }
}

/// What a script returned.
pub struct Returned {
    value: Value,
    resp3: bool,
}

impl Returned {
    /// Writes it, and tells `errors` of each error in it. A failure has written nothing.
    pub fn write(
        self,
        reply: &mut Reply<'_>,
        errors: &mut dyn FnMut(Told<'_>),
    ) -> Result<(), Failure> {
        let mark = reply.out.mark();
        to_reply(reply, &self.value, self.resp3, errors).map_err(|error| {
            reply.out.truncate(mark);
            lost(Some(&error))
        })
    }
}

fn lost(error: Option<&Error>) -> Failure {
    let text = error.map_or_else(|| "execution failure".into(), first_line);
    Failure {
        message: format!("ERR {text}").into_bytes(),
        place: None,
        counted: false,
    }
}
