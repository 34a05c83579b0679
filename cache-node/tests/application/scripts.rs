//! Lua scripts beside those of a real redis-server 7.0, in both versions of the protocol; what they hold, and how they are ended.

use super::cluster::Member;
use super::generate::Random;
use super::redis::Redis;
use super::wire::{Client, EqualReaders, Reply, TestNode, wait_for};

const RANDOM_SCRIPTS: usize = 1_500;

/// Scripts without keys.
const SCRIPTS: &[&str] = &[
    // What is returned.
    "return 1",
    "return -3.7",
    "return 1e300",
    "return 'a\\r\\nb'",
    "return nil",
    "return true",
    "return false",
    "return {}",
    "return {1, 2, nil, 4}",
    "return {1.5, 'a', true, false, {'b', {}}}",
    "return {ok='fine'}",
    "return {ok='a\\r\\nb'}",
    "return {err='MY error'}",
    "return {err='word'}",
    "return {err='a b', x=1}",
    "return {err=5}",
    "return {double=3.5}",
    "return {double=0.1}",
    "return {double=-1/0}",
    "return {double='x'}",
    "return {big_number='12345678901234567890'}",
    "return {verbatim_string={format='txt', string='hello'}}",
    "return {verbatim_string={format='txt'}}",
    "return {map={a=1}}",
    "return {set={a=true}}",
    "redis.setresp(3) return true",
    "redis.setresp(3) return {false, true}",
    "return function() end",
    "return redis.status_reply('fine')",
    "return redis.status_reply()",
    "return redis.error_reply('MY error')",
    "return redis.error_reply('-MY error')",
    "return redis.error_reply('word')",
    "return redis.error_reply('')",
    "return redis.error_reply(5)",
    "return {redis.error_reply('A b'), 1}",
    // Errors.
    "error('x')",
    "error('x', 0)",
    "error('x', 2)",
    "error({err='MY oh'})",
    "error(5)",
    "error()",
    "local a = nil return a.b",
    "return foo",
    "foo = 1",
    "print('x')",
    "xx yy",
    "return 1 +",
    "for i = 1, 10 do\n local y = x\nend",
    "return tostring(pairs(nil))",
    "string.rep()",
    "return redis.call()",
    "return redis.call({})",
    "return redis.call('nosuch')",
    "return redis.pcall('nosuch').err",
    "return redis.call('get')",
    "return redis.call('eval', 'return 1', 0)",
    "return redis.call('multi')",
    "return redis.call('blpop', 'l', 0)",
    "return redis.call('config', 'foo')",
    "return redis.call('set', 'k1', 'v', 'x')",
    "local e = redis.pcall('set', 'k1', 'v', 'x') return {type(e), e.err, tostring(e.ignore_error_stats_update)}",
    "local ok, e = pcall(redis.call, 'set', 'k1', 'v', 'x') return {tostring(ok), type(e), e}",
    "local ok, e = pcall(cjson.decode, 'x') return e",
    "local ok, e = pcall(error, {err='A b'}) return {tostring(ok), type(e), e}",
    "return {xpcall(redis.call, function(e) return type(e) end)}",
    "return {pcall(function() return 1, 2 end)}",
    "local co = coroutine.wrap(function() coroutine.yield(1) return 2 end) return {co(), co()}",
    "local co = coroutine.create(function() error('x') end) return {tostring(coroutine.resume(co))}",
    "setmetatable(_G, {})",
    "getmetatable(_G).__index = {}",
    "rawset(_G, 'a', 1)",
    "redis.call = 1",
    "string.format = nil",
    "local a = unpack({1, 2, 3}, -2147483648, 2147483647) return a",
    // redis
    "return redis.sha1hex('a')",
    "return redis.sha1hex()",
    "return redis.sha1hex(1)",
    "redis.log(redis.LOG_DEBUG, 'x', 1)",
    "return redis.log(1)",
    "return redis.log('a', 'b')",
    "return redis.log(7, 'b')",
    "return redis.setresp(4)",
    "return redis.setresp()",
    "return redis.set_repl(redis.REPL_ALL)",
    "return redis.set_repl(17)",
    "return redis.set_repl()",
    "return redis.breakpoint()",
    "return redis.debug('a')",
    "return redis.replicate_commands()",
    "return redis.acl_check_cmd('set', 'a', 'b')",
    "return redis.acl_check_cmd('nosuch')",
    "return redis.acl_check_cmd()",
    "return {redis.REPL_NONE, redis.REPL_AOF, redis.REPL_SLAVE, redis.REPL_REPLICA, redis.REPL_ALL}",
    // Commands and their replies.
    "return redis.call('ping')",
    "return redis.call('echo', 0.1)",
    "return redis.call('echo', 1e17)",
    "return {redis.call('set', 'k1', 3.0), redis.call('get', 'k1')}",
    "return redis.call('get', 'nosuch')",
    "redis.setresp(3) return redis.call('get', 'nosuch')",
    "return tostring(redis.call('get', 'nosuch'))",
    "redis.setresp(3) return tostring(redis.call('get', 'nosuch'))",
    "redis.call('del', 'h') redis.call('hset', 'h', 'f', 'v') return redis.call('hgetall', 'h')",
    "redis.setresp(3) return redis.call('hgetall', 'h')",
    "redis.setresp(3) return redis.call('hgetall', 'h').map.f",
    "redis.call('del', 's') redis.call('sadd', 's', 'a') redis.setresp(3) return redis.call('smembers', 's')",
    "redis.call('del', 'z') redis.call('zadd', 'z', 1.5, 'a') return redis.call('zscore', 'z', 'a')",
    "redis.setresp(3) return redis.call('zscore', 'z', 'a')",
    "redis.setresp(3) return redis.call('zscore', 'z', 'a').double",
    "return redis.call('mget', 'k1', 'nosuch')",
    "redis.call('set', 'x', 'y') return redis.call('incr', 'x')",
    "redis.call('set', 'x', 'y') return redis.pcall('incr', 'x')",
    "return redis.call('select', 0)",
    "return #redis.call('time')",
    "redis.call('del', 's') redis.call('sadd', 's', 'b', 'a', 'd', 'c', 'aa') return redis.call('sort', 's', 'by', 'nosort')",
    "return redis.call('sort', 's', 'by', 'nosort', 'desc')",
    "return redis.call('sort', 's', 'by', 'nosort', 'get', '#', 'get', 'x_*')",
    "redis.call('del', 'l') local t = {} for i = 1, 7999 do t[i] = i end return redis.call('rpush', 'l', unpack(t))",
    "local t = {} for i = 1, 8001 do t[i] = i end return redis.call('rpush', 'l', unpack(t))",
    "return {unpack({1, 2, 3}, 2)}",
    "return {unpack({1, 2, 3}, nil, 2)}",
    // Numbers and random ones.
    "math.randomseed('17') return {tostring(math.random()), math.random('5'), math.random(1, ' 9 ')}",
    "math.randomseed('x')",
    "math.randomseed(5) return {tostring(math.random()), math.random(100), math.random(-5, 5)}",
    "return math.random(0)",
    "return math.random(1, 2, 3)",
    "return tostring(0.1) .. 1e15 .. -0",
    // cjson
    "return cjson.encode({1, 2, {a='x/\\n\\127'}, true, cjson.null})",
    "return cjson.encode({})",
    "return cjson.encode({1, 2, nil, 4})",
    "return cjson.encode({[1.5]=1})",
    "return cjson.encode({[1]=1, [20]=1})",
    "cjson.encode_sparse_array(true) return cjson.encode({[1]=1, [20]=1})",
    "return cjson.encode(0/0)",
    "return cjson.encode({0.1, 1e20, -5, 123456789012345678})",
    "return cjson.encode(function() end)",
    "return cjson.encode({[true]=1})",
    "return cjson.encode(1, 2)",
    "local a = {} a[1] = a return cjson.encode(a)",
    "local t = cjson.decode('{\"a\":[1,2.5,\"x\\\\u00e9\\\\ud834\\\\udd1e\"],\"b\":{}}') return {t.a[1], tostring(t.a[2]), t.a[3]}",
    "return tostring(cjson.decode('[null]')[1] == cjson.null)",
    "return cjson.decode('[1,2')",
    "return cjson.decode('x')",
    "return cjson.decode('')",
    "return cjson.decode('{\"a\" 1}')",
    "return cjson.decode('{1}')",
    "return cjson.decode('[1 2]')",
    "return cjson.decode('1 2')",
    "return cjson.decode('\"\\\\q\"')",
    "return cjson.decode('\"abc')",
    "return cjson.decode('[.5]')",
    "return cjson.decode('[+1, 0x10, 1e2]')",
    "return cjson.decode('-')",
    "return cjson.decode(nil)",
    "return cjson.encode_max_depth(0)",
    "return {tostring(cjson.encode_keep_buffer(false)), tostring(cjson.encode_keep_buffer()), cjson.encode({1})}",
    "return tostring(cjson.encode_keep_buffer(true))",
    // cmsgpack
    "local t = {1, -1, 127, 128, -32, -33, 255, 256, 65536, 2^40, -2^40, 0.5, 0.1, 'x', true, false, {a=1}} local r = {} for _, v in ipairs(t) do local s = cmsgpack.pack(v) local h = '' for i = 1, #s do h = h .. string.format('%02x', string.byte(s, i)) end r[#r + 1] = h end return r",
    "local t = cmsgpack.unpack(cmsgpack.pack({1, 'b', {x = 2}})) return {t[1], t[2], t[3].x}",
    "return #cmsgpack.pack(string.rep('x', 300), {}, nil)",
    "return {cmsgpack.unpack(cmsgpack.pack(1, 'a', false))}",
    "return cmsgpack.pack()",
    "return cmsgpack.unpack('\\220')",
    "return {cmsgpack.unpack_one('\\1\\2\\3', 1)}",
    "return {cmsgpack.unpack_limit('\\1\\2\\3', 2)}",
    "return {cmsgpack.unpack_limit('\\1\\2\\3', -1)}",
    "return {cmsgpack.unpack_one('\\1\\2\\3', 9)}",
    "local a = {} a.x = a return #cmsgpack.pack(a)",
    // struct
    "local s = struct.pack('<bBhHlLiI>I3<!4xi8dfs', -1, 255, -2, 65535, -3, 5, -7, 9, 70000, -1, 0.5, 1.25, 'abc') local h = '' for i = 1, #s do h = h .. string.format('%02x', string.byte(s, i)) end return h",
    "return {struct.unpack('<bBhi>I3s', '\\255\\255\\254\\255\\7\\0\\0\\0\\1\\17\\112abc\\0')}",
    "return {struct.unpack('Bc0', struct.pack('Bc0', 3, 'abc'))}",
    "return struct.size('<!4bi8d')",
    "return struct.size('s')",
    "return struct.pack('q', 1)",
    "return struct.pack('I99', 1)",
    "return struct.pack('c5', 'abc')",
    "return struct.unpack('I4', 'abc')",
    "return struct.unpack('s', 'abc')",
    "return struct.unpack('I', 'abcd', 0)",
    // bit
    "return {bit.band(0xff, 0x0f), bit.bor(1, 2), bit.bxor(5, 1), bit.bnot(0), bit.lshift(1, 31), bit.rshift(-1, 28), bit.arshift(-8, 1), bit.rol(0x12345678, 8), bit.ror(0x12345678, 8), bit.bswap(0x12345678), bit.tobit(2^40 + 5)}",
    "return {bit.tohex(255), bit.tohex(255, 4), bit.tohex(255, -4)}",
    "return bit.band()",
    "return bit.band('x')",
    // First lines.
    "#!lua\nreturn redis.call('set', 'k1', 'v')",
    "#!lua flags=no-writes\nreturn redis.call('get', 'k1')",
    "#!lua flags=no-writes\nreturn redis.call('set', 'k1', 'v')",
    "#!lua flags=no-writes,allow-oom,allow-stale,no-cluster\nreturn 1",
    "#!lua flags=x\nreturn 1",
    "#!lua flags=\nreturn 1",
    "#!lua flags=no-writes,\nreturn 1",
    "#!lua flags=no-writes\nreturn redis.call('publish', 'c', 'm')",
    "return redis.call('publish', 'c', 'm')",
    "#!lua name=x\nreturn 1",
    "#!perl\nreturn 1",
    "#!lua",
];

/// Commands about scripts.
const COMMANDS: &[&[&str]] = &[
    &[
        "EVAL",
        "return {KEYS[1], KEYS[2], ARGV[1], #KEYS, #ARGV}",
        "2",
        "a",
        "b",
        "c",
    ],
    &["EVAL", "return 1", "x"],
    &["EVAL", "return 1", "2", "a"],
    &["EVAL", "return 1", "-1"],
    &["EVAL", "return 1"],
    &["EVALSHA", "aa", "0"],
    &["EVALSHA", "aa", "x"],
    &["EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"],
    &[
        "SCRIPT",
        "EXISTS",
        "e0e1f9fabfc9d4800c877a703b823ac0578ff8db",
        "aa",
    ],
    &["SCRIPT", "LOAD", "return 1"],
    &["SCRIPT", "LOAD", "return 1"],
    &[
        "SCRIPT",
        "EXISTS",
        "E0E1F9FABFC9D4800C877A703B823AC0578FF8DB",
        "aa",
    ],
    &["EVALSHA", "E0E1F9FABFC9D4800C877A703B823AC0578FF8DB", "0"],
    &[
        "EVALSHA_RO",
        "e0e1f9fabfc9d4800c877a703b823ac0578ff8db",
        "0",
    ],
    &["SCRIPT", "LOAD", "xx yy"],
    &["SCRIPT", "FLUSH", "x"],
    &["SCRIPT", "FLUSH", "ASYNC"],
    &["EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"],
    &["SCRIPT", "FLUSH"],
    &["SCRIPT", "KILL"],
    &["SCRIPT", "NOSUCH"],
    &["SCRIPT"],
    &[
        "EVAL_RO",
        "return redis.call('set', KEYS[1], 'v')",
        "1",
        "a",
    ],
    &["EVAL_RO", "return redis.call('get', KEYS[1])", "1", "a"],
    &["EVAL_RO", "#!lua\nreturn 1", "0"],
    &["EVAL_RO", "#!lua flags=no-writes\nreturn 1", "0"],
    &[
        "EVAL",
        "return redis.call('set', KEYS[1], ARGV[1], 'PX', 100000)",
        "1",
        "a",
        "\u{0}x",
    ],
    &[
        "EVAL",
        "return redis.call('set', KEYS[1], ARGV[1], 'NX')",
        "1",
        "a",
        "b",
    ],
    &["MULTI"],
    &["EVAL", "return redis.call('incr', 'n')", "0"],
    &["EVAL", "return redis.call('nosuch')", "0"],
    &["EVALSHA", "aa", "0"],
    &["EXEC"],
    &["COMMAND", "GETKEYS", "EVAL", "return 1", "2", "a", "b", "c"],
    &["COMMAND", "GETKEYS", "EVAL", "return 1", "0"],
    &["COMMAND", "GETKEYS", "ZUNION", "0", "a"],
    &["EVAL_RO", "return redis.call('publish', 'c', 'm')", "0"],
    &["EVAL_RO", "return redis.call('pfcount', 'c')", "0"],
];

struct Pair {
    redis: Client,
    node: Client,
    unlike: String,
}

impl Pair {
    fn new(redis: &Redis, node: &TestNode, protocol: u8) -> Self {
        let mut pair = Self {
            redis: redis.client(),
            node: node.client(),
            unlike: String::new(),
        };
        for client in [&mut pair.redis, &mut pair.node] {
            assert!(!client.ask("FLUSHALL").is_error());
            assert!(!client.ask("SCRIPT FLUSH").is_error());
            assert!(!client.ask(&format!("HELLO {protocol}")).is_error());
        }
        pair
    }

    fn compare(&mut self, words: &[&str]) {
        let bytes: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
        let (redis, node) = (self.redis.ask_words(&bytes), self.node.ask_words(&bytes));
        if redis != node {
            self.unlike.push_str(&format!(
                "{words:?}\n  redis: {redis:?}\n  here:  {node:?}\n"
            ));
        }
    }
}

#[test]
fn scripts_are_answered_as_redis_answers_them() {
    let redis = Redis::start();
    let node = TestNode::start();
    for protocol in [2, 3] {
        let mut pair = Pair::new(&redis, &node, protocol);
        for script in SCRIPTS {
            pair.compare(&["EVAL", script, "0"]);
        }
        for command in COMMANDS {
            pair.compare(command);
        }
        assert!(
            pair.unlike.is_empty(),
            "protocol {protocol}:\n{}",
            pair.unlike
        );
    }
}

/// A statement of a random script.
fn statement(random: &mut Random) -> String {
    const COMMANDS: &[&str] = &[
        "'set', KEYS[1], ARGV[1]",
        "'get', KEYS[1]",
        "'get', KEYS[2]",
        "'incr', KEYS[1]",
        "'incrby', KEYS[2], 3",
        "'incrbyfloat', KEYS[1], 0.5",
        "'append', KEYS[1], ARGV[2]",
        "'strlen', KEYS[1]",
        "'del', KEYS[1], KEYS[2]",
        "'exists', KEYS[1], KEYS[1]",
        "'rpush', KEYS[3], 'a', 1, 2.5",
        "'lpop', KEYS[3]",
        "'lrange', KEYS[3], 0, 3",
        "'llen', KEYS[3]",
        "'hset', KEYS[4], 'f', ARGV[1]",
        "'hget', KEYS[4], 'f'",
        "'hgetall', KEYS[4]",
        "'zadd', KEYS[5], 1.5, 'm'",
        "'zscore', KEYS[5], 'm'",
        "'zrange', KEYS[5], 0, -1, 'withscores'",
        "'mget', KEYS[1], KEYS[2], KEYS[3]",
        "'type', KEYS[3]",
        "'expire', KEYS[1], 1000",
        "'persist', KEYS[1]",
        "'set', KEYS[1]",
        "'sort', KEYS[3]",
        "'setrange', KEYS[1], -1, 'x'",
        "'lrem', KEYS[3], 'x', 'y'",
    ];
    let mut one = |of: &[&'static str]| of[random.below(of.len())];
    let command = one(COMMANDS);
    let call = one(&["call", "call", "call", "pcall"]);
    match one(&["plain", "plain", "kept", "caught", "type", "json", "resp"]) {
        "plain" => {
            format!("local r = redis.{call}({command}) if r ~= nil then out[#out + 1] = r end")
        }
        "kept" => format!("redis.{call}({command})"),
        "caught" => format!(
            "local ok, e = pcall(redis.{call}, {command}) out[#out + 1] = ok if type(e) == 'string' then out[#out + 1] = e end"
        ),
        "type" => format!("out[#out + 1] = type(redis.{call}({command}))"),
        "json" => format!(
            "local r = redis.{call}({command}) if type(r) ~= 'table' then out[#out + 1] = cjson.encode(r) end"
        ),
        _ => format!(
            "redis.setresp(3) local r = redis.{call}({command}) redis.setresp(2) if r then out[#out + 1] = r end"
        ),
    }
}

#[test]
fn random_scripts_are_answered_as_redis_answers_them() {
    let redis = Redis::start();
    let node = TestNode::start();
    for (protocol, seed) in [(2, 0x5C_0001), (3, 0x5C_0002)] {
        let mut pair = Pair::new(&redis, &node, protocol);
        let mut random = Random(seed);
        for _ in 0..RANDOM_SCRIPTS / 2 {
            let lines: Vec<String> = (0..1 + random.below(5))
                .map(|_| format!("do {} end", statement(&mut random)))
                .collect();
            let script = format!("local out = {{}}\n{}\nreturn out", lines.join("\n"));
            let argument = random.below(20).to_string();
            let keys = ["k1", "k2", "k3", "k4", "k5"];
            let key = keys[random.below(5)];
            pair.compare(&[
                "EVAL", &script, "5", "k1", key, "k3", "k4", "k5", &argument, "x",
            ]);
            if !pair.unlike.is_empty() {
                break;
            }
        }
        assert!(
            pair.unlike.is_empty(),
            "protocol {protocol}:\n{}",
            pair.unlike
        );
    }
}

/// Others never see a part of a script, on however many threads, and each thread finds what another has loaded.
#[test]
fn scripts_are_one_to_all_threads() {
    const ROUNDS: usize = 300;
    let node = TestNode::with(|config| config.threads = Some(4));
    let address = node.address;
    let load = "local n = redis.call('incr', 'x') redis.call('incr', 'y') redis.call('set', 'z', n) return n";
    let sha = node
        .client()
        .ask_words(&[b"SCRIPT", b"LOAD", load.as_bytes()])
        .text();
    let readers = EqualReaders::start(address, 1, "MGET x y z");
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let sha = sha.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(address);
                for _ in 0..ROUNDS {
                    let reply = client.ask(&format!("EVALSHA {sha} 0"));
                    assert!(reply.text().starts_with(':'), "{reply:?}");
                }
            })
        })
        .collect();
    writers.into_iter().for_each(|w| w.join().unwrap());
    readers.stop();
    assert_eq!(node.client().ask("GET x").text(), (3 * ROUNDS).to_string());
}

/// A node and two connections on unlike threads.
fn busy_node() -> (TestNode, Client, Client) {
    let node = TestNode::start();
    let (mut one, mut two) = (node.client(), node.client());
    // Connections go to the thread that has the fewest.
    assert_eq!(one.ask("CONFIG SET busy-reply-threshold 20").text(), "+OK");
    assert_eq!(two.ask("CONFIG GET lua-time-limit").items()[1].text(), "20");
    (node, one, two)
}

#[test]
fn a_script_that_takes_long_and_wrote_nothing_is_killed() {
    const BUSY: &str =
        "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";
    let (node, mut one, mut two) = busy_node();
    assert_eq!(
        two.ask("SCRIPT KILL").text(),
        "-NOTBUSY No scripts in execution right now."
    );
    for script in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do redis.call('get', 'x') end",
        "local f = function() while true do end end while true do local co = coroutine.create(f) coroutine.resume(co) end",
    ] {
        let mut command = Vec::new();
        cache_node::store::effect::write_command(&mut command, &[b"EVAL", script.as_bytes(), b"0"]);
        assert_eq!(two.ask("MULTI").text(), "+OK");
        assert_eq!(two.ask("INCR n").text(), "+QUEUED");
        one.send(&command);
        wait_for("the script takes long", || {
            node.node.scripting.running.is_busy()
        });
        // A transaction ends without having been executed.
        let aborted = format!(
            "-EXECABORT Transaction discarded because of: {}",
            &BUSY[1..]
        );
        assert_eq!(two.ask("EXEC").text(), aborted);
        for command in ["GET a", "PING", "MGET a b", "DBSIZE"] {
            assert_eq!(two.ask(command).text(), BUSY, "{command}");
        }
        assert_eq!(two.ask("SCRIPT KILL").text(), "+OK");
        let reply = one.reply().unwrap().text();
        assert!(
            reply.starts_with("-ERR Script killed by user with SCRIPT KILL... script: "),
            "{reply}"
        );
        assert_eq!(
            two.ask("MGET a n").items(),
            [Reply::Bulk(None), Reply::Bulk(None)]
        );
        assert_eq!(one.ask("SET a 1").text(), "+OK");
        assert_eq!(one.ask("DEL a").text(), ":1");
        // The thread's next script is as the first.
        let again = one.ask_words(&[b"EVAL", b"return redis.call('get', 'a')", b"0"]);
        assert_eq!(again, Reply::Bulk(None));
    }
}

/// Connections end, and a thread that looks after their waits and prefixes is not held up by the script.
#[test]
fn clients_that_leave_do_not_wait_for_a_script_that_takes_long() {
    let (node, mut one, mut two) = busy_node();
    // On both threads, so on the one that the script leaves alone too.
    let clients: Vec<Client> = (0..8).map(|_| node.client()).collect();
    let clients = clients.into_iter().enumerate().map(|(i, mut client)| {
        if i / 2 % 2 == 0 {
            client.send(b"BLPOP nothing 0\r\n");
        } else {
            client.ask("HELLO 3");
            let on = client.ask("CLIENT TRACKING ON BCAST");
            assert_eq!(on.text(), "+OK");
        }
        client
    });
    let clients: Vec<Client> = clients.collect();
    wait_for("four wait", || node.node.blocked.count() == 4);
    let mut command = Vec::new();
    let script = b"while true do end";
    cache_node::store::effect::write_command(&mut command, &[b"EVAL", script, b"0"]);
    one.send(&command);
    wait_for("the script takes long", || {
        node.node.scripting.running.is_busy()
    });
    drop(clients);
    // The script's own thread has half of them at most.
    wait_for("those of other threads are gone", || {
        node.node.clients.len() <= 6
    });
    assert!(two.ask("GET a").text().starts_with("-BUSY "));
    assert_eq!(two.ask("SCRIPT KILL").text(), "+OK");
    assert!(one.reply().unwrap().is_error());
    wait_for("nobody waits", || node.node.blocked.count() == 0);
    assert_eq!(two.ask("RPUSH nothing a").text(), ":1");
    assert_eq!(two.ask("LLEN nothing").text(), ":1");
}

#[test]
fn a_script_that_has_written_is_not_killed() {
    let (node, mut one, mut two) = busy_node();
    let script =
        "redis.call('set', 'a', 1) local t = os.clock() while os.clock() - t < 0.5 do end return 7";
    let mut command = Vec::new();
    cache_node::store::effect::write_command(&mut command, &[b"EVAL", script.as_bytes(), b"0"]);
    one.send(&command);
    wait_for("the script takes long", || {
        node.node.scripting.running.is_busy()
    });
    let reply = two.ask("SCRIPT KILL").text();
    // Half a second of the processor may be over by now.
    assert!(
        reply.starts_with("-UNKILLABLE ") || reply.starts_with("-NOTBUSY "),
        "{reply}"
    );
    assert_eq!(one.reply().unwrap().text(), ":7");
    assert_eq!(two.ask("GET a").text(), "1");
}

/// `bar` is in slot 5061, `foo` in 12182, which is another's.
#[test]
fn a_members_scripts_keep_to_the_slot_they_declare() {
    let member = Member::start();
    member.push(1);
    let mut client = member.node.client();
    let mut eval = |words: &[&str]| {
        let words: Vec<&[u8]> = words.iter().map(|w| w.as_bytes()).collect();
        client.ask_words(&words).text()
    };
    let set = "return redis.call('set', ARGV[1], 1)";
    let refused = "-ERR Script attempted to access a non local key in a cluster node script: ";
    assert_eq!(eval(&["EVAL", set, "1", "bar", "bar"]), "+OK");
    assert_eq!(eval(&["EVAL", set, "1", "bar", "{bar}x"]), "+OK");
    for (keys, key) in [
        (&["1", "bar"][..], "foo"),
        (&["1", "bar"], "{user1000}x"),
        (&["0"], "foo"),
    ] {
        let words = [&["EVAL", set], keys, &[key]].concat();
        assert!(eval(&words).starts_with(refused), "{words:?}");
    }
    // Without keys any of this node's may be used.
    assert_eq!(eval(&["EVAL", set, "0", "{user1000}x"]), "+OK");
    assert_eq!(
        eval(&["EVAL", set, "1", "foo", "foo"]),
        "-MOVED 12182 o-0.test:7001"
    );
    assert_eq!(
        eval(&["EVAL", set, "2", "bar", "{user1000}x", "bar"]),
        "-CROSSSLOT Keys in request don't hash to the same slot"
    );
    let cross = format!("#!lua flags=allow-cross-slot-keys\n{set}");
    assert_eq!(eval(&["EVAL", &cross, "1", "bar", "{user1000}x"]), "+OK");
    assert_eq!(
        eval(&["EVAL", "#!lua flags=no-cluster\nreturn 1", "0"]),
        "-ERR Can not run script on cluster, 'no-cluster' flag is set."
    );
    // Another slot is served while a script holds its own.
    assert_eq!(
        eval(&["EVAL", "return redis.call('get', 'bar')", "1", "bar"]),
        "1"
    );
}

#[test]
fn full_memory_refuses_scripts_that_would_take_more_of_it() {
    let node = TestNode::with(|config| config.max_memory = 8 << 20);
    let mut client = node.client();
    let value = "x".repeat(4096);
    let mut i = 0;
    while !client.ask(&format!("SET f{i} {value}")).is_error() {
        i += 1;
    }
    let mut eval = |script: &str| client.ask_words(&[b"EVAL", script.as_bytes(), b"0"]).text();
    assert!(eval("return redis.call('set', 'b', 1)").starts_with("-OOM command not allowed"));
    assert!(
        eval("#!lua\nreturn redis.call('set', 'b', 1)")
            .starts_with("-OOM allow-oom flag is not set")
    );
    assert_eq!(eval("return redis.call('exists', 'b')"), ":0");
    assert_eq!(
        eval("redis.call('del', 'f0') return redis.call('set', 'b', 1)"),
        "+OK"
    );
    // A script's own memory has a limit too, and what it took is given back.
    let reply = eval("local t = {} for i = 1, 1e9 do t[i] = tostring(i) end");
    assert!(reply.starts_with("-ERR not enough memory"), "{reply}");
    assert_eq!(eval("return 1"), ":1");
}

/// What a script writes reaches followers, slot moves and copies as one record, up to an error in its middle; the script itself does not.
#[test]
fn what_a_script_writes_is_one_record_of_the_log() {
    let member = Member::start();
    member.push(1);
    let node = member.node.node.clone();
    node.log.activate(&node.store);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let from = runtime.block_on(node.log.settle()).offset;
    let mut reader = node.log.reader(from).unwrap();
    let mut client = member.node.client();
    for script in [
        "redis.call('set', KEYS[1], 1) redis.call('incr', KEYS[1]) return redis.call('rpush', '{bar}l', 'a')",
        "return redis.call('get', KEYS[1])",
        "redis.call('set', KEYS[1], 'x') return redis.call('incr', KEYS[1])",
    ] {
        client.ask_words(&[b"EVAL", script.as_bytes(), b"1", b"bar"]);
    }
    let to = runtime.block_on(node.log.settle()).offset;
    let mut records = Vec::new();
    while reader.offset() < to {
        let piece = runtime.block_on(reader.next(1 << 20)).unwrap().bytes;
        let mut bytes = &piece[..];
        while let Some((length, rest)) = bytes.split_at_checked(4) {
            let length = u32::from_le_bytes(length.try_into().unwrap()) as usize;
            records.push(rest[..length].to_vec());
            bytes = &rest[length..];
        }
    }
    let mut expected: [Vec<u8>; 2] = Default::default();
    let mut expect = |record: usize, words: &[&[u8]]| {
        cache_node::store::effect::write_command(&mut expected[record], words);
    };
    expect(0, &[b"SET", b"bar", b"1"]);
    expect(0, &[b"SET", b"bar", b"2"]);
    expect(0, &[b"RPUSH", b"{bar}l", b"a"]);
    expect(1, &[b"SET", b"bar", b"x"]);
    let shown = |records: &[Vec<u8>]| -> Vec<String> {
        let text = |record: &Vec<u8>| record.escape_ascii().to_string();
        records.iter().map(text).collect()
    };
    assert_eq!(shown(&records), shown(&expected));
}

/// Errors are counted once, by their first word, however they come out of a script.
#[test]
fn errors_of_scripts_are_counted_as_redis_counts_them() {
    const STEPS: &[&[&str]] = &[
        &["GET"],
        &["NOSUCH"],
        &["SET", "text", "x"],
        &["INCR", "text"],
        &["LPUSH", "text", "x"],
        &["EVAL", "return redis.call('incr', 'text')", "0"],
        &["EVAL", "return redis.pcall('incr', 'text')", "0"],
        &["EVAL", "redis.pcall('lpush', 'text', 'x') return 1", "0"],
        &["EVAL", "return {1, redis.pcall('lpush', 'text', 'x')}", "0"],
        &["EVAL", "return redis.error_reply('MINE a')", "0"],
        &["EVAL", "return redis.error_reply('')", "0"],
        &["EVAL", "return redis.status_reply('MINE a')", "0"],
        &["EVAL", "error({err='OTHER a'})", "0"],
        &["EVAL", "redis.call('get')", "0"],
        &["EVAL", "redis.call('nosuch')", "0"],
        &["EVAL", "redis.pcall('eval', 'return 1', 0)", "0"],
        &["EVAL_RO", "redis.call('set', 'text', 'y')", "0"],
        &["EVAL_RO", "redis.pcall('set', 'text', 'y')", "0"],
        &["EVAL", "xx yy", "0"],
        &["EVALSHA", "aa", "0"],
        &["MULTI"],
        &["INCR", "text"],
        &["EVAL", "return redis.call('incr', 'text')", "0"],
        &["GET"],
        &["EXEC"],
        &["MULTI"],
        &["INCR", "text"],
        &["EVAL", "return redis.call('incr', 'text')", "0"],
        &["EXEC"],
    ];
    let redis = Redis::start();
    let node = TestNode::start();
    let mut pair = Pair::new(&redis, &node, 2);
    let counts = |client: &mut Client| {
        let mut lines = Vec::new();
        for section in ["errorstats", "stats", "commandstats"] {
            let text = client.ask(&format!("INFO {section}")).text();
            let counts = |line: &&str| {
                let asked = [
                    "cmdstat_eval",
                    "cmdstat_eval_ro",
                    "cmdstat_set",
                    "cmdstat_incr",
                    "cmdstat_get",
                    "cmdstat_lpush",
                ];
                let name = line.split(':').next().unwrap_or_default();
                name.starts_with("errorstat_")
                    || name == "total_error_replies"
                    || asked.contains(&name)
            };
            // Times are left out.
            let without_times = |line: &str| {
                let (name, fields) = line.split_once(':').unwrap();
                let fields: Vec<&str> = fields
                    .split(',')
                    .filter(|f| !f.starts_with("usec"))
                    .collect();
                format!("{name}:{}", fields.join(","))
            };
            let mut of_section: Vec<String> =
                text.lines().filter(counts).map(without_times).collect();
            of_section.sort();
            lines.extend(of_section);
        }
        lines
    };
    let mut queues = false;
    for step in STEPS {
        if !queues {
            for client in [&mut pair.redis, &mut pair.node] {
                assert_eq!(client.ask("CONFIG RESETSTAT").text(), "+OK");
            }
        }
        pair.compare(step);
        // In a transaction nothing but its commands is sent.
        queues = (queues || step[0] == "MULTI") && step[0] != "EXEC";
        if !queues {
            assert_eq!(counts(&mut pair.node), counts(&mut pair.redis), "{step:?}");
        }
    }
    assert!(pair.unlike.is_empty(), "{}", pair.unlike);
}
