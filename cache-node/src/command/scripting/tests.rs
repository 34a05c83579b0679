//! What scripts can do and cannot, and how values go to them and come back: tables, with an executor that answers what it is told to.

use std::borrow::Cow;
use std::collections::VecDeque;

use super::call::Caller;
use super::host::Host;
use super::raise::Failure;
use super::running::{Holds, Running};
use crate::protocol::{Output, Reply, Words};

/// Answers commands with replies in turn.
#[derive(Default)]
struct Answers {
    replies: VecDeque<Result<Vec<u8>, Cow<'static, str>>>,
    asked: Vec<(Vec<Vec<u8>>, bool)>,
}

impl Caller for Answers {
    fn command(&mut self, words: &Words, resp3: bool) -> Result<Vec<u8>, Cow<'static, str>> {
        self.asked
            .push((words.args().iter().map(<[u8]>::to_vec).collect(), resp3));
        self.replies.pop_front().unwrap_or(Ok(b"+OK\r\n".to_vec()))
    }

    fn may(&mut self, words: &Words) -> Option<bool> {
        (words.args().at(0) == b"known").then_some(true)
    }
}

/// On one line, but for quotes as they are.
fn one_line(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    text.replace("\\'", "'").replace("\\\"", "\"")
}

struct Bench {
    host: Host,
    running: std::sync::Arc<Running>,
    /// Errors of the last run, and whether they were counted before.
    errors: Vec<(String, bool)>,
}

impl Bench {
    fn new() -> Self {
        Self {
            host: Host::new(16 << 20).unwrap(),
            running: Default::default(),
            errors: Vec::new(),
        }
    }

    /// Runs a script; the reply, or `! ` and the failure.
    fn run_with(&mut self, script: &str, resp3: bool, answers: &mut Answers) -> String {
        let mut out = Output::default();
        let mut reply = Reply {
            out: &mut out,
            resp3,
        };
        let function = match self.host.compile(script, script.as_bytes()) {
            Ok(function) => function,
            Err(text) => return format!("!! {text}"),
        };
        let begun = self.running.begin(Holds::Everything);
        let (keys, argv): ([&[u8]; 2], [&[u8]; 1]) = ([b"k1", b"k2"], [b"a\0b"]);
        let run = begun.0.clone();
        let returned = self.host.run(&function, &keys, &argv, run, answers);
        let errors = &mut self.errors;
        errors.clear();
        let result = returned.and_then(|returned| {
            returned.write(&mut reply, &mut |error| {
                errors.push((error.text.to_owned(), error.counted));
            })
        });
        self.host.tidy();
        match result {
            Ok(()) => {
                let mut bytes = Vec::new();
                while !out.is_empty() {
                    out.write_to(&mut bytes).unwrap();
                }
                one_line(&bytes)
            }
            Err(Failure {
                message,
                place,
                counted,
            }) => {
                self.errors
                    .push((String::from_utf8_lossy(&message).into_owned(), counted));
                let message = one_line(&message);
                match place {
                    Some((source, line)) => format!("! {message} on {source}:{line}"),
                    None => format!("! {message}"),
                }
            }
        }
    }

    fn run(&mut self, script: &str) -> String {
        self.run_with(script, false, &mut Answers::default())
    }
}

#[test]
fn globals_and_libraries_cannot_be_changed() {
    const AT: &str = "on @user_script:1";
    let readonly = format!("! ERR user_script:1: Attempt to modify a readonly table {AT}");
    let from_c = format!("! ERR Attempt to modify a readonly table {AT}");
    let absent = |name: &str| {
        format!(
            "! ERR user_script:1: Script attempted to access nonexistent global variable '{name}' {AT}"
        )
    };
    let mut table: Vec<(String, String)> = Vec::new();
    for script in [
        "foo = 1",
        "KEYS = 1",
        "redis = 1",
        "string.x = 1",
        "redis.call = 1",
        "math.random = nil",
        "os.clock = 1",
        "_G.x = 1",
        "_G._G = nil",
        "getmetatable(_G).__index = {}",
        "getmetatable('').__index = {}",
        "getmetatable('').x = {}",
        "function f() end",
        "coroutine.resume = 1",
    ] {
        table.push((script.into(), readonly.clone()));
    }
    for script in [
        "setmetatable(_G, {})",
        "rawset(_G, 'a', 1)",
        "rawset(string, 'a', 1)",
    ] {
        table.push((script.into(), from_c.clone()));
    }
    for name in [
        "foo", "print", "dofile", "loadfile", "require", "module", "io", "debug", "package",
        "getfenv", "setfenv", "newproxy", "arg",
    ] {
        table.push((format!("return {name}"), absent(name)));
    }
    for (script, expected) in [
        ("return type(redis)", "$5\\r\\ntable\\r\\n"),
        ("return os.time", "$-1\\r\\n"),
        ("return type(os.clock())", "$6\\r\\nnumber\\r\\n"),
        ("return os.execute", "$-1\\r\\n"),
        ("return getmetatable(string)", "$-1\\r\\n"),
        (
            "local n = 0 for k in pairs(bit) do n = n + 1 end return n",
            ":12\\r\\n",
        ),
        ("for k in pairs(string) do string_x = k end", &readonly),
        (
            "local f, t = pairs(string) t.format = nil return string.format('%d', 3)",
            "$1\\r\\n3\\r\\n",
        ),
        ("return rawget(_G, 'nothing')", "$-1\\r\\n"),
        ("return type(rawget(_G, 'redis'))", "$5\\r\\ntable\\r\\n"),
        ("return type(next(_G))", "$6\\r\\nstring\\r\\n"),
        ("return #KEYS .. ARGV[1]", "$4\\r\\n2a\\x00b\\r\\n"),
        ("return ('x'):upper()", "$1\\r\\nX\\r\\n"),
        ("return loadstring('\\27Lua')", "$-1\\r\\n"),
        (
            "return select(2, loadstring(string.dump(function() end)))",
            "$56\\r\\nattempt to load precompiled code, which is not supported\\r\\n",
        ),
        (
            "local n = 0 return load(function() n = n + 1 return ({'return ', '7'})[n] end)()",
            ":7\\r\\n",
        ),
        (
            "return loadstring('x = 1')()",
            &readonly
                .replace("user_script:1: A", "[string \"x = 1\"]:1: A")
                .replace(AT, "on x = 1:1"),
        ),
        ("return pcall(setmetatable, _G, {})", "$-1\\r\\n"),
        (
            "collectgarbage('stop')",
            &format!("! ERR user_script:1: collectgarbage: option 'stop' is not supported {AT}"),
        ),
        (
            "return type(collectgarbage('count'))",
            "$6\\r\\nnumber\\r\\n",
        ),
        (
            "return unpack({1}, -2147483648, 2147483647)",
            "! ERR too many results to unpack",
        ),
        ("return {unpack({1, 2, 3}, 2)}", "*2\\r\\n:2\\r\\n:3\\r\\n"),
    ] {
        table.push((script.into(), expected.to_owned()));
    }
    let mut bench = Bench::new();
    let mut unlike = String::new();
    for (script, expected) in table {
        let got = bench.run(&script);
        if !got.starts_with(&expected) {
            unlike.push_str(&format!(
                "{script}\n  expected {expected}\n  got      {got}\n"
            ));
        }
    }
    assert!(unlike.is_empty(), "{unlike}");
}

/// Replies of commands, and what a script makes of them: its own reply says it again, in both versions of the protocol.
#[test]
fn replies_go_to_lua_and_come_back() {
    // The reply, whether in RESP3, what `show` says of it, and what comes back in RESP2 and RESP3.
    let table: [(&str, bool, &str, &str, &str); 17] = [
        (":7\r\n", false, "number 7", ":7\r\n", ":7\r\n"),
        (
            ":-9007199254740993\r\n",
            false,
            "number -9.007199254741e+15",
            ":-9007199254740992\r\n",
            ":-9007199254740992\r\n",
        ),
        (
            "$3\r\na\0b\r\n",
            false,
            "string a\0b",
            "$3\r\na\0b\r\n",
            "$3\r\na\0b\r\n",
        ),
        ("$0\r\n\r\n", false, "string ", "$0\r\n\r\n", "$0\r\n\r\n"),
        ("$-1\r\n", false, "boolean false", "$-1\r\n", "_\r\n"),
        ("*-1\r\n", false, "boolean false", "$-1\r\n", "_\r\n"),
        ("*0\r\n", false, "{}", "*0\r\n", "*0\r\n"),
        (
            "*2\r\n:1\r\n*1\r\n$1\r\na\r\n",
            false,
            "{1=number 1 2={1=string a}}",
            "*2\r\n:1\r\n*1\r\n$1\r\na\r\n",
            "*2\r\n:1\r\n*1\r\n$1\r\na\r\n",
        ),
        ("+OK\r\n", false, "{ok=string OK}", "+OK\r\n", "+OK\r\n"),
        ("_\r\n", true, "nil nil", "$-1\r\n", "_\r\n"),
        ("#t\r\n", true, "boolean true", ":1\r\n", "#t\r\n"),
        ("#f\r\n", true, "boolean false", ":0\r\n", "#f\r\n"),
        (
            ",1.5\r\n",
            true,
            "{double=number 1.5}",
            "$3\r\n1.5\r\n",
            ",1.5\r\n",
        ),
        (
            "(123\r\n",
            true,
            "{big_number=string 123}",
            "$3\r\n123\r\n",
            "(123\r\n",
        ),
        (
            "=6\r\ntxt:hi\r\n",
            true,
            "{verbatim_string={format=string txt string=string hi}}",
            "$2\r\nhi\r\n",
            "=6\r\ntxt:hi\r\n",
        ),
        (
            "%1\r\n$1\r\na\r\n:1\r\n",
            true,
            "{map={a=number 1}}",
            "*2\r\n$1\r\na\r\n:1\r\n",
            "%1\r\n$1\r\na\r\n:1\r\n",
        ),
        (
            "~1\r\n$1\r\na\r\n",
            true,
            "{set={a=boolean true}}",
            "*1\r\n$1\r\na\r\n",
            "~1\r\n$1\r\na\r\n",
        ),
    ];
    const SHOW: &str = "local function show(v) if type(v) ~= 'table' then return type(v) .. ' ' .. tostring(v) end local keys = {} for k in pairs(v) do keys[#keys + 1] = k end table.sort(keys) for i, k in ipairs(keys) do keys[i] = k .. '=' .. show(v[k]) end return '{' .. table.concat(keys, ' ') .. '}' end return show(redis.call('x'))";
    let mut bench = Bench::new();
    for (reply, resp3, shown, two, three) in table {
        let setresp = if resp3 { "redis.setresp(3) " } else { "" };
        let mut run = |script: &str, to_resp3: bool| {
            let mut answers = Answers::default();
            answers.replies.push_back(Ok(reply.as_bytes().to_vec()));
            let got = bench.run_with(&format!("{setresp}{script}"), to_resp3, &mut answers);
            assert_eq!(answers.asked, [(vec![b"x".to_vec()], resp3)]);
            got
        };
        let escaped = |text: &str| one_line(text.as_bytes());
        let show = format!("${}\r\n{shown}\r\n", shown.len());
        assert_eq!(run(SHOW, false), escaped(&show), "{reply}");
        assert_eq!(
            run("return redis.call('x')", false),
            escaped(two),
            "{reply}"
        );
        assert_eq!(
            run("return redis.call('x')", true),
            escaped(three),
            "{reply}"
        );
    }
}

#[test]
fn commands_get_strings_and_errors_are_raised_or_returned() {
    let mut bench = Bench::new();
    let mut answers = Answers::default();
    bench.run_with(
        "redis.call('a', 1, 1.5, 0.1, 1e17, 'x\\0y')",
        false,
        &mut answers,
    );
    let words: [&[u8]; 6] = [
        b"a",
        b"1",
        b"1.5",
        b"0.10000000000000001",
        b"1e+17",
        b"x\0y",
    ];
    assert_eq!(answers.asked, [(words.map(<[u8]>::to_vec).to_vec(), false)]);
    let fails = || Answers {
        replies: [Ok(b"-WRONGTYPE no\r\n".to_vec())].into(),
        asked: Vec::new(),
    };
    let refused = || Answers {
        replies: [Err("Unknown Redis command called from script".into())].into(),
        asked: Vec::new(),
    };
    // The script, whether its command is refused, and what comes of it.
    let table: [(&str, bool, &str); 7] = [
        (
            "\nreturn redis.call('x')",
            false,
            "! WRONGTYPE no on @user_script:2",
        ),
        ("return redis.pcall('x')", false, "-WRONGTYPE no\\r\\n"),
        (
            "return redis.call('x')",
            true,
            "! ERR Unknown Redis command called from script on @user_script:1",
        ),
        (
            "return redis.pcall('x').err",
            true,
            "$44\\r\\nERR Unknown Redis command called from script\\r\\n",
        ),
        (
            "local ok, e = pcall(redis.call, 'x') return e",
            false,
            "$12\\r\\nWRONGTYPE no\\r\\n",
        ),
        (
            "local ok, e = xpcall(function() redis.call('x') end, function(e) return e.err end) return e",
            false,
            "$12\\r\\nWRONGTYPE no\\r\\n",
        ),
        (
            "local co = coroutine.create(function() redis.call('x') end) local ok, e = coroutine.resume(co) return e.err",
            false,
            "$12\\r\\nWRONGTYPE no\\r\\n",
        ),
    ];
    for (script, is_refused, expected) in table {
        let mut answers = if is_refused { refused() } else { fails() };
        let got = bench.run_with(script, false, &mut answers);
        assert_eq!(got, expected, "{script}");
    }
}

#[test]
fn nothing_of_a_script_is_left_for_the_next() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.run("cjson.encode_number_precision(3) return cjson.encode(1/3)"),
        "$5\\r\\n0.333\\r\\n"
    );
    assert_eq!(
        bench.run("return cjson.encode(1/3)"),
        "$16\\r\\n0.33333333333333\\r\\n"
    );
    assert_eq!(bench.run("redis.setresp(3) return true"), ":1\\r\\n");
    assert_eq!(bench.run("redis.setresp(3) return false"), ":0\\r\\n");
    assert_eq!(bench.run("return false"), "$-1\\r\\n");
    assert!(!bench.host.is_spent());
    // Lua's own functions write past the protection: the state is thrown away.
    bench.run("table.insert(_G, 'left')");
    assert!(bench.host.is_spent());
}

#[test]
fn deep_tables_and_much_memory_end_in_errors() {
    let mut bench = Bench::new();
    let deep = bench.run("local a = {} local b = {a} a[1] = b return a");
    assert!(
        deep.ends_with("-ERR reached lua stack limit\\r\\n"),
        "{}",
        &deep[..100]
    );
    let much = bench.run("local t = {} for i = 1, 1e9 do t[i] = tostring(i) end");
    assert!(much.starts_with("! ERR not enough memory"), "{much}");
    let long = bench.run("return string.rep('x', 1e9)");
    assert!(long.starts_with("! ERR not enough memory"), "{long}");
    let caught = bench.run("local ok, e = pcall(string.rep, 'x', 1e9) return e");
    assert_eq!(caught, "$17\\r\\nnot enough memory\\r\\n");
    assert_eq!(bench.run("return 1"), ":1\\r\\n");
    let endless = bench.run("local function f() return 1 + f() end return f()");
    assert!(
        endless.starts_with("! ERR user_script:1: stack overflow"),
        "{endless}"
    );
}

#[test]
fn a_killed_script_cannot_go_on() {
    for script in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do xpcall(function() while true do end end, function() end) end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
    ] {
        let mut bench = Bench::new();
        bench
            .running
            .threshold_ms
            .store(1, std::sync::atomic::Ordering::Relaxed);
        let running = bench.running.clone();
        let killer = std::thread::spawn(move || {
            while running.kill() != super::running::Kill::Done {
                std::thread::yield_now();
            }
        });
        let got = bench.run(script);
        killer.join().unwrap();
        assert!(
            got.starts_with("! ERR Script killed by user with SCRIPT KILL..."),
            "{script}: {got}"
        );
        assert!(bench.host.is_spent());
    }
}

#[test]
fn an_error_is_counted_once_whoever_told_it() {
    let mut bench = Bench::new();
    // The script, what is told in the end, and whether it was counted when its command failed.
    let table: [(&str, &[(&str, bool)]); 9] = [
        ("return 1", &[]),
        ("return redis.error_reply('MY oh')", &[("MY oh", false)]),
        ("return redis.pcall('x')", &[("ERR no", true)]),
        (
            "return {1, {redis.pcall('x')}, redis.error_reply('A b')}",
            &[("ERR no", true), ("A b", false)],
        ),
        ("redis.call('x')", &[("ERR no", true)]),
        (
            "redis.pcall('x') error('oh')",
            &[("ERR user_script:1: oh", false)],
        ),
        ("error(redis.pcall('x'))", &[("ERR no", true)]),
        ("error({err='MY oh'})", &[("MY oh", false)]),
        (
            "redis.sha1hex()",
            &[("ERR wrong number of arguments", false)],
        ),
    ];
    for (script, expected) in table {
        let mut answers = Answers {
            replies: VecDeque::from([Ok(b"-ERR no\r\n".to_vec())]),
            ..Answers::default()
        };
        bench.run_with(script, false, &mut answers);
        let expected: Vec<(String, bool)> = expected
            .iter()
            .map(|(text, counted)| ((*text).to_owned(), *counted))
            .collect();
        assert_eq!(bench.errors, expected, "{script}");
    }
}
