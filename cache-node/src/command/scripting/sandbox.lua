-- What scripts see: the libraries behind tables that cannot be changed, and a few functions of Lua's made safe.
local globals, host = ...
local type, error, select, tostring = type, error, select, tostring
local next, rawget, rawset = next, rawget, rawset
local getmetatable, setmetatable = getmetatable, setmetatable
local pcall, xpcall, unpack, collectgarbage = pcall, xpcall, unpack, collectgarbage
local loadstring, concat, match, byte = loadstring, table.concat, string.match, string.byte
local resume = coroutine.resume
local caught = host.caught

local READONLY = "Attempt to modify a readonly table"
-- The contents of each protected table.
local contents = {}

local function bad(index, name, expected, value)
  error("bad argument #" .. index .. " to '" .. name .. "' (" .. expected .. " expected, got " .. type(value) .. ")", 3)
end

local function refuse()
  error(READONLY, 2)
end

-- An empty table that shows another one and takes nothing.
local function protect(table)
  local proxy = {}
  contents[proxy] = table
  setmetatable(proxy, { __index = table, __newindex = refuse })
  host.protected(proxy)
  return proxy
end

function globals.pairs(t)
  if type(t) ~= "table" then bad(1, "pairs", "table", t) end
  local shown = contents[t]
  if shown then
    local copy = {}
    for k, v in next, shown do copy[k] = v end
    return next, copy, nil
  end
  return next, t, nil
end

function globals.next(t, key)
  if type(t) ~= "table" then bad(1, "next", "table", t) end
  return next(contents[t] or t, key)
end

function globals.rawget(t, key)
  if type(t) ~= "table" then bad(1, "rawget", "table", t) end
  return rawget(contents[t] or t, key)
end

function globals.rawset(t, key, value)
  if type(t) ~= "table" then bad(1, "rawset", "table", t) end
  if contents[t] then error(READONLY, 0) end
  return rawset(t, key, value)
end

function globals.setmetatable(t, meta)
  if type(t) ~= "table" then bad(1, "setmetatable", "table", t) end
  if meta ~= nil and type(meta) ~= "table" then
    error("bad argument #2 to 'setmetatable' (nil or table expected)", 2)
  end
  if contents[t] then error(READONLY, 0) end
  return setmetatable(t, meta)
end

-- Of what is protected, metatables too: strings share one.
local metatables = {}
function globals.getmetatable(value)
  if type(value) == "string" then return metatables.string end
  if contents[value] then return metatables[value] end
  return getmetatable(value)
end

function globals.unpack(t, first, last)
  if type(t) ~= "table" then bad(1, "unpack", "table", t) end
  if (last or #t) - (first or 1) >= 7999 then
    error("too many results to unpack", 2)
  end
  -- What is not given takes no place on the stack, of which the most that fits leaves none.
  if last then return unpack(t, first or 1, last) end
  if first then return unpack(t, first) end
  return unpack(t)
end

-- Errors of our own functions are shown as strings, or as tables where Redis has them.
local function shown(ok, value, ...)
  if ok then return true, value, ... end
  if type(value) == "table" then
    local text = rawget(value, "err")
    if type(text) == "string" then value = text end
  elseif type(value) == "userdata" then
    value = caught(value, true)
  end
  return false, value
end

local function resumed(ok, value, ...)
  if not ok and type(value) == "userdata" then return false, caught(value, false) end
  return ok, value, ...
end

function globals.pcall(...)
  return shown(pcall(...))
end

function globals.xpcall(f, handler)
  return xpcall(f, function(value)
    if type(value) == "userdata" then value = caught(value, false) end
    return handler(value)
  end)
end

function globals.coroutine.resume(...)
  return resumed(resume(...))
end

-- Compiled code is not loaded: it is not checked. The name is a string of its own, without zero bytes, so that it outlives the parser.
local function compile(text, name)
  if byte(text) == 27 then
    return nil, "attempt to load precompiled code, which is not supported"
  end
  return loadstring(text, match(name, "^%Z*"))
end

function globals.loadstring(text, name)
  if type(text) ~= "string" then bad(1, "loadstring", "string", text) end
  return compile(text, name and tostring(name) or text)
end

function globals.load(reader, name)
  if type(reader) ~= "function" then bad(1, "load", "function", reader) end
  local parts = {}
  while true do
    local part = reader()
    if part == nil or part == "" then break end
    if type(part) ~= "string" then return nil, "reader function must return a string" end
    parts[#parts + 1] = part
  end
  return compile(concat(parts), name and tostring(name) or "=(load)")
end

local COLLECTS = { collect = true, count = true, step = true }
function globals.collectgarbage(what, argument)
  what = what or "collect"
  if not COLLECTS[what] then
    error("collectgarbage: option '" .. tostring(what) .. "' is not supported", 2)
  end
  return collectgarbage(what, argument)
end

for _, name in next, { "dofile", "loadfile", "print", "newproxy", "getfenv", "setfenv", "require", "module" } do
  globals[name] = nil
end
globals.os = { clock = globals.os.clock }

local function nonexistent(_, name)
  if type(name) ~= "string" and type(name) ~= "number" then
    error("Second argument to luaProtectedTableError must be a string or number", 2)
  end
  error("Script attempted to access nonexistent global variable '" .. name .. "'", 2)
end

for name, value in next, globals do
  if type(value) == "table" and name ~= "_G" then globals[name] = protect(value) end
end
setmetatable(globals, { __index = nonexistent })
local proxy = protect(globals)
globals._G = proxy
metatables[proxy] = protect({ __index = nonexistent })
local strings = getmetatable("")
strings.__index = globals.string
metatables.string = protect({ __index = globals.string })
return proxy
